"""Mask metrics as LISA defines them (Lai et al. 2023, arXiv 2308.00692), and the masks of outlines.

Axes: H rows, W columns of pixels.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from visual_rft.images import Outline, Polygon
from visual_rft.metrics.averages import percent

OUTSIDE, INSIDE, IGNORED = 0, 1, 255

# A true mask of OUTSIDE, INSIDE and IGNORED, and the one that was found, both (H, W).
Masks = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


def paint(outline: Outline, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Which pixels, (H, W), of an image of (width, height) are INSIDE a thing, OUTSIDE, or IGNORED.

    As LISA paints: corners cut to whole pixels, the larger polygon first, so that a smaller one lies above it, each with its border. PIL draws here,
    OpenCV there: along slanted borders a pixel may differ. Of two equally large ones the later in the outline is above, ignored areas last.
    """
    layers = [(polygon, INSIDE) for polygon in outline.polygons] + [(polygon, IGNORED) for polygon in outline.ignored]
    layers.sort(key=lambda layer: -np.count_nonzero(np.asarray(_drawn(Image.new("L", size), layer[0], INSIDE))))
    canvas = Image.new("L", size)
    for polygon, value in layers:
        _drawn(canvas, polygon, value)
    return np.asarray(canvas)


def mask_scores(masks: Iterable[Masks]) -> dict[str, float]:
    """Scores of found masks, 0..100, over the pixels that are not IGNORED; each pair is looked at once.

    gIoU  the mean over images of intersection over union; 100 where neither mask covers anything
    cIoU  the sum of all intersections over the sum of all unions; 0 where there is nothing

    ValueError on two masks of different shapes.
    """
    overlaps = [_overlap(truth, found) for truth, found in masks]
    intersections, unions = (sum(counts) for counts in zip(*overlaps, strict=True)) if overlaps else (0, 0)
    ious = [intersection / union if union else 1.0 for intersection, union in overlaps]
    return {"gIoU": percent(ious), "cIoU": 100.0 * intersections / unions if unions else 0.0}


def _overlap(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Pixels in both, pixels in either."""
    if truth.shape != found.shape:
        raise ValueError(f"masks of {truth.shape} and {found.shape} pixels: give the mask of the image at its own size")
    inside, found = truth == INSIDE, found & (truth != IGNORED)
    return int(np.count_nonzero(inside & found)), int(np.count_nonzero(inside | found))


def _drawn(canvas: Image.Image, polygon: Polygon, value: int) -> Image.Image:
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in polygon], fill=value, outline=value)
    return canvas
