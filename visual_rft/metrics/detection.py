"""Detection metrics over one-category queries: COCO average precision by pycocotools, mean IoU, and how many answers could be read.

Axes: N predicted boxes, M true ones of one query. All scores are 0..100.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visual_rft.boxes import iou_matrix, match, norm1000_to_pixels, xyxy_to_xywh
from visual_rft.metrics._averages import percent, refusals
from visual_rft.vocabulary import Box, Detection, DetectionAnswer, Reason, Refusal


@dataclass(frozen=True)
class ScoredQuery:
    """One question (where is `category` in this image of width x height pixels?), its true boxes in norm1000, and what was answered."""

    image_id: int
    category: str
    width: int
    height: int
    truth: tuple[Box, ...]
    answer: DetectionAnswer | Refusal


@dataclass(frozen=True)
class DetectionMetrics:
    """`ap` is AP@[.5:.95], the mean of `ap_by_category`, which holds the categories that have truths; 0 where there is nothing to average."""

    ap: float
    ap50: float
    ap75: float
    ap_by_category: Mapping[str, float]
    mean_iou: float
    well_formed: float
    refusals: Mapping[Reason, int]


def detection_metrics(queries: Iterable[ScoredQuery], categories: Sequence[str]) -> DetectionMetrics:
    """Score all queries of an evaluation, in any order; 0..100.

    AP is pycocotools' over boxes in pixels, all areas, 100 detections an image and category. mean_iou is the mean over all truths of the IoU with
    the one prediction matched to it (optimal, no threshold; unmatched is 0). well_formed is the share of queries whose answer parsed. A refused
    query still brings its truths, all missed; a category that is *not asked* of an image does not count there: to count it, pass an empty answer.
    ValueError on a category outside `categories`, a repeated query, or a true box without area.
    """
    ordered = sorted(queries, key=lambda query: (query.image_id, query.category))
    asked = Counter((query.image_id, query.category) for query in ordered)
    for (image_id, category), times in asked.items():
        if category not in categories:
            raise ValueError(f"image {image_id} was asked for {category!r}, which is not among the evaluated categories {list(categories)}")
        if times > 1:
            raise ValueError(f"image {image_id} was asked for {category!r} {times} times: keep one query an image and category")
    ap_TK = _coco_ap(ordered, categories)
    truthful = [k for k, category in enumerate(categories) if any(query.truth for query in ordered if query.category == category)]
    return DetectionMetrics(
        ap=percent(ap_TK[:, truthful].ravel().tolist()),
        ap50=percent(ap_TK[0, truthful].tolist()),
        ap75=percent(ap_TK[5, truthful].tolist()),
        ap_by_category={categories[k]: percent(ap_TK[:, k].tolist()) for k in truthful},
        mean_iou=percent([iou for query in ordered for iou in _truth_ious(query)]),
        well_formed=percent([not isinstance(query.answer, Refusal) for query in ordered]),
        refusals=refusals(query.answer for query in ordered),
    )


def _found(query: ScoredQuery) -> tuple[Detection, ...]:
    return () if isinstance(query.answer, Refusal) else query.answer.detections


def _truth_ious(query: ScoredQuery) -> list[float]:
    """For each truth the IoU of its matched prediction; norm1000 gives the same IoU as pixels, since each axis is only scaled."""
    iou_NM = iou_matrix([found.box for found in _found(query)], query.truth)
    matched = [float(iou_NM[pair]) for pair in match(iou_NM)]
    return matched + [0.0] * (len(query.truth) - len(matched))


def _coco_ap(queries: Sequence[ScoredQuery], categories: Sequence[str]) -> npt.NDArray[np.float64]:
    """AP by IoU threshold (T: .50, .55, … .95) and category (K), in 0..1; -1 where a category has no truth."""
    truths = _coco([(query, [Detection(box, 1.0) for box in query.truth]) for query in queries], categories)
    found = _coco([(query, _found(query)) for query in queries], categories)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(truths, found, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision_TRK: npt.NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, -1]
    ap_TK: npt.NDArray[np.float64] = precision_TRK.mean(axis=1)
    return ap_TK


def _coco(drawn: Sequence[tuple[ScoredQuery, Sequence[Detection]]], categories: Sequence[str]) -> COCO:
    """A COCO data set of these boxes, in pixels. Ids start at 1, since pycocotools takes a truth of id 0 for "unmatched"."""
    annotations: list[dict[str, object]] = []
    for query, boxes in drawn:
        boxes_N4 = xyxy_to_xywh(norm1000_to_pixels([one.box for one in boxes], width=query.width, height=query.height))
        for box_4, one in zip(boxes_N4.tolist(), boxes, strict=True):
            where = {"id": len(annotations) + 1, "image_id": query.image_id, "category_id": categories.index(query.category)}
            annotations.append(where | {"bbox": box_4, "area": box_4[2] * box_4[3], "iscrowd": 0, "score": one.confidence})
    coco = COCO()
    images = [{"id": one} for one in sorted({query.image_id for query, _ in drawn})]
    coco.dataset = {"images": images, "categories": [{"id": k} for k in range(len(categories))], "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
