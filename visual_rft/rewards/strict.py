"""The default rewards: the published ones with every hole closed (`paper.py` keeps them open; `tests/test_rewards*.py` show each).

A refused answer earns 0 in every part. Axes: N predicted boxes, M true ones.
"""

import math
from collections.abc import Mapping, Sequence

from visual_rft.boxes import iou_matrix, match
from visual_rft.frames import CONTRACT, Box, Contract
from visual_rft.parsing import NO_ALIASES, canonical_name, parse_classification, parse_detection, parse_grounding
from visual_rft.vocabulary import ClassTruth, Detection, DetectionTruth, GroundingTruth, Refusal, Reward


def detection(text: str, truth: DetectionTruth, contract: Contract = CONTRACT, *, iou_threshold: float = 0.5) -> Reward:
    """Score a detection answer; the parts, with boxes matched one-to-one and optimally among pairs with IoU > `iou_threshold`:

    iou         Σ IoU of the matched pairs / max(N, M), in 0..1
    confidence  Σ over predictions of 2·c·m - c², m = 1 if matched and else 0, / max(N, M), in -1..1. This is m - (c - m)²: the Brier score,
                shifted so that a box at confidence 0 earns nothing. Greatest in expectation at c = P(matched), so it is never clamped
    format      1 for an answer that parses

    A rightly empty answer scores 1, 1, 1; a refused one 0, 0, 0, so no parsed answer earns less than a refused one. An extra box that
    matches nothing never raises a part above the greater of 0 and what it was. ValueError on a true box without area.
    """
    answer = parse_detection(text, contract)
    if isinstance(answer, Refusal):
        return Reward({"iou": 0.0, "confidence": 0.0, "format": 0.0}, None, answer)
    iou, confidence = _iou_and_confidence(answer.detections, truth.boxes, iou_threshold)
    return Reward({"iou": iou, "confidence": confidence, "format": 1.0}, answer, None)


def classification(text: str, truth: ClassTruth, contract: Contract = CONTRACT, *, aliases: Mapping[str, str] = NO_ALIASES) -> Reward:
    """Score a classification answer; the parts:

    accuracy  1 if the name means the true class: equal to its name once both are normalised and their aliases resolved, else 0
    format    1 for an answer that parses

    `aliases` as in `parsing.canonical_name`.
    """
    answer = parse_classification(text, contract)
    if isinstance(answer, Refusal):
        return Reward({"accuracy": 0.0, "format": 0.0}, None, answer)
    right = canonical_name(answer.name, aliases) == canonical_name(truth.name, aliases)
    return Reward({"accuracy": float(right), "format": 1.0}, answer, None)


def grounding(text: str, truth: GroundingTruth, contract: Contract = CONTRACT) -> Reward:
    """Score a grounding answer; the parts:

    iou     IoU with the true box, in 0..1: the metric itself, where GIoU would pay for a miss as well
    format  1 for an answer that parses

    ValueError on a true box without area.
    """
    answer = parse_grounding(text, contract)
    if isinstance(answer, Refusal):
        return Reward({"iou": 0.0, "format": 0.0}, None, answer)
    return Reward({"iou": float(iou_matrix([answer.box], [truth.box])[0, 0]), "format": 1.0}, answer, None)


def _iou_and_confidence(detections: Sequence[Detection], boxes: Sequence[Box], iou_threshold: float) -> tuple[float, float]:
    count = max(len(detections), len(boxes))
    if count == 0:
        return 1.0, 1.0
    # Equal IoUs leave several best matchings, which pay confidence differently: a fixed order picks the same one however the boxes are listed.
    ranked = sorted(detections, key=lambda found: (-found.confidence, found.box))
    iou_NM = iou_matrix([found.box for found in ranked], sorted(boxes))
    pairs = match(iou_NM, above=iou_threshold)
    matched = {n for n, _ in pairs}
    brier = math.fsum(2 * found.confidence * (n in matched) - found.confidence**2 for n, found in enumerate(ranked))
    return math.fsum(iou_NM[n, m] for n, m in pairs) / count, brier / count
