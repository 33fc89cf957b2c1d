"""A question about an image with its answers, as the report and the loggers draw it. Axes: N boxes of an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from visual_rft.boxes import iou_matrix
from visual_rft.frames import NORM1000, Box, Frame
from visual_rft.vocabulary import Answer, Refusal, Truth


@dataclass(frozen=True)
class Picture:
    """One question about an image, its truth, and by name (before, after, …) the answers to it and the completions that hold them; all boxes are in
    `frame`."""

    image: Image
    question: str
    truth: Truth
    answers: Mapping[str, Answer | Refusal]
    texts: Mapping[str, str]
    frame: Frame = NORM1000


def ious(answer: Answer, truth: Sequence[Box]) -> list[float]:
    """Of each box of an answer: its IoU with the true box nearest to it, 0 where there is none."""
    return [float(value) for value in iou_matrix(answer.boxes, truth).max(axis=1, initial=0.0)]


def labels(answer: Answer, truth: Sequence[Box]) -> list[str]:
    """What is written beside each box of an answer: what the answer says of it, such as its confidence, and its IoU with the truth."""
    return [f"{label} IoU {iou:.2f}".lstrip() for label, iou in zip(answer.labels, ious(answer, truth), strict=True)]
