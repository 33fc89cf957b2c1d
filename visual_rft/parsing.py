"""Completion text to a typed answer, or to a typed refusal that says why. Never raises, never evaluates, and reads nothing but the text.

    <think> anything </think> <answer> … </answer>  or, where the contract asks for no thinking, the answer alone; with, by task:

    detection       [{'Position': [x1, y1, x2, y2], 'Confidence': c}, …]  or  No Objects; JSON or Python style
    classification  a name
    grounding       (x1,y1),(x2,y2)

White space anywhere; boxes are xyxy in the contract's frame. The first fault from left to right decides the reason and ends the reading, so any text
takes linear time: one token ahead, a grammar of fixed depth, no recursion and no regular expression that backtracks.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from visual_rft.frames import CONTRACT, Box, Contract, Frame
from visual_rft.vocabulary import ClassAnswer, Detection, DetectionAnswer, GroundingAnswer, Reason, Refusal

MAX_BOXES = 100  # COCO's limit of detections an image, too
NO_ALIASES: Mapping[str, str] = MappingProxyType({})
_DETAIL = 60  # characters of the text that a refusal shows
_WHITE = " \t\r\n\f\v"

_TOKEN = re.compile(
    r"""\s*+(?: (?P<mark>[\[\]{}():,])
    | (?P<number>[-+]?+(?>(?:0|[1-9]\d*+)(?:\.\d*+)?+(?:[eE][-+]?\d++)?+ | \.\d++(?:[eE][-+]?\d++)?+ | (?i:nan|inf(?:inity)?+)))(?![\w.])
    | (?P<string>'[^']*+'|"[^"]*+")
    | (?P<other>.)
    | (?P<end>\Z))""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_NO_OBJECTS = re.compile(r"no\s++objects\s*+\.?", re.IGNORECASE | re.ASCII)
# One line of at most 80 characters. Besides the ends of lines, controls and lone surrogates, which no file could hold; not the tab.
_NAME = re.compile(r"[^<>\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,80}+")
# Characters without a shape, beside those of category Cf: what else Unicode lets a font show as nothing, and the empty Braille cell.
_SHAPELESS = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
_BETWEEN_WORDS = re.compile(r"[\s_\u2010-\u2015-]++")

Read = TypeVar("Read")


class Refused(Exception):
    """Carries a refusal out of a reader; it never leaves the public functions of this package."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class Cursor:
    """Reads a text token by token: `kind` (mark, number, string, other, end), `value` and `start` are those of the token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.kind = self.value = ""
        self.start = self._next = 0
        self.take()

    def take(self) -> str:
        """Step over the token ahead and return it (strings keep their quotes)."""
        taken = self.value
        token = _TOKEN.match(self._text, self._next)
        assert token is not None and token.lastgroup is not None, "every text opens with some token"
        self.kind, self.value = token.lastgroup, token[token.lastgroup]
        self.start, self._next = token.span(token.lastgroup)
        return taken

    def accept(self, mark: str) -> bool:
        """Step over the token ahead if it is this mark, and say whether it was."""
        accepted = self.kind == "mark" and self.value == mark
        if accepted:
            self.take()
        return accepted

    def expect(self, mark: str, reason: Reason) -> None:
        """Step over the token ahead, which must be this mark. Raises Refused(reason)."""
        if not self.accept(mark):
            raise self.refused(reason)

    def refused(self, reason: Reason, start: int | None = None) -> Refused:
        """The exception to raise; it shows the text from `start` on, else from the token ahead."""
        start = self.start if start is None else start
        return Refused(Refusal(reason, self._text[start : start + _DETAIL]))

    def items(self, close: str, reason: Reason, *, trailing_comma: bool = True) -> Iterator[None]:
        """Stop at every item of a comma-separated list, whose opening mark is taken, and take its closing mark. Raises Refused(reason)."""
        ended = self.accept(close)
        while not ended:
            yield
            ended = self.accept(close)
            if not ended:
                self.expect(",", reason)
                ended = trailing_comma and self.accept(close)


def parse_detection(text: str, contract: Contract = CONTRACT) -> DetectionAnswer | Refusal:
    """The detections of a completion (the text before the stop token), or the first reason, from left to right, why it has none."""
    return _read(text, contract, _detection_answer)


def parse_classification(text: str, contract: Contract = CONTRACT) -> ClassAnswer | Refusal:
    """The name that a completion says, as it was said, or the first reason why it says none."""
    return _read(text, contract, _class_answer)


def parse_grounding(text: str, contract: Contract = CONTRACT) -> GroundingAnswer | Refusal:
    """The one box that a completion draws, or the first reason, from left to right, why it draws none."""
    return _read(text, contract, _grounding_answer)


@lru_cache(maxsize=8192)  # a table of aliases is looked through for every answer
def normalised_name(text: str) -> str:
    """A name without what spelling may vary: case-folded, one space for each run of white space, underscores and hyphens, no stop at its end.

    In NFC, where an accent is part of its letter: not in NFKC, in which a circled or a mathematical letter is the letter.
    """
    spaced = _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())).strip(" ")
    return spaced.removesuffix(".").rstrip(" ")


def canonical_name(text: str, aliases: Mapping[str, str]) -> str:
    """The normalised name of the class that a name means; `aliases` maps further names to that of their class, whatever the spelling of either."""
    name = normalised_name(text)
    return {normalised_name(alias): normalised_name(of_class) for alias, of_class in aliases.items()}.get(name, name)


def _read(text: str, contract: Contract, reader: Callable[[str, Frame], Read]) -> Read | Refusal:
    try:
        return reader(_answer_body(text, thinking=contract.thinking), contract.frame)
    except Refused as refused:
        return refused.refusal


def _answer_body(text: str, *, thinking: bool) -> str:
    """What stands between the answer tags, stripped of white space. Raises Refused."""
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        if text.count(tag) > 1:
            raise Refused(Refusal(Reason.REPEATED_TAG, tag))
    for opening, closing in (("<think>", "</think>"), ("<answer>", "</answer>")):
        _, opened, rest = text.partition(opening)
        if opened and closing not in rest:
            raise Refused(Refusal(Reason.TRUNCATED, text[-_DETAIL:]))
    before, think, rest = text.partition("<think>") if thinking else ("", "", "")
    _, _, after = rest.partition("</think>") if thinking else ("", "", text)
    between, answer, rest = after.partition("<answer>")
    body, _, behind = rest.partition("</answer>")
    if thinking and (not think or "<answer>" in before):
        raise Refused(Refusal(Reason.NO_THINK, text[:_DETAIL]))
    if not answer:
        raise Refused(Refusal(Reason.NO_ANSWER, after[:_DETAIL]))
    for outside in (before, between, behind):
        if outside.strip(_WHITE):
            raise Refused(Refusal(Reason.TEXT_OUTSIDE, outside.strip(_WHITE)[:_DETAIL]))
    if not body.strip(_WHITE):
        raise Refused(Refusal(Reason.EMPTY_ANSWER))
    return body.strip(_WHITE)


def _says_nothing(character: str) -> bool:
    return character in " ." or unicodedata.category(character) == "Cf" or _SHAPELESS.match(character) is not None


def _class_answer(body: str, _: Frame) -> ClassAnswer:
    if not _NAME.fullmatch(body):
        raise Refused(Refusal(Reason.NOT_A_NAME, body[:_DETAIL]))
    if all(map(_says_nothing, unicodedata.normalize("NFKC", normalised_name(body)))):
        raise Refused(Refusal(Reason.EMPTY_ANSWER, body[:_DETAIL]))
    return ClassAnswer(body)


def _grounding_answer(body: str, frame: Frame) -> GroundingAnswer:
    cursor = Cursor(body)
    start = cursor.start
    first = _corner(cursor)
    cursor.expect(",", Reason.NOT_A_BOX)
    box = _box(cursor, (*first, *_corner(cursor)), start, frame)
    behind = cursor.start
    if cursor.kind != "end":
        cursor.accept(",")
        raise cursor.refused(Reason.SEVERAL_BOXES if cursor.accept("(") else Reason.NOT_A_BOX, behind)
    return GroundingAnswer(box)


def _corner(cursor: Cursor) -> tuple[float, float]:
    cursor.expect("(", Reason.NOT_A_BOX)
    x = _number(cursor, Reason.NOT_A_BOX)
    cursor.expect(",", Reason.NOT_A_BOX)
    y = _number(cursor, Reason.NOT_A_BOX)
    cursor.expect(")", Reason.NOT_A_BOX)
    return x, y


def _detection_answer(body: str, frame: Frame) -> DetectionAnswer:
    return DetectionAnswer(() if _NO_OBJECTS.fullmatch(body) else _detections(Cursor(body), frame))


def _detections(cursor: Cursor, frame: Frame) -> tuple[Detection, ...]:
    cursor.expect("[", Reason.NOT_A_LIST)
    detections: list[Detection] = []
    for _ in cursor.items("]", Reason.NOT_A_LIST):
        if len(detections) == MAX_BOXES:
            raise cursor.refused(Reason.TOO_MANY_BOXES)
        detections.append(_detection(cursor, frame))
    if cursor.kind != "end":
        raise cursor.refused(Reason.NOT_A_LIST)
    return tuple(detections)


def _detection(cursor: Cursor, frame: Frame) -> Detection:
    cursor.expect("{", Reason.NOT_A_LIST)
    box: Box | None = None
    confidence: float | None = None
    for _ in cursor.items("}", Reason.NOT_A_LIST):
        key = cursor.value[1:-1] if cursor.kind == "string" else ""
        repeated = (box if key == "Position" else confidence) is not None
        if key not in ("Position", "Confidence") or repeated:
            raise cursor.refused(Reason.BAD_KEYS)
        cursor.take()
        cursor.expect(":", Reason.BAD_KEYS)
        if key == "Position":
            box = _position(cursor, frame)
        else:
            confidence = _confidence(cursor)
    if box is None or confidence is None:
        raise cursor.refused(Reason.BAD_KEYS)
    return Detection(box, confidence)


def _number(cursor: Cursor, reason: Reason) -> float:
    if cursor.kind != "number":
        raise cursor.refused(reason)
    # Never int(): Python refuses integers of more than 4300 digits with an exception, where float() says inf.
    if not math.isfinite(float(cursor.value)):
        raise cursor.refused(Reason.NOT_FINITE)
    return float(cursor.take())


def _confidence(cursor: Cursor) -> float:
    start = cursor.start
    confidence = _number(cursor, Reason.BAD_CONFIDENCE)
    if not 0 <= confidence <= 1:
        raise cursor.refused(Reason.BAD_CONFIDENCE, start)
    return confidence


def _position(cursor: Cursor, frame: Frame) -> Box:
    start = cursor.start
    cursor.expect("[", Reason.BAD_BOX)
    corners: list[float] = []
    for _ in cursor.items("]", Reason.BAD_BOX):
        if len(corners) == 4:
            raise cursor.refused(Reason.BAD_BOX, start)
        corners.append(_number(cursor, Reason.BAD_BOX))
    if len(corners) != 4:
        raise cursor.refused(Reason.BAD_BOX, start)
    return _box(cursor, corners, start, frame)


def _box(cursor: Cursor, corners: Sequence[float], start: int, frame: Frame) -> Box:
    """Four numbers read from `start` on as a box, if they are one."""
    x1, y1, x2, y2 = corners
    if min(corners) < 0 or max(x1, x2) > frame.width or max(y1, y2) > frame.height:
        raise cursor.refused(Reason.OUT_OF_FRAME, start)
    if x2 < x1 or y2 < y1:
        raise cursor.refused(Reason.INVERTED_BOX, start)
    # The product, since two tiny sides can vanish in it.
    if (x2 - x1) * (y2 - y1) <= 0:
        raise cursor.refused(Reason.ZERO_AREA, start)
    return x1, y1, x2, y2
