"""Average precision of boxes by COCO's rules and by LVIS's, each counted by the library that published figures are counted with.

Boxes are (x, y, width, height) in pixels of the original image, as the data label them.

Axes: T IoU thresholds .50, .55, … .95; R recalls 0, .01, … 1; K categories; A areas: all, small (up to 32² pixels), medium (up to 96²), large.
"""

import contextlib
import heapq
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visual_rft.frames import Box

SIZES = ("small", "medium", "large")
COCO_CAP = 100  # detections of one category in one image
LVIS_CAP = 300  # detections in one image
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TruthBox:
    """One label. `area`, the object's and not its box's, decides its size. A crowd is no object to find, but boxes in it are free."""

    image_id: int
    category: str
    bbox_xywh: Box
    area: float
    crowd: bool


@dataclass(frozen=True, slots=True)
class FoundBox:
    """One detection. Of its score only the rank counts, among all detections of its category."""

    image_id: int
    category: str
    bbox_xywh: Box
    score: float


@dataclass(frozen=True)
class Federation:
    """What LVIS knows of categories image by image: those verified to be `absent` (neg_category_ids), and those of which only some objects are
    labelled, `partly` (not_exhaustive_category_ids). An image that is not named has none."""

    absent: Mapping[int, frozenset[str]]
    partly: Mapping[int, frozenset[str]]


@dataclass(frozen=True)
class AveragePrecision:
    """`ap` is AP@[.50:.95], 0..100, like the others; 0 where there is nothing to find. `by_size` holds the sizes that have objects to find, and
    `by_category` the categories, in the order in which they were given; each category weighs the same."""

    ap: float
    ap50: float
    ap75: float
    by_size: Mapping[str, float]
    by_category: Mapping[str, float]


Labelled = TypeVar("Labelled", TruthBox, FoundBox)
# Of one category, from its labels and detections to precision_TRA, 0..1; -1 where there is nothing to find.
Evaluation = Callable[[Sequence[TruthBox], Sequence[FoundBox]], Floats]


def coco_average_precision(truth: Iterable[TruthBox], found: Iterable[FoundBox], categories: Sequence[str]) -> AveragePrecision:
    """COCO's AP (pycocotools) of these categories: the 100 best detections an image and category, of any image with a label or a detection.

    It is 100 times pycocotools' own float, to the last digit, where its category ids have the order of `categories`. Its precision is
    tp / (tp + fp + 2⁻⁵²), so that a single object, found, scores a last digit less than 100. Equal scores of one category rank by image id, then
    as given; the order means nothing else. Boxes of other categories are left out. ValueError on a category given twice.
    """
    return _averaged(_precision_TRKA(truth, found, categories, _coco), categories)


def lvis_average_precision(
    truth: Iterable[TruthBox], found: Iterable[FoundBox], categories: Sequence[str], federation: Federation
) -> AveragePrecision:
    """LVIS's AP (Gupta et al. 2019, arXiv 1908.03195; by faster-coco-eval, since lvis itself breaks on numpy 2) of these categories.

    Its rules in their order: an image keeps its 300 best detections, whatever their categories; one of a category that is neither labelled in its
    image nor verified absent from it is dropped; one that matches no label is ignored where its category is labelled in part. The rest is COCO's:
    equal, but for rounding, where all is labelled or verified absent and no cap bites. AP of rare, common and frequent categories are means over
    `by_category`. Equal scores rank as in `coco_average_precision`, at the cap as given. ValueError on a category given twice.
    """

    def evaluation(truths: Sequence[TruthBox], detections: Sequence[FoundBox]) -> Floats:
        return _lvis(truths, detections, federation)

    return _averaged(_precision_TRKA(truth, _best_of_each_image(found), categories, evaluation), categories)


def _best_of_each_image(found: Iterable[FoundBox]) -> list[FoundBox]:
    by_image: dict[int, list[FoundBox]] = defaultdict(list)
    for one in found:
        by_image[one.image_id].append(one)
    return [one for boxes in by_image.values() for one in heapq.nlargest(LVIS_CAP, boxes, key=lambda box: box.score)]


def _precision_TRKA(truth: Iterable[TruthBox], found: Iterable[FoundBox], categories: Sequence[str], evaluation: Evaluation) -> Floats:
    """Category by category, over the images that know it: both libraries spend time (pycocotools) or memory (faster-coco-eval) on every pair of an
    image and a category, of which LVIS has 24 million, nearly all of them empty; an empty pair adds nothing to the figures."""
    truths, detections = _by_category(truth, categories), _by_category(found, categories)
    precision_TRKA = np.full((10, 101, len(categories), 1 + len(SIZES)), -1.0)
    for k, category in enumerate(categories):
        if truths[category]:
            precision_TRKA[:, :, k] = evaluation(truths[category], detections[category])
    return precision_TRKA


def _by_category(boxes: Iterable[Labelled], categories: Sequence[str]) -> dict[str, list[Labelled]]:
    kept: dict[str, list[Labelled]] = {category: [] for category in categories}
    if len(kept) < len(categories):
        raise ValueError(f"a category is named twice in {list(categories)}: name each once")
    for one in boxes:
        if one.category in kept:
            kept[one.category].append(one)
    return kept


def _averaged(precision_TRKA: Floats, categories: Sequence[str]) -> AveragePrecision:
    by_category = {category: _mean(precision_TRKA[:, :, k, 0]) for k, category in enumerate(categories)}
    by_size = {size: _mean(precision_TRKA[:, :, :, a]) for a, size in enumerate(SIZES, start=1)}
    return AveragePrecision(
        ap=_mean(precision_TRKA[:, :, :, 0]) or 0.0,
        ap50=_mean(precision_TRKA[0, :, :, 0]) or 0.0,
        ap75=_mean(precision_TRKA[5, :, :, 0]) or 0.0,
        by_size={size: ap for size, ap in by_size.items() if ap is not None},
        by_category={category: ap for category, ap in by_category.items() if ap is not None},
    )


def _mean(precision: Floats) -> float | None:
    """As COCOeval.summarize has it, in its order of summation, since the last digit depends on that."""
    known = precision[precision > -1]
    return 100.0 * float(known.mean()) if known.size else None


def _coco(truths: Sequence[TruthBox], found: Sequence[FoundBox]) -> Floats:
    images = [{"id": image_id} for image_id in _image_ids(truths, found)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_indexed(COCO(), images, _labels(truths)), _indexed(COCO(), images, _results(found)), "bbox")
        evaluation.params.maxDets = [COCO_CAP]
        evaluation.evaluate()
        evaluation.accumulate()
    precision_TRA: Floats = evaluation.eval["precision"][:, :, 0, :, 0]
    return precision_TRA


def _lvis(truths: Sequence[TruthBox], found: Sequence[FoundBox], federation: Federation) -> Floats:
    from faster_coco_eval import COCO as LVIS
    from faster_coco_eval import COCOeval_faster

    def listed(image_id: int, known: Mapping[int, frozenset[str]]) -> list[int]:
        return [1] if truths[0].category in known.get(image_id, ()) else []

    images = [
        {"id": n, "neg_category_ids": listed(n, federation.absent), "not_exhaustive_category_ids": listed(n, federation.partly)}
        for n in _image_ids(truths, found)
    ]
    evaluation = COCOeval_faster(_indexed(LVIS(), images, _labels(truths)), _indexed(LVIS(), images, _results(found)), "bbox", lvis_style=True)
    evaluation.params.maxDets = [LVIS_CAP]
    evaluation.evaluate()
    evaluation.accumulate()
    precision_TRA: Floats = np.asarray(evaluation.eval["precision"])[:, :, 0, :, 0]
    return precision_TRA


def _image_ids(truths: Sequence[TruthBox], found: Sequence[FoundBox]) -> set[int]:
    return {one.image_id for one in truths} | {one.image_id for one in found}


def _indexed(library: Any, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Any:
    """The data set in the class of a library. faster-coco-eval asks for a frequency, for averages that we take from `by_category`."""
    library.dataset = {"images": images, "categories": [{"id": 1, "frequency": "f"}], "annotations": annotations}
    library.createIndex()
    return library


def _labels(truths: Sequence[TruthBox]) -> list[dict[str, Any]]:
    """Their ids start at 1, as those of `_results` do: both libraries take a match with id 0 for none."""
    return [_annotation(n, one) | {"area": one.area, "iscrowd": int(one.crowd)} for n, one in enumerate(truths, start=1)]


def _results(found: Sequence[FoundBox]) -> list[dict[str, Any]]:
    """A detection's size is that of its box, as in COCO.loadRes."""
    areas = (one.bbox_xywh[2] * one.bbox_xywh[3] for one in found)
    return [_annotation(n, one) | {"area": area, "iscrowd": 0, "score": one.score} for n, (one, area) in enumerate(zip(found, areas, strict=True), 1)]


def _annotation(id: int, one: TruthBox | FoundBox) -> dict[str, Any]:
    return {"id": id, "image_id": one.image_id, "category_id": 1, "bbox": list(one.bbox_xywh)}
