"""Average precision as a part of the reward: the metric of detection, completion by completion."""

from visual_rft.boxes import xyxy_to_xywh
from visual_rft.metrics.average_precision import FoundBox, TruthBox, coco_average_precision
from visual_rft.vocabulary import Attempt, DetectionAnswer, DetectionTruth, Refusal


def average_precision(one: Attempt, *, count_penalty: bool) -> float:
    """AP@[.5:.95] of one answer about one image (pycocotools), in 0..1, in the contract's frame; 0 for a refused one, 1 for a rightly empty one.

    With `count_penalty` times min(1, M / N) of N boxes and M true ones (VLM-R1, Shen et al. 2025, arXiv 2504.07615, its odLength reward): AP alone
    lets any number of boxes follow the right ones for nothing. Of confidences only their order counts. ValueError for another kind of task.
    """
    if not isinstance(one.truth, DetectionTruth):
        raise ValueError("average precision is for detection, and this task asks for something else")
    if isinstance(one.answer, Refusal):
        return 0.0
    assert isinstance(one.answer, DetectionAnswer)
    if not one.truth.boxes or not one.answer.detections:
        return float(not one.truth.boxes and not one.answer.detections)
    truth = [TruthBox(1, "", (x, y, w, h), w * h, False) for x, y, w, h in xyxy_to_xywh(one.truth.boxes).tolist()]
    boxes = xyxy_to_xywh(one.answer.boxes).tolist()
    found = [FoundBox(1, "", (x, y, w, h), it.confidence) for (x, y, w, h), it in zip(boxes, one.answer.detections, strict=True)]
    ap = coco_average_precision(truth, found, [""]).ap / 100
    return ap * min(1.0, len(truth) / len(found)) if count_penalty else ap
