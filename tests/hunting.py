"""A search for hacks: texts are mutated, and the best of each sort live on (MAP-Elites, Mouret & Clune 2015, arXiv 1504.04909).

What is best is what is overpaid most, then what is paid most, then what is short; of each sort (the refusal or the number of boxes, and the pay) one
lives on, so that the search does not end where the honest answer is. Seeded: the same seed meets the same texts.
"""

import random
import re
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

LONGEST = 2500  # characters of a text
SLOW = 0.5  # seconds for one text: ten thousand times the usual
ROUNDING = 1e-9

TOKENS = (
    "<think>", "</think>", "<answer>", "</answer>", "<", ">", "[", "]", "{", "}", "(", ")", "[]", "{}", ",", ":", "'", '"', "\\", ".", "-", "+",
    "'Position': ", '"Confidence": ', "No Objects", "no objects.", "NaN", "-Infinity", "1e999", "1e-999", "0", "1", "1.0", ".5", "007", "1e2",
    "100", "200", "300", "400", "1000", "1001", "-1", "9" * 400, "0." + "0" * 300 + "1", "٣", "４", "²", "\0", "\ud800", "\u2028", "\u200b", "\ufeff",
    "\u3164", "\u2800", "\ufe0f", "\u00a0", "\u00ad", "\u202e", "é", "ı", "ſ", "К", "а", "е", "о", "р", " ", "\t", "\n", "\r\n", "\v", "\f", "\x85",
    "# ", "/", " or ", "not ", "a ", "the ", "_", "-", "2012", "rose", "pink", "answer 200", "(100,200),(300,400)", "[100, 200, 300, 400]",
    "{'Position': [100, 200, 300, 400], 'Confidence': 1.0}", "{'Position': [990, 990, 1000, 1000], 'Confidence': 0.0}", ", ", "<|im_end|>",
)  # fmt: skip
LIKE = str.maketrans("aeopcxyikA01<>'\",()[]", "аеорсхуікА０１＜＞＇＂，（）［］")  # letters and marks that look like others
CONFIDENCES = ("0", "0.0", "0.01", "0.25", "0.5", "0.75", "0.99", "1", "1.0", "1e-9")
ITEM = re.compile(r"\{[^{}]*\}")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CONFIDENCE = re.compile(r"(?<='Confidence': )[\d.]+")
PIECE = re.compile(r"</?\w+>|\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Verdict:
    """What a text is paid and what it deserves, and its sort."""

    paid: float
    deserved: float
    sort: Hashable


@dataclass(frozen=True)
class Hack:
    """A text that is paid for nothing, and how that shows."""

    text: str
    how: str


def hunt(judge: Callable[[str], Verdict], texts: Sequence[str], *, seed: int, tries: int, most: int = 5) -> list[Hack]:
    """Look for texts that `judge` pays more than they deserve, for which it raises, is not finite or takes long: those of `texts`, and their
    descendants, `tries` in all; up to `most` of what is found."""
    draw = random.Random(seed)
    elites: dict[Hashable, tuple[tuple[float, float, int], str]] = {}
    alive: list[str] = []  # as many as there are sorts
    places: dict[Hashable, int] = {}
    found: dict[str, Hack] = {}
    for number in range(tries):
        text = texts[number] if number < len(texts) else child(draw, alive)
        verdict, hack = examined(judge, text)
        if hack is not None:
            found.setdefault(text, hack)
            if len(found) == most:
                break
        if verdict is None:
            continue
        merit = (round(verdict.paid - verdict.deserved, 9), verdict.paid, -len(text))
        if verdict.sort not in elites:
            places[verdict.sort] = len(alive)
            alive.append(text)
        elif merit <= elites[verdict.sort][0]:
            continue
        elites[verdict.sort], alive[places[verdict.sort]] = (merit, text), text
    return list(found.values())


def examined(judge: Callable[[str], Verdict], text: str) -> tuple[Verdict | None, Hack | None]:
    """The verdict on a text, and what is wrong with it."""
    start = time.perf_counter()
    try:
        verdict = judge(text)
    except Exception as error:  # noqa: BLE001
        return None, Hack(text, f"raises {error!r}")
    if time.perf_counter() - start > SLOW and all(seconds(judge, text) > SLOW for _ in range(3)):  # not because of another process
        return verdict, Hack(text, f"takes more than {SLOW} s")
    if not abs(verdict.paid) < 1e6:
        return None, Hack(text, f"is paid {verdict.paid}")
    if verdict.paid > verdict.deserved + ROUNDING:
        return verdict, Hack(text, f"is paid {verdict.paid:.4f} and deserves {verdict.deserved:.4f}")
    return verdict, None


def seconds(judge: Callable[[str], Verdict], text: str) -> float:
    """How long a verdict takes."""
    start = time.perf_counter()
    judge(text)
    return time.perf_counter() - start


def child(draw: random.Random, parents: Sequence[str]) -> str:
    """One to four mutations away from a text, or from two of them crossed."""
    text = draw.choice(parents)
    if draw.random() < 0.1:
        text = crossed(draw, text, draw.choice(parents))
    for _ in range(draw.choice((1, 1, 2, 4))):
        mutated = draw.choice(MUTATIONS)(draw, text)
        text = mutated if len(mutated) <= LONGEST else text
    return text


def crossed(draw: random.Random, one: str, other: str) -> str:
    """The beginning of a text and the end of another."""
    return one[: draw.randint(0, len(one))] + other[draw.randint(0, len(other)) :]


def _pieces(draw: random.Random, text: str) -> tuple[list[str], int, int]:
    """The text in words, numbers, marks and tags, and two places between them."""
    pieces = PIECE.findall(text)
    one, other = sorted((draw.randint(0, len(pieces)), min(len(pieces), draw.randint(0, len(pieces)))))
    return pieces, one, min(other, one + 12)


def inserted(draw: random.Random, text: str) -> str:
    """A token put somewhere."""
    pieces, at, _ = _pieces(draw, text)
    return "".join([*pieces[:at], draw.choice(TOKENS), *pieces[at:]])


def deleted(draw: random.Random, text: str) -> str:
    """A few pieces gone."""
    pieces, one, other = _pieces(draw, text)
    return "".join(pieces[:one] + pieces[max(other, one + 1) :])


def repeated(draw: random.Random, text: str) -> str:
    """A few pieces said several times."""
    pieces, one, other = _pieces(draw, text)
    return "".join(pieces[:one] + pieces[one:other] * draw.choice((2, 2, 3, 9)) + pieces[other:])


def swapped(draw: random.Random, text: str) -> str:
    """A few pieces moved elsewhere."""
    pieces, one, other = _pieces(draw, text)
    moved, rest = pieces[one:other], pieces[:one] + pieces[other:]
    at = draw.randint(0, len(rest))
    return "".join(rest[:at] + moved + rest[at:])


def replaced(draw: random.Random, text: str) -> str:
    """A piece that becomes a token."""
    pieces, at, _ = _pieces(draw, text)
    return "".join([*pieces[:at], draw.choice(TOKENS), *pieces[at + 1 :]])


def disguised(draw: random.Random, text: str) -> str:
    """A stretch in letters and marks that look like its own."""
    one = draw.randint(0, len(text))
    other = min(len(text), one + draw.choice((1, 3, 20)))
    return text[:one] + text[one:other].translate(LIKE) + text[other:]


def cut(draw: random.Random, text: str) -> str:
    """The text up to somewhere, now and then with its end put back."""
    return text[: draw.randint(0, len(text))] + draw.choice(("", "", "</answer>", "]</answer>", "}]</answer>"))


def renumbered(draw: random.Random, text: str) -> str:
    """A number a little or very different."""
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return text
    number = draw.choice(numbers)
    value = float(number[0])
    other = draw.choice((value + draw.choice((-1, 1, -10, 10)), value * draw.choice((0.5, 1.5, 10)), draw.randint(0, 1000), 0, 1000))
    return f"{text[: number.start()]}{other:g}{text[number.end() :]}"


def surer(draw: random.Random, text: str) -> str:
    """A confidence, or all of them, of another value."""
    return CONFIDENCE.sub(lambda _: draw.choice(CONFIDENCES), text, count=draw.choice((0, 1)))


def reboxed(draw: random.Random, text: str) -> str:
    """A box said twice, the second one moved; left out; or several of them in another order."""
    items = ITEM.findall(text)
    if not items:
        return text
    begin, end = text.index(items[0]), text.rindex(items[-1]) + len(items[-1])
    item = draw.choice(items)
    match draw.randrange(4):
        case 0 | 1:
            copies = [surer(draw, renumbered(draw, item)) for _ in range(draw.choice((1, 1, 2, 20)))]
            items = [*items, *copies]
        case 2:
            items = [one for one in items if one is not item]
        case _:
            draw.shuffle(items)
    return text[:begin] + ", ".join(items) + text[end:]


MUTATIONS = (inserted, deleted, repeated, swapped, replaced, disguised, cut, renumbered, renumbered, surer, reboxed, reboxed)
