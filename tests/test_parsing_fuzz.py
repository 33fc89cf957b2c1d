"""Laws of everything that reads a model's text, on generated and mutated completions: it returns, in bounded time, and evaluates nothing.

    pytest tests/test_parsing_fuzz.py             10⁴ completions, each through all parsers and all rewards
    pytest -m slow tests/test_parsing_fuzz.py     10⁶ completions, each through all parsers, one in five through all rewards

The completions are seeded, so that every run meets the same.
"""

import ast
import builtins
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from visual_rft import parsing
from visual_rft.frames import Box
from visual_rft.parsing import parse_classification, parse_detection, parse_grounding
from visual_rft.rewards import paper, strict
from visual_rft.vocabulary import (
    Answer,
    ClassAnswer,
    ClassTruth,
    DetectionAnswer,
    DetectionTruth,
    GroundingAnswer,
    GroundingTruth,
    Reason,
    Refusal,
    Truth,
)

PARSERS: dict[Callable[[str], Answer | Refusal], type[Answer]] = {
    parse_detection: DetectionAnswer,
    parse_classification: ClassAnswer,
    parse_grounding: GroundingAnswer,
}
BOX: Box = (100.0, 200.0, 300.0, 400.0)
TRUTHS: dict[str, Truth] = {"detection": DetectionTruth((BOX,)), "classification": ClassTruth("pink rose 7"), "grounding": GroundingTruth(BOX)}
PARTS = {  # of strict, and their ranges
    "detection": {"iou": (0, 1), "confidence": (-1, 1), "format": (0, 1)},
    "classification": {"accuracy": (0, 1), "format": (0, 1)},
    "grounding": {"iou": (0, 1), "format": (0, 1)},
}
HOSTILE = (
    "<think>", "</think>", "<answer>", "</answer>", "<", ">", "[", "]", "{", "}", "(", ")", ",", ":", "'", '"', "\\", "\\u0000", ".", "-", "+",
    "'Position': ", '"Confidence": ', "'Position'", "No Objects", "NaN", "-Infinity", "inf", "1e999", "-1e-999", "0", "007", "1000.5", "-3",
    "9" * 400, "9" * 5000, "0." + "0" * 400 + "1", "٣", "４", "²", "\0", "\ud800", "\udfff", "\u2028", "\u200b", "\ufeff", "\x85", "\u00a0", "é",
    " ", "\t", "\r\n", "\v", "__import__('os').system('false')", "eval('1/0')", "{0.__class__}", "%s%n", "None", "lambda: 0", "# ", "answer 2",
    "<|im_end|>", "(100,200),(300,400)", "{'Position': [100, 200, 300, 400], 'Confidence': 1}", "rose", " or ", "[" * 300, "{[(" * 99, " " * 500,
    "'" * 301, "1," * 200, "0x10", "_", "🌹",
)  # fmt: skip


def tagged(body: str, thinking: str = "I see 2 of them.") -> str:
    return f"<think>{thinking}</think><answer>{body}</answer>"


def a_box(draw: random.Random) -> list[int]:
    """Four corners; now and then not those of a box."""
    x, y = draw.randint(0, 600), draw.randint(0, 600)
    corners = [x, y, x + draw.randint(1, 400), y + draw.randint(1, 400)]
    return draw.choices([0, 5, 1000, 1001, -1], k=4) if draw.random() < 0.1 else corners


def a_detection_answer(draw: random.Random) -> str:
    listed = [{"Position": a_box(draw), "Confidence": draw.randint(0, 101) / 100} for _ in range(draw.randrange(4))]
    if draw.random() < 0.01:
        listed = [{"Position": [1, 2, 3, 4], "Confidence": 1}] * 101
    return str(listed) if listed else draw.choice(["No Objects", "[]"])


def a_class_answer(draw: random.Random) -> str:
    return " ".join(draw.choices(["rose", "Pink", "pink_rose", "tulip", "737-200", "7"], k=draw.randrange(4)))


def a_grounding_answer(draw: random.Random) -> str:
    return ", ".join("({},{}),({},{})".format(*a_box(draw)) for _ in range(2 if draw.random() < 0.1 else 1))


def a_completion(draw: random.Random) -> str:
    """An answer of some task as it should be, whole or with up to three wounds."""
    white = draw.choice(["", " ", "\n"])
    body = draw.choice([a_detection_answer, a_class_answer, a_grounding_answer])(draw)
    text = tagged(f"{white}{body}{white}") + white
    for _ in range(draw.randrange(4)):
        text = wounded(draw, text)
    return text


def wounded(draw: random.Random, text: str) -> str:
    """One piece of a text inserted, deleted, repeated, swapped with its neighbour, spliced from another answer, or cut off with all behind it."""
    a, b, c = sorted(draw.randint(0, len(text)) for _ in range(3))
    before, one, two, behind = text[:a], text[a:b], text[b:c], text[c:]
    match draw.randrange(8):
        case 0 | 1 | 2:
            return before + draw.choice(HOSTILE) + one + two + behind
        case 3:
            return before + two + behind
        case 4:
            return before + one[:40] * draw.choice([2, 3, 50]) + two + behind
        case 5:
            return before + two + one + behind
        case 6:
            return before + tagged(a_grounding_answer(draw))[a:]
        case _:
            return before


def completions(seed: int, count: int) -> Iterator[str]:
    draw = random.Random(seed)
    return (a_completion(draw) for _ in range(count))


def assert_answered_or_refused(parse: Callable[[str], Answer | Refusal], text: str) -> Answer | Refusal:
    parsed = parse(text)
    if isinstance(parsed, Refusal):
        assert isinstance(parsed.reason, Reason) and len(parsed.detail) <= 60
        return parsed
    assert type(parsed) is PARSERS[parse]
    assert all(0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 for x1, y1, x2, y2 in parsed.boxes)
    if isinstance(parsed, ClassAnswer):
        assert 0 < len(parsed.name) <= 80 and len(parsed.name.splitlines()) == 1 and parsed.name in text
        assert parsed.name.encode()
    return parsed


def assert_scored(kind: str, text: str) -> None:
    truth = TRUTHS[kind]
    lenient, ours = getattr(paper, kind)(text, truth), getattr(strict, kind)(text, truth)
    assert all(type(value) is float and math.isfinite(value) for value in (*lenient.parts.values(), *ours.parts.values()))
    assert lenient.refusal is None and lenient.answer == ours.answer
    assert (ours.answer is None) != (ours.refusal is None)
    assert ours.parts.keys() == PARTS[kind].keys()
    assert all(low <= ours.parts[name] <= high for name, (low, high) in PARTS[kind].items())
    assert ours.parts["format"] == (ours.refusal is None) and (ours.refusal is None or not any(ours.parts.values()))


def fuzz(monkeypatch: pytest.MonkeyPatch, seed: int, count: int, scored: int) -> None:
    """Feed `count` completions to all parsers, and every `scored`-th to all rewards, while nothing may be evaluated, compiled or imported."""
    for kind in TRUTHS:
        assert_scored(kind, tagged("[]"))  # what libraries import when first called is theirs

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("text of the model was evaluated")

    answered = dict.fromkeys(PARSERS, 0)
    reasons: set[Reason] = set()
    with monkeypatch.context() as patch:
        for name in ("eval", "exec", "compile", "__import__"):
            patch.setattr(builtins, name, forbidden)
        for n, text in enumerate(completions(seed, count)):
            try:
                for parse in PARSERS:
                    parsed = assert_answered_or_refused(parse, text)
                    answered[parse] += not isinstance(parsed, Refusal)
                    reasons |= {parsed.reason} if isinstance(parsed, Refusal) else set()
                for kind in TRUTHS if n % scored == 0 else ():
                    assert_scored(kind, text)
            except Exception as error:
                error.add_note(f"completion {n} of seed {seed}: {text!a}")
                raise
    assert reasons == set(Reason) and min(answered.values()) > count / 20, "the completions no longer reach everything"


def test_no_completion_breaks_anything(monkeypatch):
    fuzz(monkeypatch, seed=0, count=10**4, scored=1)


@pytest.mark.slow
def test_no_completion_of_a_million_breaks_anything(monkeypatch):
    fuzz(monkeypatch, seed=1, count=10**6, scored=5)


def names(path: Path) -> Iterator[str]:
    """Every name that a module uses or imports; `re.compile` alone is known to compile no code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) != "re.compile":
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((getattr(node, "module", None) or "") and node.module.split(".")[0], *(alias.name for alias in node.names))


HERE = Path(parsing.__file__).parent


@pytest.mark.parametrize("path", [HERE / "parsing.py", *sorted((HERE / "rewards").glob("*.py"))], ids=lambda path: path.name)
def test_nothing_that_reads_text_can_evaluate_it(path):
    evaluators = {"eval", "exec", "literal_eval", "compile", "__import__", "ast", "builtins", "importlib", "pickle", "marshal", "yaml"}
    assert evaluators.isdisjoint(names(path))


MEGABYTE = 1_000_000
FAMILIES = (
    "[", "(", "{'Position': [", "{'Position': [1, 2, 3, 4], 'Confidence': 0.5}, ", "(1,2),(3,4),", "(1,", "1, ", "9", "0.", "\t1", "٣", "}, ",
    "answer ", "<think>", "<answer>", "</answer>", "<think></think>", " ", "\n", "'", '"', "\\", "\ud800", "rose ",
)  # fmt: skip


def masses(piece: str) -> Iterator[str]:
    """A megabyte of one piece: alone, thought, said, and where numbers should stand."""
    mass = piece * (MEGABYTE // len(piece))
    yield from (mass, tagged("[]", mass), tagged(mass), tagged(f"[{{'Position': [{mass}]}}]"), tagged(f"({mass},2),(3,4)"))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize("piece", FAMILIES, ids=ascii)
def test_a_megabyte_is_parsed_within_50_milliseconds(piece):
    for text in masses(piece):
        for parse in PARSERS:
            # The best of three, since other processes may take the core in between.
            assert any(seconds(lambda text=text, parse=parse: assert_answered_or_refused(parse, text)) < 0.05 for _ in range(3))


@pytest.mark.parametrize("piece", FAMILIES, ids=ascii)
def test_a_megabyte_is_scored_in_bounded_time(piece):
    mass = piece * (MEGABYTE // len(piece))
    for text in (mass, tagged(mass)):
        for kind in TRUTHS:
            assert any(seconds(lambda text=text, kind=kind: assert_scored(kind, text)) < 2 for _ in range(3))
