"""Ask a model one question about images: each answer as a line of JSON on stdout, its boxes drawn in a PNG.

    python -m visual_rft.predict image=scene.png category=seven
    python -m visual_rft.predict image=scene.png task=grounding_digits prompt='the leftmost even digit'
    python -m visual_rft.predict image=scene.png task=cls_digits model.path=outputs/…/checkpoints/step_000060 out=seen.png
    python -m visual_rft.predict image=photos category=seven out=seen
    python -m visual_rft.predict image='photos/*.jpg' category=seven compare=outputs/…

`task` picks the kind of question: detection asks for a `category`, grounding for what a `prompt` points at, classification needs neither. With
any but grounding a `prompt` is a whole question of your own, asked as it is; the answer may then be a list of boxes, one box, or the task's.

`image` is a file, a folder (its images, not those of folders in it) or a pattern (`**` for folders at any depth). Of several, those that cannot be
opened are named and left out, and the exit code is then 2. `compare` asks a second model, too, and draws both answers side by side.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.hardware import HardwareOptions, Machine
from visual_rft.images import StoredImage
from visual_rft.looking import Put, Question, Said, answers
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.policies import of_run
from visual_rft.rollout.options import DecodingOptions
from visual_rft.sources.image_file import WHOLE, read_image, stored_file
from visual_rft.sources.named_images import named_images, pictures
from visual_rft.tasks.meant import ASKING, SHOTS, TRAINING, MeantFor
from visual_rft.tasks.task import TaskOptions
from visual_rft.tracking.drawing import save_png, side_by_side


@dataclass
class PredictConfig(MeantFor):
    """`out` is the PNG to write, without it <name of the image>_answer.png in the current folder; of a folder or a pattern, the folder of those PNGs,
    without it `answers`. `compare` is the folder of a run or of a model."""

    unread_keys: ClassVar = (*SHOTS, *ASKING, *TRAINING, "task.iou_threshold", "hardware.workers")
    image: str = MISSING
    category: str | None = None
    prompt: str | None = None
    out: str | None = None
    compare: str | None = None
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    hardware: HardwareOptions = MISSING
    algorithm: DecodingOptions = MISSING
    seed: int = MISSING


def run(job: Job[PredictConfig]) -> None:
    """From images and a question to the answers, on stdout and drawn. Raises ValueError at the end when images were left out."""
    c = job.config
    found = named_images(c.image)
    images, faults = _opened(found.files, alone=found.is_one)
    question = Question(c.task, c.category, c.prompt)
    models = [c.model, *([_compared(c)] if c.compare else [])]
    asked = [[question.put(image, speaks) for image in images] for speaks in map(loading.speaks, models)]
    outs = pictures(found, c.out)
    machine = hardware.prepare(c.hardware, c.seed) if images else None
    if machine:
        sides = [_said(c, *side, machine) for side in zip(models, asked, strict=True)]
        heads = [model.path if model is c.model else str(c.compare) for model in models]
        for image, *said in zip(images, *map(list, sides[:-1]), sides[-1], strict=True):
            _show(image, said, heads, outs[Path(image.name)])
    if faults:
        raise ValueError(f"{faults} of {len(found.files)} images {'was' if faults == 1 else 'were'} left out; each is named above")


def _opened(files: Sequence[Path], *, alone: bool) -> tuple[list[StoredImage], int]:
    """Those that are whole images, and how many are not, each of which is named on stderr. Raises ValueError for one that stands alone."""
    images: list[StoredImage] = []
    for number, file in enumerate(files):
        try:
            images.append(stored_file(number, file, str(file), read_image(file).size, WHOLE))
        except ValueError as error:
            if alone:
                raise
            print(f"left out: {error}", file=sys.stderr)
    return images, len(files) - len(images)


def _compared(c: PredictConfig) -> ModelOptions:
    """The second model: what a run has made so far, or a model folder. Raises ValueError where there is neither."""
    folder = Path(str(c.compare)).expanduser()
    if (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir():
        return of_run(folder).model
    try:
        loading.folder(str(c.compare))
    except ValueError as error:
        raise ValueError(f"compare={c.compare}: neither the folder of a run nor of a model; name one of them") from error
    return replace(c.model, path=str(c.compare))


def _said(c: PredictConfig, model: ModelOptions, asked: Sequence[Put], machine: Machine) -> Iterator[Said]:
    """What one model says to all questions; it is loaded when the first is asked, and let go after the last."""
    policy, processor = loading.load(model, machine)
    yield from answers(policy, processor, asked, max_tokens=c.algorithm.max_completion_tokens, together=c.hardware.decoded_together)


def _show(image: StoredImage, said: Sequence[Said], heads: Sequence[str], out: Path) -> None:
    """One line on stdout, and one PNG."""
    pixels = image.open()
    drawn = [one.drawn(pixels) for one in said]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(out, drawn[0] if len(said) == 1 else side_by_side(list(zip(heads, drawn, strict=True))))
    except OSError as error:
        raise ValueError(f"out={out}: {error.strerror}; name a file that can be written") from error
    compared = {"compared": said[1].plain} if len(said) > 1 else {}
    print(json.dumps({"image": image.name} | said[0].plain | {"picture": str(out)} | compared), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(PredictConfig, "predict", run, argv, schemas=workload.SCHEMAS)


if __name__ == "__main__":
    sys.exit(main())
