"""Digit scenes: real handwriting on coloured canvases, with COCO-style truth. The data set that ships with the package.

The 1,797 8×8 digits of scikit-learn (UCI, Alpaydin & Kaynak 1998) are split once into four disjoint pools, so that no stroke
seen in base training, few-shot tuning or validation is met again in the test. A scene is a pure function of (seed, split, index).
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from sklearn.datasets import load_digits

from visual_rft.vocabulary import AnnotatedImage, Annotation, Box

CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CANVAS = 64  # pixels a side
SIZES = (18, 34)  # pixels a side of one digit's cell, upper bound excluded
INK = 0.35  # a pixel belongs to the digit when its stroke covers this share of it


class Split(StrEnum):
    """Which pool of handwritten digits a scene is drawn from."""

    BASE = "base"
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


POOL_SIZES = {Split.BASE: 1000, Split.TRAIN: 350, Split.VALIDATION: 100, Split.TEST: 347}


@dataclass
class DigitOptions:
    """`images` scenes to draw the few shots from, `test_images` scenes to test on: always the same ones."""

    images: int
    test_images: int

    def __post_init__(self) -> None:
        for name in ("images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.source.{name}={getattr(self, name)}: must be at least 1")


def scenes(split: Split, count: int, *, seed: int, start: int = 0) -> list[AnnotatedImage]:
    """`count` scenes of a split, from index `start` on; equal arguments give equal pixels. Ids are the indices."""
    return [_scene(split, index, seed) for index in range(start, start + count)]


@cache
def pool(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(strokes [M, 8, 8] float in 0..1, labels [M] int) of one split. The pools are disjoint and do not depend on any seed of a run."""
    data = load_digits()
    order = default_rng(1998).permutation(len(data.target))
    first = sum(size for name, size in POOL_SIZES.items() if list(POOL_SIZES).index(name) < list(POOL_SIZES).index(split))
    chosen = order[first : first + POOL_SIZES[split]]
    return data.images[chosen] / 16.0, data.target[chosen]


def _scene(split: Split, index: int, seed: int) -> AnnotatedImage:
    rng = default_rng([seed, list(Split).index(split), index])
    canvas = _background(rng)
    annotations: list[Annotation] = []
    wanted = rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15])
    for _ in range(wanted):
        placed = _place(rng, split, annotations)
        if placed is not None:
            alpha, (left, top), annotation = placed
            _paint(canvas, alpha, left, top, rng)
            annotations.append(annotation)
    return AnnotatedImage(id=index, image=Image.fromarray(canvas.round().astype(np.uint8)), annotations=tuple(annotations))


def _background(rng: Generator) -> np.ndarray:
    """[CANVAS, CANVAS, 3] float in 0..255: any light colour, a little grain, and one lamp: redder to the right, bluer to the bottom.

    The lamp tells where in the image a patch lies; the vision tower's own positions are relative, and a model this small needs the hint.
    """
    ramp = np.linspace(-40, 40, CANVAS)
    lamp = np.stack(np.broadcast_arrays(ramp[None, :], 0.0, ramp[:, None]), axis=-1)
    return np.clip(rng.uniform(120, 215, 3) + lamp + rng.normal(0, 3, (CANVAS, CANVAS, 3)), 0, 255)


def _place(rng: Generator, split: Split, placed: list[Annotation]) -> tuple[np.ndarray, tuple[int, int], Annotation] | None:
    """A digit with a free spot: its stroke coverage, corner and label; None when twenty tries found no room."""
    strokes, labels = pool(split)
    candidates = np.arange(len(labels))
    if placed and rng.random() < 0.3:  # now and then two of a kind, so that matching matters
        candidates = np.flatnonzero(labels == CATEGORIES.index(placed[0].category))
    which = rng.choice(candidates)
    for _ in range(20):
        size = int(rng.integers(*SIZES))
        left, top = (int(v) for v in rng.integers(0, CANVAS - size + 1, 2))
        stroke = Image.fromarray((strokes[which] * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        alpha = np.asarray(stroke, dtype=np.float64) / 255
        ys, xs = np.nonzero(alpha > INK)
        x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        box = (float(left + x1), float(top + y1), float(x2 - x1), float(y2 - y1))
        if not any(_touch(box, other.bbox_xywh) for other in placed):
            return alpha, (left, top), Annotation(CATEGORIES[labels[which]], box)
    return None


def _touch(a: Box, b: Box, gap: float = 1.0) -> bool:
    return a[0] < b[0] + b[2] + gap and b[0] < a[0] + a[2] + gap and a[1] < b[1] + b[3] + gap and b[1] < a[1] + a[3] + gap


def _paint(canvas: np.ndarray, alpha: np.ndarray, left: int, top: int, rng: Generator) -> None:
    size = alpha.shape[0]
    patch = canvas[top : top + size, left : left + size]
    patch += (rng.uniform(0, 40, 3) - patch) * np.clip(alpha * 1.3, 0, 1)[..., None]
