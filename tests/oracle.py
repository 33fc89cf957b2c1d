"""What a completion deserves, by a reading that shares no line with the package: Python's own literals, own overlaps, every matching tried.

It reads more leniently than the parser does (comments, 1_000, any order of keys), so that what it denies must not be paid. A share is of the honest
answer's reward in the same scene.

Axes: N boxes of an answer, M true ones.
"""

import ast
import itertools
import math
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from _hostile import CLASSIFICATION, DETECTION, GROUNDING, Scene

from visual_rft.frames import Box, Frame

TAG = re.compile(r"(</?(?:think|answer)>)")
BLANK = {"\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"}  # letters and signs that are drawn as nothing
MOST_BOXES, LONGEST_NAME = 100, 80


def said(text: str, thinking: bool) -> str | None:
    """What stands in the answer tags of a text that keeps the contract."""
    pieces = TAG.split(text)
    tags = ["<think>", "</think>", "<answer>", "</answer>"][0 if thinking else 2 :]
    if pieces[1::2] != tags or any(piece.strip() for piece in (*pieces[0:-1:4], pieces[-1])):
        return None
    return pieces[-3].strip()


def literal(body: str) -> Any:
    """The body as a literal of Python; None where it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(re.sub(r"[ \t\r\n\f\v]", " ", body).strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def box_of(corners: Any, frame: Frame) -> Box | None:
    """Four numbers as a box, if they are one in this frame."""
    if not isinstance(corners, Sequence) or len(corners) != 4 or not all(type(one) in (int, float) for one in corners):
        return None
    x1, y1, x2, y2 = corners
    return (x1, y1, x2, y2) if 0 <= x1 < x2 <= frame.width and 0 <= y1 < y2 <= frame.height else None


def detections_of(body: str, frame: Frame) -> list[tuple[Box, float]] | None:
    """(box, confidence) pairs of a detection answer; None where it is none."""
    if re.fullmatch(r"no\s+objects\s*\.?", body, re.IGNORECASE):
        return []
    items, found = literal(body), []
    if not isinstance(items, list) or len(items) > MOST_BOXES:
        return None
    for item in items:
        if not isinstance(item, dict) or set(item) != {"Position", "Confidence"}:
            return None
        box, confidence = box_of(item["Position"], frame), item["Confidence"]
        if box is None or type(confidence) not in (int, float) or not 0 <= confidence <= 1:
            return None
        found.append((box, confidence))
    return found


def overlap(one: Box, other: Box) -> float:
    """IoU."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    either = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both
    return both / either if either > 0 else 0.0


def worth(found: Sequence[tuple[Box, float]], true: Sequence[Box]) -> float:
    """The share that (box, confidence) pairs deserve: by the best of all ways to pair boxes of IoU above 0.5; of equally good ones, by the surest."""
    if not found and not true:
        return 1.0
    choices = []
    for box in true:
        near = [(overlap(box, one), confidence, n) for n, (one, confidence) in enumerate(found)]
        choices.append([None, *sorted((one for one in near if one[0] > 0.5), reverse=True)[: len(true)]])  # the M best of each are enough
    best = (0.0, 0.0)
    for pairs in itertools.product(*choices):
        chosen = [pair for pair in pairs if pair is not None]
        if len({n for _, _, n in chosen}) == len(chosen):
            iou, sure = math.fsum(pair[0] for pair in chosen), math.fsum(2 * pair[1] for pair in chosen)
            best = max(best, (round(iou, 12), sure))
    spent = math.fsum(confidence**2 for _, confidence in found)
    return (1 + (best[0] + best[1] - spent) / max(len(found), len(true))) / 3


def plain(name: str) -> str:
    """A name in lower case, one space for what stands between its words, without one stop at its end."""
    return re.sub(r"[\s_\u002d\u2010-\u2015]+", " ", unicodedata.normalize("NFC", name.casefold())).strip().removesuffix(".").strip()


def is_name(body: str) -> bool:
    """Whether it is one line with something to see."""
    seen = any(unicodedata.category(one)[0] in "LNPS" and one not in BLANK for one in body)
    return seen and len(body) <= LONGEST_NAME and len(body.splitlines()) == 1


def deserved(text: str, scene: Scene) -> float:
    """The share that a completion deserves at most; 0 if it breaks the contract."""
    body = said(text, scene.contract.thinking)
    if not body:
        return 0.0
    match scene.kind:
        case "detection":
            found = detections_of(body, scene.contract.frame)
            return 0.0 if found is None else worth(found, scene.truth.boxes)
        case "grounding":
            corners = literal(body)
            flat = [number for corner in corners for number in corner] if _is_pair_of_pairs(corners) else None
            box = box_of(flat, scene.contract.frame)
            return 0.0 if box is None else (1 + overlap(box, scene.truth.boxes[0])) / 2
        case _:
            return (1 + (plain(body) == plain(str(scene.truth)))) / 2 if is_name(body) else 0.0


def _is_pair_of_pairs(corners: Any) -> bool:
    return isinstance(corners, tuple) and len(corners) == 2 and all(isinstance(corner, tuple) and len(corner) == 2 for corner in corners)


def blind_bound(kind: str, cells: int, objects: int, absent: float) -> float:
    """The most that one and the same text can deserve in the mean over scenes: an image holds `objects` of so many disjoint `cells`, any equally
    likely, or, with probability `absent`, none.

    A box has an IoU above ½ with at most one of disjoint cells, for it would have to share more than half of itself with each. So with probability
    p = (1 - absent) · M / K at most it matches, and its IoU pays no more than p, its confidence, by Brier's rule, no more than p². Nobody is paid
    for more boxes than there are, and `No Objects` earns its 2 where there is nothing, and nowhere else. Grounding: the IoUs of one box with
    disjoint cells add up to at most 1. A name is right for one of K classes.
    """
    if kind == DETECTION:
        hit = (1 - absent) * objects / cells
        return (1 + max(2 * absent, hit + hit**2)) / 3
    assert kind in (CLASSIFICATION, GROUNDING) and objects == 1 and absent == 0
    return (1 + 1 / cells) / 2
