"""Seconds and memory of what is not the model's work: a whole evaluation on a set of COCO's size, and reading a set of LVIS's.

    python benchmarks/bookkeeping.py --json benchmarks/results

`evaluation`: 5,000 images with about 36,000 labels of 80 categories, each asked about every category (task.present=all): 400,000 questions. All that
`visual_rft.evaluate` does but the model's answers: the questions, their fingerprint, the answers kept one by one, parsed and scored, and the files of
the run folder. Answers are made from the truth: most are near it, some miss a box or see one too many, some cannot be read.

`lvis`: 19,809 images with 1,203 categories and 12 labels each, about the numbers of lvis_v1_val.json, outlines included, of 20 to 60 points.

Both data sets are synthesised in $TMPDIR. Each is read in a process of its own: `peak_gb` is the most memory that it has held (VmHWM), what Python
and torch take included. `load` is the machine's load average when it began: what else runs beside it is in the seconds. The musts: an evaluation
within 60 s and 1 GB, LVIS read within 30 s.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import _measure as measure
import numpy as np
from PIL import Image

MUSTS = {"evaluation": {"seconds": 60.0, "peak_gb": 1.0}, "lvis": {"seconds": 30.0}}
SIZES = {"full": {"evaluation": (5_000, 80), "lvis": (19_809, 1_203)}, "tiny": {"evaluation": (30, 8), "lvis": (30, 12)}}
LABELS = {"evaluation": 7.2, "lvis": 12.33}  # an image
POINTS = (20, 60)  # of an outline
WIDTH, HEIGHT = 160, 120  # of COCO's stand-in; LVIS's files are not opened
SEED = 0

Row = dict[str, Any]


def write_coco(root: Path, images: int, categories: int) -> None:
    """`images` JPEGs, and val.json that labels them."""
    rng = np.random.default_rng(SEED)
    (root / "images").mkdir(parents=True)
    rows, annotations = [], []
    for number in range(images):
        coarse = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(root / "images" / f"{number:012d}.jpg")
        rows.append({"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT})
        annotations += [row | {"iscrowd": int(rng.random() < 0.01)} for row in labels(rng, number, categories, LABELS["evaluation"])]
    content = {"images": rows, "annotations": numbered(annotations), "categories": named(categories)}
    (root / "val.json").write_text(json.dumps(content))


def write_lvis(root: Path, images: int, categories: int) -> None:
    """val.json alone."""
    rng = np.random.default_rng(SEED)
    root.mkdir(parents=True)
    rows, annotations = [], []
    for number in range(images):
        known = rng.integers(1, categories + 1, 8)
        where = {"coco_url": f"http://images.cocodataset.org/{'val' if number % 4 else 'train'}2017/{number:012d}.jpg"}
        federation = {"neg_category_ids": known[:6].tolist(), "not_exhaustive_category_ids": known[6:].tolist()}
        rows.append({"id": number, "width": 640, "height": 480} | where | federation)
        annotations += [row | {"segmentation": [outline(rng, row["bbox"])]} for row in labels(rng, number, categories, LABELS["lvis"])]
    frequent = [row | {"frequency": "rcf"[row["id"] % 3], "synonyms": [row["name"]], "def": "a thing"} for row in named(categories)]
    (root / "val.json").write_text(json.dumps({"images": rows, "annotations": numbered(annotations), "categories": frequent}))


def labels(rng: np.random.Generator, image: int, categories: int, mean: float) -> Iterator[Row]:
    """Of one image, of a few categories, as real ones have."""
    few = rng.integers(1, categories + 1, 4)
    for _ in range(int(rng.poisson(mean))):
        (x, y), (w, h) = rng.random(2) * (WIDTH - 12, HEIGHT - 12), rng.exponential(20, 2) + 6
        box = [round(float(value), 2) for value in (x, y, min(w, WIDTH - x), min(h, HEIGHT - y))]
        yield {"image_id": image, "category_id": int(rng.choice(few)), "bbox": box, "area": round(0.7 * box[2] * box[3], 2)}


def outline(rng: np.random.Generator, box: Sequence[float]) -> list[float]:
    """A polygon in a box."""
    points = rng.random((int(rng.integers(*POINTS)), 2)) * box[2:] + box[:2]
    return [round(value, 2) for value in points.ravel().tolist()]


def numbered(annotations: list[Row]) -> list[Row]:
    """With ids."""
    return [row | {"id": number} for number, row in enumerate(annotations, start=1)]


def named(categories: int) -> list[Row]:
    """So many of them."""
    return [{"id": number, "name": f"thing_{number}"} for number in range(1, categories + 1)]


def evaluation(root: Path) -> dict[str, Any]:
    """All of an evaluation that a model has no part in; the seconds of its parts."""
    from visual_rft import workload
    from visual_rft.evaluate import _write
    from visual_rft.evaluation import evaluate
    from visual_rft.frames import NORM1000
    from visual_rft.rewards.options import RewardOptions
    from visual_rft.sources.coco import CocoOptions
    from visual_rft.sources.few_shot import fingerprint
    from visual_rft.tasks.detection import DetectionOptions
    from visual_rft.tasks.presence import Present
    from visual_rft.tasks.wording import Wording
    from visual_rft.tracking.runfolder import KeptAnswers, RunFolder

    asked = DetectionOptions("bookkeeping", None, False, 0, None, Wording.full_1, True, None, None, 0.0, Present.all, None, 0.5)
    data = CocoOptions(str(root), "val.json", "images", None, "val.json", "images")
    parts = Parts()
    exam = parts.timed("questions", lambda: workload.test_exam(asked, data, lambda _: NORM1000))
    facts = parts.timed("fingerprint", lambda: fingerprint(exam.questions))
    folder = RunFolder.create(root / "run", "", {"data": {"test": facts}})
    task = workload.task(asked, RewardOptions())
    kept = KeptAnswers(folder, "evaluation", 0)
    found = parts.timed("answers and scores", lambda: evaluate(task, exam, answers, lambda _: None, kept))
    parts.timed("files", lambda: _write(folder, exam, found))
    folder.write_summary({"metric": found.metric, "value": found.value, "evaluation": found.plain()})
    seconds = sum(parts.seconds.values())
    figures = {"questions": len(exam.questions), "value": found.value, "refused": sum(found.scores.refusals.values())}
    return {"seconds": seconds, "peak_gb": measure.peak_gb(), "parts": parts.seconds, **figures}


def answers(questions: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """What a fair model says: boxes near the truth, some of them missed or too many, now and then nothing that can be read."""
    import torch

    from visual_rft.tasks.wording import completion, detection_answer
    from visual_rft.vocabulary import Completion, Detection

    rng, nothing = np.random.default_rng(SEED), torch.zeros(0)
    for number, question in enumerate(questions):
        luck = rng.random()
        boxes = [box for box in question.truth.boxes if luck < 0.8] + ([(100.0, 100.0, 300.0, 400.0)] if luck > 0.97 else [])
        moved = [np.clip(np.add(box, rng.integers(-15, 16, 4)), 0, 1000).round().tolist() for box in boxes]
        said = [Detection((min(a, c - 1), min(b, d - 1), c, d), round(rng.random(), 2)) for a, b, c, d in moved if c > 0 < d]
        text = completion(f"I look for every {question.subject} in the image.", detection_answer(said))
        yield number, Completion(nothing, nothing, text[: int(len(text) * (0.7 if rng.random() < 0.02 else 1))], finished=True)


def lvis(root: Path) -> dict[str, Any]:
    """The file, read."""
    from visual_rft.sources.coco import read_coco
    from visual_rft.sources.findings import Findings

    parts = Parts()
    found = parts.timed("read", lambda: read_coco(root / "val.json", root, "test", Findings()))
    figures = {"images": len(found.images), "labels": sum(len(image.annotations) for image in found.images), "categories": len(found.category_ids)}
    return {"seconds": parts.seconds["read"], "peak_gb": measure.peak_gb(), "file_mb": (root / "val.json").stat().st_size / 1e6, **figures}


class Parts:
    """Seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, of: Callable[[], Any]) -> Any:
        """What `of` returns."""
        started = time.perf_counter()
        result = of()
        self.seconds[name] = time.perf_counter() - started
        return result


KINDS = {"evaluation": (write_coco, evaluation), "lvis": (write_lvis, lvis)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.parser(__doc__, repeats=1)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the data sets (full)")
    parser.add_argument("--kinds", type=lambda given: given.split(","), default=list(KINDS), help=f"of {', '.join(KINDS)} (both)")
    for hidden, kind in (("--child", str), ("--root", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        found = KINDS[options.child][1](options.root)
        print(json.dumps(found))
        return dict(found)
    figures = {kind: measured(kind, *SIZES[options.size][kind], options.repeats) for kind in options.kinds}
    show(figures)
    result = {"figures": figures, "musts": MUSTS, "size": options.size, "machine": measure.machine()}
    print(json.dumps(result, indent=1))
    if options.json:
        file = measure.target(options.json, "bookkeeping")
        file = file.with_name(file.name.replace("random-6m", "synthetic-coco-lvis"))
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {file}", file=sys.stderr)
    return result


def measured(kind: str, images: int, categories: int, repeats: int) -> dict[str, Any]:
    """Each time in a new process, on the same files."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            root = Path(folder) / str(turn)
            KINDS[kind][0](root, images, categories)
            load = os.getloadavg()[0]
            found.append(measure.child(__file__, "--child", kind, "--root", str(root)) | {"load": load})
    spreads = {key: measure.spread([one[key] for one in found]) for key in ("seconds", "peak_gb")}
    met = {key: spreads[key]["max"] <= most for key, most in MUSTS[kind].items()}
    return spreads | {"met": met} | {key: value for key, value in found[-1].items() if key not in spreads}


def show(figures: dict[str, dict[str, Any]]) -> None:
    """A line a kind, on stderr: stdout is JSON."""
    for kind, found in figures.items():
        musts = ", ".join(f"{key} {found[key]['max']:.2f} of {most:g}: {'yes' if found['met'][key] else 'NO'}" for key, most in MUSTS[kind].items())
        print(f"{kind}: {found['seconds']['median']:.1f} s, {found['peak_gb']['median']:.2f} GB; {musts}; load {found['load']:.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
    sys.exit()
