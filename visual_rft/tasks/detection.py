"""Detection: one category asked in one image, answered by a list of boxes or `No Objects`.

Axes: P examples, G completions an example, N boxes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

import numpy as np

from visual_rft.boxes import pixels_to_norm1000, xywh_to_xyxy
from visual_rft.metrics.detection import DetectionMetrics, ScoredQuery, detection_metrics
from visual_rft.parsing import parse_detection
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions, weigh
from visual_rft.vocabulary import AnnotatedImage, Box, Detection, DetectionTruth, Example, Reward

QUESTION = (
    "Find every {category} in the image. Think first inside <think> </think>, then answer inside <answer> </answer> with a list such as "
    "[{{'Position': [left, top, right, bottom], 'Confidence': 0.95}}], in thousandths of the width and the height, or with No Objects."
)


class Present(StrEnum):
    """Which categories a test image is asked about."""

    ground_truth = "ground_truth"  # those in it: what is measured is drawing
    all = "all"  # every one: saying `No Objects` rightly is measured as well


@dataclass
class DetectionOptions:
    """`shots` images a category are trained on; `negatives` is the share of further questions about a category that is not in the image."""

    name: str
    shots: int
    negatives: float
    present: Present

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError(f"task.shots={self.shots}: must be at least 1")
        if not 0 <= self.negatives < inf:
            raise ValueError(f"task.negatives={self.negatives}: must be 0 or a positive number")


class DetectionTask:
    """Rewards and metrics of detection answers."""

    def __init__(self, categories: Sequence[str], rewards: RewardOptions) -> None:
        self.categories = categories
        self._family: Callable[..., Reward] = {Family.strict: strict.detection, Family.paper: paper.detection}[rewards.family]
        self._iou_threshold = rewards.iou_threshold
        self._weights = weigh(("iou", "confidence", "format"), rewards.weights)

    def reward(self, text: str, example: Example) -> Reward:
        """Every part a completion earned."""
        return self._family(text, example.truth, iou_threshold=self._iou_threshold)

    def total(self, reward: Reward) -> float:
        """The weighted sum of the parts: what GRPO sees."""
        return sum(self._weights[name] * value for name, value in reward.parts.items())

    def evaluate(self, examples: Sequence[Example], texts: Sequence[str]) -> DetectionMetrics:
        """Metrics of one answer to each example; what cannot be parsed counts as missed."""
        queries = [
            ScoredQuery(e.image_id, e.category, e.image.width, e.image.height, e.truth.boxes, parse_detection(text))
            for e, text in zip(examples, texts, strict=True)
        ]
        return detection_metrics(queries, self.categories)


def example(image: AnnotatedImage, category: str) -> Example:
    """The question whether and where `category` is in `image`, with its truth in norm1000."""
    width, height = image.image.size
    boxes = [a.bbox_xywh for a in image.annotations if a.category == category]
    corners_N4 = pixels_to_norm1000(xywh_to_xyxy(np.asarray(boxes, dtype=float).reshape(-1, 4)), width=width, height=height)
    truth = tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in corners_N4)
    return Example(
        id=f"{image.id}/{category}",
        image_id=image.id,
        image=image.image,
        category=category,
        question=QUESTION.format(category=category),
        truth=DetectionTruth(truth),
    )


def questions(images: Iterable[AnnotatedImage], categories: Sequence[str], present: Present) -> list[Example]:
    """The questions of an evaluation, image by image, in the order of `categories`."""
    return [
        example(image, category)
        for image in images
        for category in categories
        if present is Present.all or any(a.category == category for a in image.annotations)
    ]


def render(detections: Sequence[Detection], thinking: str) -> str:
    """The completion that says `detections`: what supervised tuning teaches. The inverse of `parse_detection`, thinking apart."""
    listed = ", ".join(f"{{'Position': [{', '.join(f'{v:.0f}' for v in d.box)}], 'Confidence': {d.confidence:.2f}}}" for d in detections)
    return f"<think> {thinking} </think> <answer> {f'[{listed}]' if detections else 'No Objects'} </answer>"


def thinking(category: str, boxes: Sequence[Box]) -> str:
    """The short reasoning that the embedded base model is taught: roughly where each object is, in the order of the answer."""
    places = [f"{_third(y1 + y2, ('top', 'middle', 'bottom'))} {_third(x1 + x2, ('left', 'center', 'right'))}" for x1, y1, x2, y2 in boxes]
    return f"{category}: {', '.join(places) or 'none'}."


def _third(doubled_center: float, names: tuple[str, str, str]) -> str:
    return names[min(int(doubled_center * 3 / 2000), 2)]
