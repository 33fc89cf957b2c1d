"""The data of a task: what is in them and wrong with them, the split drawn from them, what a model is shown of them, and a data set made of them.

    python -m visual_rft.data check task=fsod_coco                          every problem, with file and row
    python -m visual_rft.data split task=fsod_coco task.shots=4 seed=1 out=coco_4_shot.json
    python -m visual_rft.data show task=fsod_coco out=samples.html          labelled samples with their very prompts and what they cost in tokens
    python -m visual_rft.data build task=fsod_coco out=train.parquet        rows of image, problem and solution, as the hub has them

Results are on stdout. `check` exits with 2 when it has found a problem.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING
from PIL import Image

from visual_rft import workload
from visual_rft.config import Job, start
from visual_rft.frames import NORM1000, Speaks
from visual_rft.images import ImageSet, StoredImage
from visual_rft.inspection import Inspection, Looked, Part, inspect
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.models.processor import IMAGE_PAD, Processor
from visual_rft.sources.image_file import HANDLED
from visual_rft.sources.options import DataOptions
from visual_rft.sources.rows import write_rows
from visual_rft.tasks.meant import TEST_DATA, TRAINING, MeantFor
from visual_rft.tasks.task import TaskOptions, check_split
from visual_rft.tasks.wording import completion, solution
from visual_rft.tracking.console import Console, print_table
from visual_rft.tracking.runfolder import write_atomically
from visual_rft.tracking.samples import COLUMNS, Sample, rows, write_samples
from visual_rft.vocabulary import Example

PLAIN = ("JPEG", "PNG", "WEBP")  # formats that every reader of a data set knows


@dataclass
class DataConfig(MeantFor):
    """Whose data. No model is read, and so boxes are in thousandths, but for `show`."""

    task: TaskOptions = MISSING
    data: DataOptions = MISSING
    seed: int = MISSING
    unread_keys: ClassVar[tuple[str, ...]] = ("task.presence", "task.iou_threshold", "task.segmenter")


@dataclass
class CheckConfig(DataConfig):
    """Which images are opened, and the JSON file to write."""

    images: Looked = MISSING
    out: str | None = None


@dataclass
class SplitConfig(DataConfig):
    """The file to write."""

    unread_keys: ClassVar[tuple[str, ...]] = (*DataConfig.unread_keys, "task.present", "task.wording", "task.thinking", *TEST_DATA)
    out: str = MISSING


@dataclass
class BuildConfig(DataConfig):
    """Which part, and the parquet file to write."""

    part: Part = MISSING
    out: str = MISSING


@dataclass
class ShowConfig(DataConfig):
    """Which part, how many samples of it, for which model, and the page to write."""

    unread_keys: ClassVar[tuple[str, ...]] = (*DataConfig.unread_keys, *(key for key in TRAINING if key.startswith("model.")))
    part: Part = MISSING
    count: int = MISSING
    out: str = MISSING
    model: ModelOptions = MISSING

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: must be at least 1")


VERBS: dict[str, type[DataConfig]] = {"check": CheckConfig, "split": SplitConfig, "show": ShowConfig, "build": BuildConfig}


def run(job: Job[Any]) -> None:
    """What was asked for."""
    check_split(job.config.task, job.typed)
    match job.config:
        case CheckConfig() as c:
            check(c)
        case SplitConfig() as c:
            split(c)
        case ShowConfig() as c:
            show(c)
        case BuildConfig() as c:
            build(c)


def check(c: CheckConfig) -> None:
    """What both parts hold, and each fault, a line each, on stdout. Raises ValueError at the end when there was one."""
    out = _in_a_folder(c.out) if c.out else None
    found = [inspect(c.task, c.data, part, c.images, _stage) for part in Part]
    if out:
        _write(out, json.dumps([one.plain() for one in found], indent=2) + "\n")
    for one in found:
        _print(one)
    faults = sum(len(one.faults) for one in found)
    if faults:
        raise ValueError(f"{faults} problem{'s' * (faults > 1)} in the data of {c.task.name}; each is named above, with its file and row")


@contextmanager
def _stage(name: str, total: int) -> Iterator[Callable[[int], None]]:
    with Console(0) as console, console.stage(name, total) as advance:
        yield advance


def _print(one: Inspection) -> None:
    print(f"{one.part}: {one.images} images, {one.objects} objects, {one.questions} questions" + (f"; {one.place}" if one.place else ""))
    shown = [(name, str(images), str(objects)) for name, (images, objects) in one.by_category.items() if images]
    if shown:
        print_table(("category", "images", "objects"), shown)
    for kind, times in one.handled.items():
        print(f"{times} × {kind}")
    for fault in one.faults:
        print(f"problem: {fault}")
    print()


def split(c: SplitConfig) -> None:
    """Draws the split, and writes it."""
    out = _new(c.out)
    examples = _examples(c, Part.train, lambda _: NORM1000, may_be_rows=False)
    drawn = workload.split(c.task, examples)
    _write(out, json.dumps(drawn, indent=2) + "\n")
    subjects = Counter(example.subject or str(example.truth) for example in examples)
    print_table(("subject", "images"), [(one, str(subjects[one])) for one in sorted(subjects)])
    print(f"{out}: {len(examples)} examples, fingerprint {drawn['fingerprint'][:16]}; give it back with task.split={out}")


def build(c: BuildConfig) -> None:
    """Writes the questions of a part with their images and solutions."""
    out = _new(c.out)
    examples = _examples(c, c.part, lambda _: NORM1000)
    for example in examples:
        if len(example.images) > 1:
            raise ValueError(f"row {example.id}: shows several images, which is not written; take such rows out")
    write_rows(_rows(examples), out)
    print(f"{out}: {len(examples)} rows, {out.stat().st_size / 2**20:.1f} MB")


def _rows(examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    """One at a time: no more than one image is in memory."""
    for example in examples:
        category = {"category": example.subject} if example.subject else {}
        yield {"image": _file(example.asked_about), "problem": example.question, "solution": solution(example.truth), **category}


def _file(image: StoredImage) -> tuple[bytes, str]:
    """The file as it is, if every reader will see in it what the labels are about; else a PNG of the pixels."""
    pixels, content = image.open(), image.content()
    with Image.open(io.BytesIO(content)) as stored:
        plain = stored.format in PLAIN and not pixels.info.get(HANDLED)
    if plain:
        return content, image.name
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    return buffer.getvalue(), f"{Path(image.name).stem}.png"


def show(c: ShowConfig) -> None:
    """Writes the page; the first prompt and what each sample costs go to stdout."""
    out = _new(c.out)
    examples = _examples(c, c.part, loading.speaks(c.model))
    step = max(len(examples) // c.count, 1)
    processor = Processor.load(loading.folder(c.model.path), min_pixels=c.model.min_pixels, max_pixels=c.model.max_pixels)
    samples = [_sample(processor, example) for example in examples[::step][: c.count]]
    write_samples(out, f"{c.task.name}, {c.part}: {len(samples)} of {len(examples)} questions, as {c.model.name} reads them", samples)
    print(f"{samples[0].prompt}{samples[0].answer}\n")
    print_table(COLUMNS, rows(samples))
    print(f"{out}: {len(samples)} of {len(examples)} questions")


def _sample(processor: Processor, example: Example) -> Sample:
    grid_I3 = processor.pixels([image.open() for image in example.images]).grid_I3
    tokens_S = processor.prompt(example.question, grid_I3)
    cells = (grid_I3.prod(-1) // processor.images.merge_size**2).tolist()
    prompt = processor.decode(tokens_S)
    for count in cells:
        prompt = prompt.replace(IMAGE_PAD * count, f"{IMAGE_PAD}×{count}", 1)
    answer = completion("…" if example.contract.thinking else None, solution(example.truth, tagged=False))
    return Sample(example, prompt, answer, sum(cells), len(tokens_S), len(processor.encode(answer)))


def _examples(c: DataConfig, part: Part, speaks: Speaks, *, may_be_rows: bool = True) -> Sequence[Example]:
    found = workload.training_data(c.data, c.task.split_seed) if part is Part.train else workload.test_data(c.data)
    if not may_be_rows and not isinstance(found, ImageSet):
        raise ValueError(f"{found.place}: rows of image, problem and solution are a split already; publish them as they are")
    return workload.examples_of(c.task, found, speaks) if part is Part.train else workload.exam_of(c.task, found, speaks).questions


def _new(out: str) -> Path:
    path = _in_a_folder(out)
    if path.exists():
        raise ValueError(f"out={out}: exists; name another file, or delete it")
    return path


def _in_a_folder(out: str) -> Path:
    path = Path(out).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"out={out}: no such folder; name a file that can be written")
    return path


def _write(out: Path, text: str) -> None:
    try:
        write_atomically(out, text)
    except OSError as error:
        raise ValueError(f"out={out}: {error.strerror}; name a file that can be written") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    verb, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    if verb in ("-h", "--help"):
        print(__doc__)
        return 0
    if verb not in VERBS:
        print(f"{verb or 'visual_rft.data'}: give one of {', '.join(VERBS)} first, such as: data check task=fsod_coco", file=sys.stderr)
        return 2
    return start(VERBS[verb], f"data_{verb}", run, arguments, schemas=workload.SCHEMAS)


if __name__ == "__main__":
    sys.exit(main())
