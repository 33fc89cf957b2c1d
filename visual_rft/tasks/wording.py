"""The completion contract in words: what every question asks for, and how a completion is written down. The inverse of `parsing`.

<think> what is seen </think> <answer> what is said </answer>

A wording never changes under its name, since figures depend on it: a better one gets a new name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from visual_rft.frames import NORM1000, Box, Contract, Frame, Norm1000, Speaks
from visual_rft.images import StoredImage
from visual_rft.vocabulary import ClassTruth, Detection, DetectionTruth, GroundingTruth, Truth


class Wording(StrEnum):
    """In which words a task is put to a model."""

    terse_1 = "terse_1"  # as the embedded base model was taught
    full_1 = "full_1"  # for a model that has never met the contract: every part of the answer is explained


@dataclass(frozen=True)
class Style:
    """How questions are put, in training and in evaluation alike: the words, whether to think first, and the frame the model speaks."""

    wording: Wording = Wording.terse_1
    thinking: bool = True
    speaks: Speaks = lambda _: NORM1000

    def contract(self, image: StoredImage) -> Contract:
        """What a completion about an image must be."""
        return _contract(self.speaks(image.size), self.thinking)


@lru_cache(maxsize=65536)
def detection_question(category: str, wording: Wording, contract: Contract) -> str:
    """Where is every object of a category?"""
    name = category.replace("_", " ")  # LVIS writes horse_buggy
    if wording is Wording.terse_1:
        return (
            f"Find every {name} in the image. {_terse(contract)} a list such as [{{'Position': [left, top, right, bottom], 'Confidence': 0.95}}], "
            f"in {_units(contract)}, or with No Objects."
        )
    return (
        f"Look for every {name} in the image and draw a box around each one. {_full(contract)} The answer is a list with an entry for each box: "
        f"[{{'Position': [x1, y1, x2, y2], 'Confidence': c}}, …]. x1 and x2 are the left and right edge of the box, y1 and y2 its top and bottom, as "
        f"whole numbers, in {_units(contract)}; c is a number from 0 to 1 with two decimals that says how sure you are of the box. "
        "If there is none, the answer is No Objects."
    )


def classification_question(kind: str, wording: Wording, contract: Contract) -> str:
    """What does the image show?"""
    if wording is Wording.terse_1:
        return f"Which {kind} does the image show? {_terse(contract)} its name alone."
    return f"Which {kind} does the image show? {_full(contract)} The answer is one name and nothing else."


def grounding_question(instruction: str, wording: Wording, contract: Contract) -> str:
    """Where is what the instruction means?"""
    if wording is Wording.terse_1:
        return f"Point at {instruction}. {_terse(contract)} its box (left,top),(right,bottom), in {_units(contract)}."
    return (
        f"Find the one thing in the image that these words mean: {instruction}. {_full(contract)} The answer is its box, (x1,y1),(x2,y2): the left, "
        f"top, right and bottom edge as whole numbers, in {_units(contract)}."
    )


def presence_question(category: str) -> str:
    """Is there any? Asked before `detection_question` where the protocol says so (`task.present=predicted`); the contract has no part in it."""
    return f"Does the image show at least one {category.replace('_', ' ')}? Answer with Yes or No alone."


def completion(thinking: str | None, answer: str) -> str:
    """The whole text of a completion; without thinking (None) the answer alone."""
    return f"<answer> {answer} </answer>" if thinking is None else f"<think> {thinking} </think> <answer> {answer} </answer>"


def solution(truth: Truth, *, tagged: bool = True) -> str:
    """The right answer, as data sets of rows write it; without its tags, what stands between them."""
    match truth:
        case DetectionTruth():
            answer = detection_answer([Detection(box, 1.0) for box in truth.boxes])
        case GroundingTruth():
            answer = grounding_answer(truth.box)
        case ClassTruth():
            answer = truth.name
    return f"<answer>{answer}</answer>" if tagged else answer


def detection_answer(detections: Sequence[Detection]) -> str:
    """A list of boxes and confidences, or `No Objects`."""
    listed = ", ".join(f"{{'Position': [{', '.join(f'{v:.0f}' for v in d.box)}], 'Confidence': {d.confidence:.2f}}}" for d in detections)
    return f"[{listed}]" if detections else "No Objects"


def grounding_answer(box: Box) -> str:
    """Two corners."""
    x1, y1, x2, y2 = (f"{v:.0f}" for v in box)
    return f"({x1},{y1}),({x2},{y2})"


def thinking(name: str, boxes: Sequence[Box]) -> str:
    """The short reasoning that the embedded base model is taught: what it looks at, and roughly where each one is (norm1000), in the order given."""
    places = [f"{_third(y1 + y2, ('top', 'middle', 'bottom'))} {_third(x1 + x2, ('left', 'center', 'right'))}" for x1, y1, x2, y2 in boxes]
    return f"{name}: {', '.join(places) or 'none'}."


@lru_cache(maxsize=65536)
def _contract(frame: Frame, thinking: bool) -> Contract:
    """One value for the many images that share it."""
    return Contract(frame, thinking)


def _terse(contract: Contract) -> str:
    if contract.thinking:
        return "Think first inside <think> </think>, then answer inside <answer> </answer> with"
    return "Answer inside <answer> </answer> with"


def _full(contract: Contract) -> str:
    if contract.thinking:
        return (
            "First reason about what you see between <think> and </think>, then write your answer between <answer> and </answer>, and nothing else."
        )
    return "Write your answer between <answer> and </answer>, and nothing else."


def _units(contract: Contract) -> str:
    if isinstance(contract.frame, Norm1000):
        return "thousandths of the width and the height"
    return f"pixels of the image, which is {contract.frame.width:.0f} wide and {contract.frame.height:.0f} high"


def _third(doubled_center: float, names: tuple[str, str, str]) -> str:
    return names[min(int(doubled_center * 3 / 2000), 2)]
