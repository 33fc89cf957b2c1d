"""What questions about one category each tell beyond average precision: how well boxes fit, whether nothing is found where nothing is, and how many
answers could be read. All scores are 0..100, and the order of the questions means nothing to them."""

from collections.abc import Iterable
from dataclasses import dataclass

from visual_rft.boxes import iou_matrix, match
from visual_rft.frames import Box
from visual_rft.metrics.averages import percent
from visual_rft.vocabulary import DetectionAnswer, Refusal


@dataclass(frozen=True, slots=True)
class Query:
    """One question (where is `category` in this image?), its true boxes, xyxy, and what was answered, in the same frame."""

    image_id: int
    category: str
    truth: tuple[Box, ...]
    answer: DetectionAnswer | Refusal


def mean_iou(queries: Iterable[Query]) -> float:
    """The mean over all truths of the IoU with the one prediction matched to it (optimal, no threshold; unmatched is 0); 0 where there are none.

    A refused query still brings its truths, all missed. A frame that scales each axis leaves it as it is. ValueError on a box without area, where
    there is a truth to match.
    """
    return percent([iou for query in queries if query.truth for iou in _truth_ious(query)])


def rightly_empty(queries: Iterable[Query]) -> float | None:
    """The share of queries without truth that were answered by no box at all, which a refusal is not; None where every query has a truth."""
    empty = [isinstance(query.answer, DetectionAnswer) and not query.answer.detections for query in queries if not query.truth]
    return percent(empty) if empty else None


def well_formed(queries: Iterable[Query]) -> float:
    """The share of queries whose answer parsed; 0 where there are none."""
    return percent([not isinstance(query.answer, Refusal) for query in queries])


def fit(query: Query) -> float:
    """What one question's answer is worth, 0..1: the IoUs of `mean_iou`, over as many boxes as there are, true ones or answered ones, whichever are
    more; 1 where there are none of either. A refusal is worth 0. ValueError as in `mean_iou`."""
    if isinstance(query.answer, Refusal):
        return 0.0
    most = max(len(query.truth), len(query.answer.boxes))
    return sum(_truth_ious(query)) / most if most else 1.0


def _truth_ious(query: Query) -> list[float]:
    """The IoU of the prediction matched to each truth, in no order."""
    iou_NM = iou_matrix(() if isinstance(query.answer, Refusal) else query.answer.boxes, query.truth)
    matched = [float(iou_NM[pair]) for pair in match(iou_NM)]
    return matched + [0.0] * (len(query.truth) - len(matched))
