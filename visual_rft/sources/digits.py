"""Digit scenes: real handwriting on coloured canvases, with COCO-style truth. The data set that ships with the package.

The 1,797 8×8 digits of scikit-learn (UCI, Alpaydin & Kaynak 1998) are split once into four disjoint pools, so that no stroke
seen in base training, few-shot tuning or validation is met again in the test. A scene is a pure function of (seed, split, index).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from sklearn.datasets import load_digits

from visual_rft.frames import Box
from visual_rft.images import AnnotatedImage, Annotation, ImageSet, Instruction, StoredImage
from visual_rft.sources.findings import Findings
from visual_rft.sources.options import DataOptions

CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CANVAS = 64  # pixels a side
COUNTS = {1: 0.45, 2: 0.4, 3: 0.15}  # how many digits a scene holds, and how often
DIGITS = (min(COUNTS), max(COUNTS))
SIZES = (18, 34)  # pixels a side of one digit's cell, upper bound excluded
CLEAR = 5  # pixels between two centers that make one digit "the leftmost"
REMEMBERED = 2000  # scenes, of 12 kB: what the jobs of a sweep train on and are tested with
INK = 0.35  # a pixel belongs to the digit when its stroke covers this share of it


class Split(StrEnum):
    """Which pool of handwritten digits a scene is drawn from."""

    BASE = "base"
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


POOL_SIZES = {Split.BASE: 1000, Split.TRAIN: 350, Split.VALIDATION: 100, Split.TEST: 347}


@dataclass
class DigitOptions(DataOptions):
    """`train_images` scenes to draw the few shots from, `test_images` scenes to test on, which are always the same ones; digits a scene holds."""

    train_images: int
    test_images: int
    fewest_digits: int
    most_digits: int

    def __post_init__(self) -> None:
        for name in ("train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        least, most = DIGITS
        if not least <= self.fewest_digits <= self.most_digits <= most:
            raise ValueError(f"data.fewest_digits={self.fewest_digits}, data.most_digits={self.most_digits}: must rise, from {least} to {most}")


def scenes(split: Split, count: int, *, seed: int, start: int = 0, digits: tuple[int, int] = DIGITS) -> list[AnnotatedImage]:
    """`count` scenes of a split, from index `start` on, of `digits` = (fewest, most) digits each; now and then there is room for fewer.

    Equal arguments give equal pixels. Ids are the indices.
    """
    return [_scene(split, index, seed, digits) for index in range(start, start + count)]


def train_images(options: DigitOptions, seed: int, _: Findings) -> ImageSet:
    """Scenes that the few shots are drawn from; categories are numbered from 1, in order."""
    return _image_set(scenes(Split.TRAIN, options.train_images, seed=seed, digits=(options.fewest_digits, options.most_digits)))


def test_images(options: DigitOptions, seed: int) -> ImageSet:
    """Scenes of other handwriting."""
    return _image_set(scenes(Split.TEST, options.test_images, seed=seed, digits=(options.fewest_digits, options.most_digits)))


def _image_set(images: Sequence[AnnotatedImage]) -> ImageSet:
    return ImageSet(images, {name: number for number, name in enumerate(CATEGORIES, start=1)}, "the digit scenes")


def instructions(annotations: Sequence[Annotation]) -> list[Instruction]:
    """Everything one can ask to point at among some digits without naming it; each means exactly one of them, by a clear margin."""
    shown = [(a, CATEGORIES.index(a.category)) for a in annotations]
    found: list[Instruction] = []
    for annotation, value in shown:
        if [v for _, v in shown].count(value) == 1:
            sums = [(a, value - a) for a in range(value + 1)]
            found += [Instruction(f"the digit that is {CATEGORIES[a]} plus {CATEGORIES[b]}", annotation.bbox_xywh, "sum") for a, b in sums]
    found += [Instruction(f"the {word} digit", box, "place") for word, box in _outermost([a for a, _ in shown])]
    for parity, word in enumerate(("even", "odd")):
        alike = [a for a, v in shown if v % 2 == parity]
        found += [Instruction(f"the {place} {word} digit", box, "parity") for place, box in _outermost(alike)]
    ranked = sorted(shown, key=lambda pair: pair[1])
    if len(ranked) > 1 and ranked[-1][1] > ranked[-2][1]:
        found.append(Instruction("the digit of the greatest value", ranked[-1][0].bbox_xywh, "value"))
    if len(ranked) > 1 and ranked[0][1] < ranked[1][1]:
        found.append(Instruction("the digit of the least value", ranked[0][0].bbox_xywh, "value"))
    return found


def _outermost(annotations: Sequence[Annotation]) -> Iterator[tuple[str, Box]]:
    """The leftmost, rightmost, topmost and lowest of some digits, by their centers, where one is clearly so."""
    boxes = [a.bbox_xywh for a in annotations]
    for word, axis, sign in (("leftmost", 0, 1), ("rightmost", 0, -1), ("topmost", 1, 1), ("lowest", 1, -1)):
        ranked = sorted(boxes, key=lambda box: sign * (box[axis] + box[axis + 2] / 2))
        centers = [sign * (box[axis] + box[axis + 2] / 2) for box in ranked]
        if ranked and (len(ranked) == 1 or centers[1] - centers[0] > CLEAR):
            yield word, ranked[0]


@cache
def pool(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(strokes [M, 8, 8] float in 0..1, labels [M] int) of one split. The pools are disjoint and do not depend on any seed of a run."""
    data = load_digits()
    order = default_rng(1998).permutation(len(data.target))
    first = sum(size for name, size in POOL_SIZES.items() if list(POOL_SIZES).index(name) < list(POOL_SIZES).index(split))
    chosen = order[first : first + POOL_SIZES[split]]
    return data.images[chosen] / 16.0, data.target[chosen]


@lru_cache(maxsize=REMEMBERED)
def _scene(split: Split, index: int, seed: int, digits: tuple[int, int]) -> AnnotatedImage:
    rng = default_rng([seed, list(Split).index(split), index])
    canvas = _background(rng)
    annotations: list[Annotation] = []
    counts = range(digits[0], digits[1] + 1)
    shares = np.array([COUNTS[count] for count in counts])
    for _ in range(rng.choice(counts, p=shares / shares.sum())):
        placed = _place(rng, split, annotations)
        if placed is not None:
            alpha, (left, top), annotation = placed
            _paint(canvas, alpha, left, top, rng)
            annotations.append(annotation)
    image = Image.fromarray(canvas.round().astype(np.uint8))
    return AnnotatedImage(StoredImage.of(index, image), tuple(annotations), tuple(instructions(annotations)))


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
