"""Detection: one category asked in one image, answered by a list of boxes or `No Objects`.

Axes: P examples, N boxes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from visual_rft.boxes import xywh_pixels_to_norm1000
from visual_rft.metrics.detection import ScoredQuery, detection_metrics
from visual_rft.parsing import parse_detection
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions, weigh
from visual_rft.tasks.task import Task, TaskOptions, check_names
from visual_rft.tasks.wording import ASKED
from visual_rft.vocabulary import AnnotatedImage, DetectionAnswer, DetectionTruth, Example, Refusal, Scores

QUESTION = (
    f"Find every {{category}} in the image. {ASKED} a list such as [{{{{'Position': [left, top, right, bottom], 'Confidence': 0.95}}}}], "
    "in thousandths of the width and the height, or with No Objects."
)


MOST_NEGATIVES = 100


class Present(StrEnum):
    """Which categories a test image is asked about."""

    ground_truth = "ground_truth"  # those in it: what is measured is drawing
    all = "all"  # every one: saying `No Objects` rightly is measured as well


@dataclass
class DetectionOptions(TaskOptions):
    """Shots are images a category. `categories` are tested; those of `novel` are never trained on (open vocabulary). `negatives` is the share of
    further training questions about a category that is not in the image. A box counts as found, in the rewards, above `iou_threshold`."""

    categories: list[str]
    novel: list[str]
    negatives: float
    present: Present
    iou_threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.negatives <= MOST_NEGATIVES:
            raise ValueError(f"task.negatives={self.negatives}: must lie in 0..{MOST_NEGATIVES}, as a share of the other questions")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"task.iou_threshold={self.iou_threshold}: must be at least 0 and below 1")
        check_names(self.categories)
        for name in self.novel:
            if name not in self.categories:
                raise ValueError(f"task.novel: '{name}' is not among task.categories, {', '.join(self.categories)}")
        if not self.base:
            raise ValueError("task.novel: leaves no category to train on; take some out")

    @property
    def base(self) -> list[str]:
        """The categories that are trained on."""
        return [name for name in self.categories if name not in self.novel]


def task(options: DetectionOptions, rewards: RewardOptions) -> Task:
    """Detection as a task."""
    score = {Family.strict: strict.detection, Family.paper: paper.detection}[rewards.family]
    return Task(
        parse=parse_detection,
        score=partial(score, iou_threshold=options.iou_threshold),
        truth=lambda answer: DetectionTruth(answer.boxes),
        measure=partial(measure, categories=options.categories, novel=options.novel),
        weights=weigh(("iou", "confidence", "format"), rewards.weights),
    )


def measure(examples: Sequence[Example], answers: Sequence[DetectionAnswer | Refusal], *, categories: Sequence[str], novel: Sequence[str]) -> Scores:
    """COCO AP over all categories; where some are novel, over those (the task's metric) and over the others as well; where absent categories are
    asked about, the share of those questions that is rightly answered `No Objects`."""
    queries = [
        ScoredQuery(e.image_id, e.subject, e.image.width, e.image.height, e.truth.boxes, answer) for e, answer in zip(examples, answers, strict=True)
    ]
    m = detection_metrics(queries, categories)
    parts = {"AP novel": [m.ap_by_category[c] for c in m.ap_by_category if c in novel]}
    parts["AP base"] = [m.ap_by_category[c] for c in m.ap_by_category if c not in novel]
    split = {name: sum(values) / max(len(values), 1) for name, values in parts.items()} if novel else {}
    empty = [isinstance(a, DetectionAnswer) and not a.boxes for e, a in zip(examples, answers, strict=True) if not e.truth.boxes]
    values = {"AP": m.ap, "AP50": m.ap50, "AP75": m.ap75, "mean IoU": m.mean_iou}
    values |= {"rightly empty": 100 * sum(empty) / len(empty)} if empty else {}
    return Scores(split | values | {"well-formed": m.well_formed}, m.ap_by_category, m.refusals)


def example(image: AnnotatedImage, category: str) -> Example:
    """The question whether and where `category` is in `image`, with its truth in norm1000."""
    pixels = image.image
    boxes = [a.bbox_xywh for a in image.annotations if a.category == category]
    return Example(
        id=f"{image.id}/{category}",
        image_id=image.id,
        image=pixels,
        subject=category,
        question=QUESTION.format(category=category),
        truth=DetectionTruth(xywh_pixels_to_norm1000(boxes, width=pixels.width, height=pixels.height)),
    )


def questions(images: Iterable[AnnotatedImage], categories: Sequence[str], present: Present) -> list[Example]:
    """The questions of an evaluation, image by image, in the order of `categories`."""
    return [
        example(image, category)
        for image in images
        for category in categories
        if present is Present.all or any(a.category == category for a in image.annotations)
    ]
