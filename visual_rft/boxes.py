"""Boxes: formats, frames, overlap and one-to-one matching.

xyxy (x1, y1, x2, y2) and xywh (x, y, width, height), in a frame of one image (`frames.Frame`): the only ways between frames are `convert` and
`whole`.
Axes: N boxes against M others, 4 coordinates. Anything array-like goes in; no boxes, as [] or (0, 4), are welcome everywhere.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from visual_rft.frames import Box, Frame

Floats = npt.NDArray[np.float64]


def _as_N4(boxes: npt.ArrayLike) -> Floats:
    boxes_N4 = np.asarray(boxes, dtype=np.float64)
    if boxes_N4.size == 0:
        return boxes_N4.reshape(0, 4)
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
        raise ValueError(f"boxes of shape {boxes_N4.shape}: give an array of shape (N, 4)")
    return boxes_N4


def _scale_4(width: float, height: float) -> Floats:
    return np.array([width, height, width, height], dtype=np.float64)


def xywh_to_xyxy(boxes_N4: npt.ArrayLike) -> Floats:
    """COCO's (x, y, width, height) to corners; (N, 4) to (N, 4), any frame."""
    boxes = _as_N4(boxes_N4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_N4: npt.ArrayLike) -> Floats:
    """Corners to COCO's (x, y, width, height); (N, 4) to (N, 4), any frame."""
    boxes = _as_N4(boxes_N4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def convert(boxes_N4: npt.ArrayLike, *, of: Frame, to: Frame) -> Floats:
    """Corners in one frame of an image as corners in another frame of it, (N, 4), unrounded."""
    return _as_N4(boxes_N4) * _scale_4(to.width, to.height) / _scale_4(of.width, of.height)


def whole(boxes_N4: npt.ArrayLike, *, of: Frame, to: Frame) -> tuple[Box, ...]:
    """The same as a model would write them: in whole numbers, and what lies outside the image moved to its edge.

    A side that rounding would lose is one unit long. ValueError on a box that is not finite.
    """
    boxes = convert(boxes_N4, of=of, to=to)
    if not np.isfinite(boxes).all():
        raise ValueError("a box with NaN or infinity: remove it before the conversion")
    most_4 = _scale_4(to.width, to.height)
    rounded = np.clip(np.rint(boxes), 0, most_4)
    lost_N2 = rounded[:, 2:] <= rounded[:, :2]
    rounded[:, :2] = np.where(lost_N2, np.minimum(np.floor(boxes[:, :2]).clip(0), most_4[:2] - 1), rounded[:, :2])
    rounded[:, 2:] = np.where(lost_N2, rounded[:, :2] + 1, rounded[:, 2:])
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in rounded.tolist())


def _areas_N(boxes_N4: Floats) -> Floats:
    areas_N: Floats = np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1)
    return areas_N


def _refuse_degenerate(boxes_N4: Floats) -> None:
    # Both sides, not only the product: a box inverted on both axes has a positive area.
    proper_N = (boxes_N4[:, 2:] > boxes_N4[:, :2]).all(axis=1) & (_areas_N(boxes_N4) > 0)
    if not proper_N.all():
        raise ValueError(f"box {boxes_N4[~proper_N][0].tolist()} has no area: give x1 < x2 and y1 < y2 (xyxy), or remove it")


def _overlaps(a_N4: npt.ArrayLike, b_M4: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(intersection, union, area of the smallest box around both), each (N, M)."""
    a, b = _as_N4(a_N4), _as_N4(b_M4)
    _refuse_degenerate(a)
    _refuse_degenerate(b)
    inner_NM2 = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    outer_NM2 = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    intersection_NM = np.prod(inner_NM2.clip(min=0), axis=2)
    return intersection_NM, _areas_N(a)[:, None] + _areas_N(b)[None, :] - intersection_NM, np.prod(outer_NM2, axis=2)


def iou_matrix(a_N4: npt.ArrayLike, b_M4: npt.ArrayLike) -> Floats:
    """Intersection over union of every pair of xyxy boxes in one frame, (N, M), 0..1. ValueError on a box without area, as in DETR."""
    intersection_NM, union_NM, _ = _overlaps(a_N4, b_M4)
    return intersection_NM / union_NM


def giou_matrix(a_N4: npt.ArrayLike, b_M4: npt.ArrayLike) -> Floats:
    """Generalised IoU (Rezatofighi et al. 2019, arXiv 1902.09630) of every pair, (N, M), in (-1, 1]. ValueError as `iou_matrix`."""
    intersection_NM, union_NM, hull_NM = _overlaps(a_N4, b_M4)
    return intersection_NM / union_NM - (hull_NM - union_NM) / hull_NM


def match(iou_NM: npt.ArrayLike, *, above: float = 0.0) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) with IoU > `above` of the greatest total IoU, by row; optimal (Hungarian), not greedy.

    Only pairs above the threshold compete: one below it never displaces one that counts, and a row that overlaps nothing has no say at all.
    """
    iou = np.asarray(iou_NM, dtype=np.float64)
    assert iou.ndim == 2, f"an IoU matrix has two axes, not {iou.ndim}"
    rows, columns = np.flatnonzero((iou > above).any(axis=1)), np.flatnonzero((iou > above).any(axis=0))
    counted = iou[np.ix_(rows, columns)]
    pairs = zip(*linear_sum_assignment(np.where(counted > above, counted, 0.0), maximize=True), strict=True)
    return [(int(rows[n]), int(columns[m])) for n, m in pairs if counted[n, m] > above]
