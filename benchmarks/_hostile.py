"""Hostile completions: the scenes that they are about, what an honest model says there, and what a family of them is.

The families are in `_hostile_form.py` (texts that break the contract) and `_hostile_answers.py` (answers that can be read). The adversary knows the
truth, the contract and the reward: nothing that a model could learn is kept from it. Nothing here is random.

Axes: N boxes of an answer, M true ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from visual_rft.frames import CONTRACT, Box, Contract, Original, Resized
from visual_rft.vocabulary import ClassTruth, DetectionTruth, GroundingTruth, Truth

DETECTION, CLASSIFICATION, GROUNDING = "detection", "classification", "grounding"
PARTS = {DETECTION: 3, CLASSIFICATION: 2, GROUNDING: 2}  # of strict: an honest answer earns 1 in each


@dataclass(frozen=True)
class Scene:
    """One question: its kind, its truth, and the contract."""

    kind: str
    truth: Truth
    contract: Contract = CONTRACT

    @property
    def body(self) -> str:
        """What an honest model says between the answer tags: everything, and surely."""
        match self.truth:
            case ClassTruth(name):
                return name
            case GroundingTruth(box):
                return drawn(box)
            case DetectionTruth(boxes):
                return listed(*((box, 1.0) for box in boxes)) if boxes else "No Objects"

    @property
    def honest(self) -> str:
        return self.says(self.body)

    def says(self, body: str, thinking: str = "I looked closely.") -> str:
        """A completion that keeps the contract; where that asks for no thinking, what was thought is not said."""
        return (f"<think>{thinking}</think>" if self.contract.thinking else "") + f"<answer>{body}</answer>"

    @property
    def count(self) -> int:
        """M."""
        return len(self.truth.boxes)


FRAME = Resized(644, 420)  # what Qwen2.5-VL is shown of an image of 640 × 426 pixels: its contract is in these pixels
STORED = Original(640, 426)
# Of several objects, none is half of the box around all of them, and none overlaps another or the lower right corner, where junk is put.
ONE = Scene(DETECTION, DetectionTruth(((100, 200, 300, 400),)))
THREE = Scene(DETECTION, DetectionTruth(((40, 60, 240, 300), (420, 100, 700, 330), (150, 600, 480, 880))))
NONE = Scene(DETECTION, DetectionTruth(()))
PIXELS = Scene(DETECTION, DetectionTruth(((30, 40, 190, 200), (330, 150, 580, 360))), Contract(FRAME, thinking=False))
FLOWER = Scene(CLASSIFICATION, ClassTruth("pink primrose"))
CAR = Scene(CLASSIFICATION, ClassTruth("Audi S4 Sedan 2012"), Contract(thinking=False))
CAT = Scene(GROUNDING, GroundingTruth((100, 200, 300, 400)))
SIGN = Scene(GROUNDING, GroundingTruth((330, 150, 580, 360)), Contract(FRAME, thinking=False))

SHOWING = (ONE, THREE, PIXELS)  # detection with something to find
BOXED = (*SHOWING, CAT, SIGN)
SCENES = (ONE, THREE, NONE, PIXELS, FLOWER, CAR, CAT, SIGN)

Case = tuple[Scene, str]  # a question, and a hostile completion of it


@dataclass(frozen=True)
class Family:
    """One way to cheat. `bound` is the most that `strict` may pay, as a share of the honest answer's reward in the same scene, and `because` says
    from what it follows."""

    name: str
    what: str
    bound: Callable[[Scene], float]
    because: str
    cases: tuple[Case, ...]


FAMILIES: list[Family] = []


def family(name: str, bound: Callable[[Scene], float], because: str) -> Callable[[Callable[[], Iterator[Case]]], Family]:
    """Makes a family of a generator of its cases, whose docstring says what it does."""

    def register(cases: Callable[[], Iterator[Case]]) -> Family:
        FAMILIES.append(Family(name, (cases.__doc__ or "").rstrip("."), bound, because, tuple(cases())))
        return FAMILIES[-1]

    return register


def nothing(_: Scene) -> float:
    """The bound of what is refused."""
    return 0.0


def format_alone(scene: Scene) -> float:
    """The bound of what is readable and wrong."""
    return 1 / PARTS[scene.kind]


def diluted(extra: int) -> Callable[[Scene], float]:
    """The bound of M right boxes with so many others: IoU and confidence are divided by N = M + extra."""
    return lambda scene: (1 + 2 * scene.count / (scene.count + extra)) / 3


def overlapping(iou: float) -> Callable[[Scene], float]:
    """The bound of boxes with at most this IoU, which in detection counts above 0.5 alone."""
    return lambda scene: (1 + iou) / 2 if scene.kind == GROUNDING else ((2 + iou) / 3 if iou > 0.5 else format_alone(scene))


def listed(*found: tuple[Sequence[float], Any]) -> str:
    """A detection answer of (box, confidence) pairs."""
    boxes = (("[" + ", ".join(f"{corner:g}" for corner in box) + "]", confidence) for box, confidence in found)
    return "[" + ", ".join(f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in boxes) + "]"


def drawn(box: Sequence[float]) -> str:
    """A grounding answer."""
    return "({:g},{:g}),({:g},{:g})".format(*box)


def boxed(scene: Scene, boxes: Sequence[Sequence[float]], confidence: Any = 1.0) -> str:
    """These boxes as an answer to the scene; in grounding the first alone."""
    return drawn(boxes[0]) if scene.kind == GROUNDING else listed(*((box, confidence) for box in boxes))


def junk(scene: Scene, count: int = 1) -> list[Box]:
    """Boxes in the lower right corner, one beside the other, that touch no object."""
    width, height = scene.contract.frame.width, scene.contract.frame.height
    return [(width - 8 * i - 7, height - 40, width - 8 * i, height) for i in range(count)]
