"""Grounding metrics over questions of one box each: mean IoU, the share of boxes that are good enough, and how many answers could be read."""

from collections.abc import Sequence

from visual_rft.boxes import iou_matrix
from visual_rft.metrics.averages import percent, refusals
from visual_rft.vocabulary import GroundingAnswer, GroundingTruth, Refusal, Scores


def grounding_scores(truths: Sequence[GroundingTruth], answers: Sequence[GroundingAnswer | Refusal]) -> Scores:
    """Score one answer a truth, 0..100; a refused answer has IoU 0.

    mIoU          the mean IoU with the true box, each question the same weight
    accuracy@0.5  the share of answers with IoU ≥ 0.5
    well-formed   the share of answers that parsed

    ValueError on a true box without area, or if there are more truths than answers, or fewer.
    """
    ious = [iou(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    values = {
        "mIoU": percent(ious),
        "accuracy@0.5": percent([one >= 0.5 for one in ious]),
        "well-formed": percent([not isinstance(answer, Refusal) for answer in answers]),
    }
    return Scores(values, {}, refusals(answers))


def iou(truth: GroundingTruth, answer: GroundingAnswer | Refusal) -> float:
    """IoU with the true box, 0 of a refusal. ValueError on a true box without area."""
    return 0.0 if isinstance(answer, Refusal) else float(iou_matrix([truth.box], [answer.box])[0, 0])
