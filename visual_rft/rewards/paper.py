"""The rewards as published with Visual-RFT (arXiv 2503.01785 and its public code), holes included: for comparison, not for training.

The published code reads a list of boxes as JSON after it has turned ' into " and merged [[ and ]]; every failure is a silent 0. Known differences,
all outside of what a model is likely to write: a reward that is not finite is 0 here, a Position without exactly four numbers is always unreadable,
and so is no number for the count of its digits.

In every reward `answer` is there when the text obeys the contract; nothing is ever refused.
"""

import math
import re
from collections.abc import Sequence

from visual_rft.frames import CONTRACT, Box, Contract
from visual_rft.parsing import Cursor, Refused, parse_classification, parse_detection, parse_grounding
from visual_rft.vocabulary import Answer, ClassTruth, Detection, DetectionTruth, GroundingTruth, Reason, Refusal, Reward

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|NaN|-?Infinity", re.ASCII)
_LOOSE_NUMBER = r"(?:^|[\s=])(-?\d+(?:\.\d+)?)"
_NUMBER_AFTER_ANSWER = re.compile(rf"answer.{{0,50}}?{_LOOSE_NUMBER}", re.IGNORECASE | re.ASCII)
_ANY_NUMBER = re.compile(_LOOSE_NUMBER, re.ASCII)
_ONE_LINE_ANSWER = re.compile(r"<answer>(?:(.*?)</answer>|.*+)")  # passing over a line without end once, not for each of its tags
_ANSWER = re.compile(_ONE_LINE_ANSWER.pattern, re.DOTALL)
_CORNER = r"\(\s*+(\d++)\s*+,\s*+(\d++)\s*+\)"
_BOX = re.compile(rf"{_CORNER}\s*+,\s*+{_CORNER}")


def detection(text: str, truth: DetectionTruth, contract: Contract = CONTRACT, *, iou_threshold: float = 0.5) -> Reward:
    """Score a detection answer as the published code does; the parts, over N predictions (exact duplicates removed) and M true boxes:

    iou         Σ IoU of the matched / max(N, M): by falling confidence, each takes the best free truth with IoU > `iou_threshold`
    confidence  mean over predictions of c if matched, else 1 - c, clamped to 0..1
    format      1 if the whole text is think tags and then answer tags

    `iou` and `confidence` are both 1 at once if mathematics says that completion and solution are equal. The published line asks math_verify, which
    sees in either text one number; `_maths_number` stands in for it.
    """
    if _mathematically_equal(text, _solution(truth)):
        iou = confidence = 1.0
    else:
        iou, confidence = _iou_and_confidence(_lenient_list(_answer_list(text)), truth.boxes, iou_threshold)
    return Reward({"iou": iou, "confidence": confidence, "format": _format(text, contract)}, _shown(parse_detection(text, contract)), None)


def classification(text: str, truth: ClassTruth, contract: Contract = CONTRACT) -> Reward:
    """Score a classification answer as the published code does; the parts:

    accuracy  1 if either name contains the other, both without spaces and underscores and in lower case. What was said is the first answer that
              stands on one line, else the whole text. Also 1 by the equality that `detection` explains: two cars of one year, say
    format    as in `detection`
    """
    said, name = (name.replace(" ", "").replace("_", "").lower() for name in (_said(text, _ONE_LINE_ANSWER), truth.name.strip()))
    right = name in said or said in name or _mathematically_equal(text, f"<answer>{truth.name}</answer>")
    return Reward({"accuracy": float(right), "format": _format(text, contract)}, _shown(parse_classification(text, contract)), None)


def grounding(text: str, truth: GroundingTruth, contract: Contract = CONTRACT) -> Reward:
    """Score a grounding answer as the published code does; the parts:

    giou    GIoU + 1, in 0..2 for a proper box, without bounds for another. It is read from the first answer, else from the whole text, wherever it
            says (x1,y1),(x2,y2) in whole numbers; of several boxes the first corners of the first two are taken for one. 0 where there is none
    format  as in `detection`

    The published code pays 2 for the very text of the solution, which its box earns anyhow. The equality that `detection` explains comes first there
    too, but finds no number in a solution, where none has white space before it.
    """
    found = _BOX.findall(_said(text, _ANSWER))
    giou = _permissive_giou(truth.box, _first_two_corners(found)) + 1 if found else 0.0
    return Reward({"giou": giou if math.isfinite(giou) else 0.0, "format": _format(text, contract)}, _shown(parse_grounding(text, contract)), None)


def _shown(parsed: Answer | Refusal) -> Answer | None:
    return None if isinstance(parsed, Refusal) else parsed


def _solution(truth: DetectionTruth) -> str:
    """The truth as the released datasets write it."""
    boxes = (", ".join(f"{corner:g}" for corner in box) for box in truth.boxes)
    return "<answer>[" + ", ".join(f"{{'Position': [{box}], 'Confidence': 1}}" for box in boxes) + "]</answer>"


def _mathematically_equal(text: str, solution: str) -> bool:
    number = _maths_number(text)
    return number is not None and number == _maths_number(solution)


def _maths_number(text: str) -> float | None:
    """The number that math_verify (0.5.2 to 0.8.0 agree) takes a completion for.

    The first one after white space, on the same line and within 50 characters of the last word "answer" that has one: in the usual spelling
    y1 of the first box. Else the last such number of the text. Not covered: formulas, units, thousands.
    """
    numbers = _NUMBER_AFTER_ANSWER.findall(text) or _ANY_NUMBER.findall(text)
    return float(numbers[-1]) if numbers else None


def _said(text: str, answer: re.Pattern[str]) -> str:
    """What the first whole answer of a text holds, else the whole text; stripped."""
    return next((found[1] for found in answer.finditer(text) if found[1] is not None), text).strip()


def _answer_list(text: str) -> str:
    """What the published code takes for a list: the first answer that stands on one line, else the whole text; then its repairs."""
    body = _said(text, _ONE_LINE_ANSWER).replace("[[", "[").replace("]]", "]").replace("\n", "").partition("</answer>")[0]
    return body if body.endswith("]") else body.rsplit("},", 1)[0] + "}]"


def _lenient_list(text: str) -> list[Detection]:
    """The boxes of a JSON list whatever their numbers, without those whose Position came before; none if it is not such a list."""
    cursor = Cursor(text.replace("'", '"'))
    found: dict[tuple[float, ...], Detection] = {}
    try:
        cursor.expect("[", Reason.NOT_A_LIST)
        for _ in cursor.items("]", Reason.NOT_A_LIST, trailing_comma=False):
            one = _lenient_detection(cursor)
            found.setdefault(one.box, one)
    except Refused:
        return []
    return list(found.values()) if cursor.kind == "end" else []


def _lenient_detection(cursor: Cursor) -> Detection:
    fields: dict[str, list[float]] = {}
    cursor.expect("{", Reason.NOT_A_LIST)
    for _ in cursor.items("}", Reason.NOT_A_LIST, trailing_comma=False):
        key = cursor.take()
        cursor.expect(":", Reason.BAD_KEYS)
        if cursor.accept("["):
            fields[key] = [_json_number(cursor) for _ in cursor.items("]", Reason.BAD_BOX, trailing_comma=False)]
        elif cursor.kind == "string":
            fields[key] = []
            cursor.take()
        else:
            fields[key] = [_json_number(cursor)]
    match fields.get('"Position"', []), fields.get('"Confidence"', []):
        case [x1, y1, x2, y2], [confidence]:
            return Detection((x1, y1, x2, y2), confidence)
    raise cursor.refused(Reason.BAD_KEYS)


def _json_number(cursor: Cursor) -> float:
    if cursor.kind != "number" or not _JSON_NUMBER.fullmatch(cursor.value):
        raise cursor.refused(Reason.BAD_BOX)
    return float(cursor.take())


def _permissive_iou(truth: Box, found: Box) -> float:
    """IoU that takes any numbers; NaN for a box with NaN, 0 for an inverted one."""
    width = min(truth[2], found[2]) - max(truth[0], found[0])
    height = min(truth[3], found[3]) - max(truth[1], found[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (truth[2] - truth[0]) * (truth[3] - truth[1]) + (found[2] - found[0]) * (found[3] - found[1])
    return width * height / (areas - width * height)


def _first_two_corners(found: Sequence[tuple[str, str, str, str]]) -> Box:
    """The published code lists the first corners of all boxes, then the second ones, and goes on with the first two of this list."""
    corners = [one[:2] for one in found] + [one[2:] for one in found]
    x1, y1, x2, y2 = (float(number) for corner in corners[:2] for number in corner)
    return x1, y1, x2, y2


def _permissive_giou(truth: Box, found: Box) -> float:
    """GIoU (arXiv 1902.09630) that takes any numbers; above 1 for a box inverted on both axes, NaN or infinite for one beyond all bounds."""
    width = max(0.0, min(truth[2], found[2]) - max(truth[0], found[0]))
    height = max(0.0, min(truth[3], found[3]) - max(truth[1], found[1]))
    union = (truth[2] - truth[0]) * (truth[3] - truth[1]) + (found[2] - found[0]) * (found[3] - found[1]) - width * height
    hull = (max(truth[2], found[2]) - min(truth[0], found[0])) * (max(truth[3], found[3]) - min(truth[1], found[1]))
    iou = width * height / union if union > 0 else 0.0
    return iou - (hull - union) / hull if hull > 0 else iou


def _iou_and_confidence(found: Sequence[Detection], truth: Sequence[Box], iou_threshold: float) -> tuple[float, float]:
    if not found:
        return 0.0, 0.0
    free = list(truth)
    total = sureness = 0.0
    for one in sorted(found, key=lambda one: -one.confidence):
        ious = [_permissive_iou(box, one.box) for box in free]
        above = [iou for iou in ious if iou > iou_threshold]  # never NaN
        if above:
            free.pop(ious.index(max(above)))
            total += max(above)
        sureness += one.confidence if above else 1 - one.confidence
    mean = sureness / len(found)
    return min(total / max(len(found), len(truth)), 1.0), 0.0 if math.isnan(mean) else min(max(mean, 0.0), 1.0)


def _format(text: str, contract: Contract) -> float:
    """The published <think>.*?</think>\\s*<answer>.*?</answer> over the whole text; split up, since that expression can take quadratic time.

    Where no thinking is asked for, <answer>.*?</answer>."""
    if not contract.thinking:
        return float(text.startswith("<answer>") and text.endswith("</answer>"))
    inner = text[len("<think>") : -len("</answer>")]
    return float(text.startswith("<think>") and text.endswith("</answer>") and re.search(r"</think>\s*<answer>", inner) is not None)
