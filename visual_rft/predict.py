"""Ask a model one question about one image: the answer as JSON on stdout, its boxes drawn in a PNG.

    python -m visual_rft.predict image=scene.png category=seven
    python -m visual_rft.predict image=scene.png task=grounding_digits prompt='the leftmost even digit'
    python -m visual_rft.predict image=scene.png task=cls_digits model.path=outputs/…/checkpoints/step_000060 out=seen.png

`task` picks the kind of question: detection asks for a `category`, grounding for what a `prompt` points at, classification needs neither. With
any but grounding a `prompt` is a whole question of your own, asked as it is; the answer may then be a list of boxes, one box, or the task's.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import ClassVar

from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.boxes import convert
from visual_rft.config import Job, start
from visual_rft.frames import Box, Contract, Frame, Original
from visual_rft.hardware import HardwareOptions
from visual_rft.images import StoredImage
from visual_rft.inference import answer
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.parsing import parse_detection, parse_grounding
from visual_rft.rewards.options import RewardOptions
from visual_rft.rollout.options import DecodingOptions
from visual_rft.sources.image_file import read_image
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.meant import SHOTS, TRAINING, MeantFor
from visual_rft.tasks.task import TaskOptions
from visual_rft.tasks.wording import classification_question, detection_question, grounding_question
from visual_rft.tracking.drawing import draw_answer, save_png
from visual_rft.vocabulary import Answer, DetectionTruth, Example, Refusal

Parser = Callable[[str, Contract], Answer | Refusal]


@dataclass
class PredictConfig(MeantFor):
    """`out` is the PNG to write; without it, <name of the image>_answer.png in the current folder."""

    unread_keys: ClassVar[tuple[str, ...]] = (
        *SHOTS,
        "task.negatives",
        "task.trained",
        "task.present",
        "task.presence",
        "task.iou_threshold",
        "task.segmenter",
        *TRAINING,
    )
    unread_keys += ("hardware.decoded_together", "hardware.workers")
    image: str = MISSING
    category: str | None = None
    prompt: str | None = None
    out: str | None = None
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    hardware: HardwareOptions = MISSING
    algorithm: DecodingOptions = MISSING
    seed: int = MISSING


def run(job: Job[PredictConfig]) -> None:
    """From an image and a question to the answer, on stdout and drawn."""
    c = job.config
    image = read_image(Path(c.image).expanduser())
    stored = StoredImage.of(0, image)
    contract = c.task.style(loading.speaks(c.model)).contract(stored)
    subject, question, parsers = ask(c.task, contract, c.category, c.prompt)
    out = _checked(Path(c.out).expanduser() if c.out else Path(f"{Path(c.image).stem}_answer.png"), Path(c.image).expanduser())
    policy, processor = loading.load(c.model, hardware.prepare(c.hardware, c.seed))
    asked = Example("", (stored,), subject, question, DetectionTruth(()), contract)
    ((_, completion),) = answer(policy, processor, [asked], max_tokens=c.algorithm.max_completion_tokens, together=1, workers=0)
    said = read(completion.text, contract, parsers)
    boxes = [] if isinstance(said, Refusal) else _labelled(said, contract.frame, Original(*image.size), c.category or "")
    caption = f"refused: {said.reason}" if isinstance(said, Refusal) else str(said)
    try:
        save_png(out, draw_answer(image, [box for box, _ in boxes], [label for _, label in boxes], caption))
    except OSError as error:
        raise ValueError(f"out={out}: {error.strerror}; name a file that can be written") from error
    refused = str(said.reason) if isinstance(said, Refusal) else None
    shown = {"boxes": [{"xyxy_pixels": list(box), "label": label} for box, label in boxes], "refused": refused, "picture": str(out)}
    plain = None if isinstance(said, Refusal) else said.plain
    print(json.dumps({"question": question, "completion": completion.text, "answer": plain} | shown))


def ask(options: TaskOptions, contract: Contract, category: str | None, prompt: str | None) -> tuple[str, str, Sequence[Parser]]:
    """What the question is about, the question, and how its answer may be read, the likeliest way last.

    Raises ValueError when the task needs a key that is not there, or has no use for one that is.
    """
    own = workload.task(options, RewardOptions()).parse
    for key, text in (("category", category), ("prompt", prompt)):
        if text is not None and not text.strip():
            raise ValueError(f"{key}: empty; say what is asked, or leave it out")
    if category is not None and prompt is not None:
        raise ValueError("category and prompt: two questions; give one of them")
    if category is not None and not isinstance(options, detection.DetectionOptions):
        raise ValueError(f"category={category}: {options.name} asks for no category; {_wanted(options)}")
    if isinstance(options, grounding.GroundingOptions) and prompt is not None:
        return prompt, grounding_question(prompt, options.wording, contract), (own,)
    if prompt is not None:
        return "", prompt, (parse_detection, parse_grounding, own)
    if category is not None:
        return category, detection_question(category, options.wording, contract), (own,)
    if isinstance(options, classification.ClassificationOptions):
        return "", classification_question(options.kind, options.wording, contract), (own,)
    raise ValueError(f"nothing is asked: {_wanted(options)}")


def _wanted(options: TaskOptions) -> str:
    """What a task takes, as a remedy."""
    match options:
        case detection.DetectionOptions():
            return f"{options.name} wants category=… ({', '.join(options.categories or ['any'])}), or a whole question of your own, prompt='…'"
        case grounding.GroundingOptions():
            return f"{options.name} wants what to point at, prompt='the leftmost …'"
    return f"{options.name} needs the image alone, or takes a whole question of your own, prompt='…'"


def read(text: str, contract: Contract, parsers: Sequence[Parser]) -> Answer | Refusal:
    """The answer of the first parser that finds one, else the refusal of the last."""
    said = [parse(text, contract) for parse in parsers]
    return next((one for one in said if not isinstance(one, Refusal)), said[-1])


def _labelled(said: Answer, spoken: Frame, pixels: Frame, name: str) -> list[tuple[Box, str]]:
    """Each box in pixels of the image with what is written at it: what was asked for, and the confidence."""
    boxes_N4 = convert(said.boxes, of=spoken, to=pixels).tolist()
    return [((x1, y1, x2, y2), f"{name} {label}".strip()) for (x1, y1, x2, y2), label in zip(boxes_N4, said.labels, strict=True)]


def _checked(out: Path, image: Path) -> Path:
    """A PNG that can be written: what cannot should come out before the model is loaded. Raises ValueError."""
    remedy = "name a file that can be written, out=….png"
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"out={out}: must be the name of a PNG file; {remedy}")
    if out.resolve() == image.resolve():
        raise ValueError(f"out={out}: is the image itself; {remedy}")
    try:
        TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ValueError(f"out={out}: {error.strerror}; {remedy}") from error
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(PredictConfig, "predict", run, argv, schemas=workload.SCHEMAS)


if __name__ == "__main__":
    sys.exit(main())
