"""The completion contract in words: what every question asks for, and how a completion is written down. The inverse of `parsing`.

<think> what is seen </think> <answer> what is said </answer>
"""

from collections.abc import Sequence

from visual_rft.vocabulary import Box, Detection

ASKED = "Think first inside <think> </think>, then answer inside <answer> </answer> with"


def completion(thinking: str, answer: str) -> str:
    """The whole text of a completion."""
    return f"<think> {thinking} </think> <answer> {answer} </answer>"


def detection_answer(detections: Sequence[Detection]) -> str:
    """A list of boxes and confidences, or `No Objects`."""
    listed = ", ".join(f"{{'Position': [{', '.join(f'{v:.0f}' for v in d.box)}], 'Confidence': {d.confidence:.2f}}}" for d in detections)
    return f"[{listed}]" if detections else "No Objects"


def grounding_answer(box: Box) -> str:
    """Two corners."""
    x1, y1, x2, y2 = (f"{v:.0f}" for v in box)
    return f"({x1},{y1}),({x2},{y2})"


def thinking(name: str, boxes: Sequence[Box]) -> str:
    """The short reasoning that the embedded base model is taught: what it looks at, and roughly where each one is, in the order given."""
    places = [f"{_third(y1 + y2, ('top', 'middle', 'bottom'))} {_third(x1 + x2, ('left', 'center', 'right'))}" for x1, y1, x2, y2 in boxes]
    return f"{name}: {', '.join(places) or 'none'}."


def _third(doubled_center: float, names: tuple[str, str, str]) -> str:
    return names[min(int(doubled_center * 3 / 2000), 2)]
