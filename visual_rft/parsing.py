"""Completion text to a typed answer, or to a typed refusal that says why. Never raises, never evaluates, and reads nothing but the text.

    <think> anything </think> <answer> [{'Position': [x1, y1, x2, y2], 'Confidence': c}, …]  or  No Objects </answer>

JSON or Python style, white space anywhere; boxes are xyxy in norm1000. The first fault from left to right decides the reason and ends the
reading, so any text takes linear time: one token ahead, a grammar of fixed depth, no recursion and no regular expression that backtracks.
"""

import math
import re
from collections.abc import Iterator

from visual_rft.vocabulary import Box, Detection, DetectionAnswer, Reason, Refusal

MAX_BOXES = 100  # COCO's limit of detections an image, too
_DETAIL = 60  # characters of the text that a refusal shows
_WHITE = " \t\r\n\f\v"

_TOKEN = re.compile(
    r"""\s*+(?: (?P<mark>[\[\]{}:,])
    | (?P<number>[-+]?+(?>(?:0|[1-9]\d*+)(?:\.\d*+)?+(?:[eE][-+]?\d++)?+ | \.\d++(?:[eE][-+]?\d++)?+ | (?i:nan|inf(?:inity)?+)))(?![\w.])
    | (?P<string>'[^']*+'|"[^"]*+")
    | (?P<other>.)
    | (?P<end>\Z))""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_NO_OBJECTS = re.compile(r"no\s++objects\s*+\.?", re.IGNORECASE | re.ASCII)


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
                if not self.accept(","):
                    raise self.refused(reason)
                ended = trailing_comma and self.accept(close)


def parse_detection(text: str) -> DetectionAnswer | Refusal:
    """The detections of a completion (the text before the stop token), or the first reason, from left to right, why it has none."""
    try:
        body = _answer_body(text)
        return DetectionAnswer(()) if _NO_OBJECTS.fullmatch(body) else DetectionAnswer(_detections(Cursor(body)))
    except Refused as refused:
        return refused.refusal


def _answer_body(text: str) -> str:
    """What stands between the answer tags, stripped of white space. Raises Refused."""
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        if text.count(tag) > 1:
            raise Refused(Refusal(Reason.REPEATED_TAG, tag))
    for opening, closing in (("<think>", "</think>"), ("<answer>", "</answer>")):
        _, opened, rest = text.partition(opening)
        if opened and closing not in rest:
            raise Refused(Refusal(Reason.TRUNCATED, text[-_DETAIL:]))
    before, think, rest = text.partition("<think>")
    _, _, after = rest.partition("</think>")
    between, answer, rest = after.partition("<answer>")
    body, _, behind = rest.partition("</answer>")
    if not think or "<answer>" in before:
        raise Refused(Refusal(Reason.NO_THINK, text[:_DETAIL]))
    if not answer:
        raise Refused(Refusal(Reason.NO_ANSWER, after[:_DETAIL]))
    for outside in (before, between, behind):
        if outside.strip(_WHITE):
            raise Refused(Refusal(Reason.TEXT_OUTSIDE, outside.strip(_WHITE)[:_DETAIL]))
    if not body.strip(_WHITE):
        raise Refused(Refusal(Reason.EMPTY_ANSWER))
    return body.strip(_WHITE)


def _detections(cursor: Cursor) -> tuple[Detection, ...]:
    if not cursor.accept("["):
        raise cursor.refused(Reason.NOT_A_LIST)
    detections: list[Detection] = []
    for _ in cursor.items("]", Reason.NOT_A_LIST):
        if len(detections) == MAX_BOXES:
            raise cursor.refused(Reason.TOO_MANY_BOXES)
        detections.append(_detection(cursor))
    if cursor.kind != "end":
        raise cursor.refused(Reason.NOT_A_LIST)
    return tuple(detections)


def _detection(cursor: Cursor) -> Detection:
    if not cursor.accept("{"):
        raise cursor.refused(Reason.NOT_A_LIST)
    box: Box | None = None
    confidence: float | None = None
    for _ in cursor.items("}", Reason.NOT_A_LIST):
        key = cursor.value[1:-1] if cursor.kind == "string" else ""
        repeated = (box if key == "Position" else confidence) is not None
        if key not in ("Position", "Confidence") or repeated:
            raise cursor.refused(Reason.BAD_KEYS)
        cursor.take()
        if not cursor.accept(":"):
            raise cursor.refused(Reason.BAD_KEYS)
        if key == "Position":
            box = _position(cursor)
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


def _position(cursor: Cursor) -> Box:
    start = cursor.start
    if not cursor.accept("["):
        raise cursor.refused(Reason.BAD_BOX)
    corners: list[float] = []
    for _ in cursor.items("]", Reason.BAD_BOX):
        if len(corners) == 4:
            raise cursor.refused(Reason.BAD_BOX, start)
        corners.append(_number(cursor, Reason.BAD_BOX))
    if len(corners) != 4:
        raise cursor.refused(Reason.BAD_BOX, start)
    x1, y1, x2, y2 = corners
    if min(corners) < 0 or max(corners) > 1000:
        raise cursor.refused(Reason.OUT_OF_FRAME, start)
    if x2 < x1 or y2 < y1:
        raise cursor.refused(Reason.INVERTED_BOX, start)
    # The product, since two tiny sides can vanish in it.
    if (x2 - x1) * (y2 - y1) <= 0:
        raise cursor.refused(Reason.ZERO_AREA, start)
    return x1, y1, x2, y2
