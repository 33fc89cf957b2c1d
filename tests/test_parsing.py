"""Laws of the parsers: they read back whatever was rendered, name the fault of anything else, and no text can break them.

pytest tests/test_parsing.py
"""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft.frames import NORM1000, Contract, Original, Resized
from visual_rft.parsing import canonical_name, normalised_name, parse_classification, parse_detection, parse_grounding
from visual_rft.vocabulary import ClassAnswer, Detection, DetectionAnswer, GroundingAnswer, Reason, Refusal

ONE = "{'Position': [1, 2, 3, 4], 'Confidence': 0.5}"
ANSWER = DetectionAnswer((Detection((1, 2, 3, 4), 0.5),))

spans = st.tuples(st.integers(0, 999) | st.floats(0, 998), st.integers(1, 1000) | st.floats(1, 1000)).filter(lambda span: span[0] < span[1])
detections = st.builds(lambda x, y, c: Detection((x[0], y[0], x[1], y[1]), c), spans, spans, st.floats(0, 1) | st.sampled_from([0, 1, 0.5, 0.95]))
answers = st.lists(detections, max_size=4).map(lambda found: DetectionAnswer(tuple(found)))
blanks = st.text(" \t\r\n\f\v", max_size=3)


def tagged(body: str, thinking: str = "I see.") -> str:
    return f"<think>{thinking}</think><answer>{body}</answer>"


def one(position: str = "[1, 2, 3, 4]", confidence: str = "0.5") -> str:
    return tagged(f"[{{'Position': {position}, 'Confidence': {confidence}}}]")


@st.composite
def renderings(draw, answer: DetectionAnswer) -> str:
    """A text that means `answer`: either quote, either order of keys, white space between any tokens, trailing commas."""
    quote, comma, backwards = draw(st.sampled_from("'\"")), draw(st.sampled_from([[], [","]])), draw(st.booleans())
    tokens = ["["]
    for n, found in enumerate(answer.detections):
        position = [token for corner in found.box for token in (repr(corner), ",")]
        fields = [
            [f"{quote}Position{quote}", ":", "[", *position[:-1], *comma, "]"],
            [f"{quote}Confidence{quote}", ":", repr(found.confidence)],
        ]
        first, second = fields[::-1] if backwards else fields
        tokens += [*([","] if n else []), "{", *first, ",", *second, *comma, "}"]
    tokens += [*(comma if answer.detections else []), "]"]
    if not answer.detections and draw(st.booleans()):
        tokens = [draw(st.sampled_from(["No Objects", "no objects", "NO \n objects", "No Objects ."]))]
    thinking = draw(st.text(max_size=20).filter(lambda text: "<" not in text))
    return "".join(draw(blanks) + token for token in ["<think>" + thinking + "</think>", "<answer>", *tokens, "</answer>"]) + draw(blanks)


@settings(deadline=None, max_examples=200)
@given(st.data(), answers)
def test_what_is_rendered_is_read_back(data, answer):
    assert parse_detection(data.draw(renderings(answer))) == answer


@settings(deadline=None, max_examples=100)
@given(answers)
def test_json_and_python_agree(answer):
    listed = [{"Position": list(found.box), "Confidence": found.confidence} for found in answer.detections]
    for body in (json.dumps(listed), json.dumps(listed, indent=2), str(listed)):
        assert parse_detection(tagged(body)) == answer


@settings(deadline=None, max_examples=200)
@given(st.data(), spans, spans)
def test_a_rendered_box_is_read_back(data, x, y):
    x1, y1, x2, y2 = (repr(corner) for corner in (x[0], y[0], x[1], y[1]))
    tokens = ["(", x1, ",", y1, ")", ",", "(", x2, ",", y2, ")"]
    body = "".join(data.draw(blanks) + token for token in tokens) + data.draw(blanks)
    assert parse_grounding(tagged(body)) == GroundingAnswer((x[0], y[0], x[1], y[1]))


# In names, all but what ends a line, controls and halves of characters; marks beside the letters that change with them most.
characters = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="<>") | st.sampled_from("-_ .\u2010ſßİıᾼ…ﬁ")
named = st.text(characters, min_size=1, max_size=80).filter(lambda name: name == name.strip(" "))
called = named.filter(lambda name: any(map(str.isprintable, normalised_name(name))))


@settings(deadline=None, max_examples=200)
@given(called, blanks, blanks)
def test_a_name_is_read_back_as_it_was_said(name, before, behind):
    assert parse_classification(tagged(before + name + behind)) == ClassAnswer(name)


def assert_typed(text: str) -> None:
    """Whatever the text, the result is a refusal that shows little or an answer that keeps the contract."""
    parsed = parse_detection(text)
    assert parsed == parse_detection(text)
    if isinstance(parsed, Refusal):
        assert len(parsed.detail) <= 60
        return
    assert len(parsed.detections) <= 100
    for found in parsed.detections:
        x1, y1, x2, y2 = found.box
        assert all(isinstance(number, float) for number in (*found.box, found.confidence))
        assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 and (x2 - x1) * (y2 - y1) > 0 and 0 <= found.confidence <= 1


@settings(deadline=None, max_examples=1000)
@given(st.text() | st.text().map(tagged))
def test_any_text_is_answered_or_refused(text):
    assert_typed(text)


FRAGMENTS = [
    "<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", ",", ":", "'", '"', "'Position'", '"Confidence"', ONE, "No Objects",
    "1", "-", ".", "e9", "1000", "nan", "-Infinity", "1e-200", "9" * 5000, "None", "x", "(", " ", "\n", "\\", "\0", "٣", "\ud800",
]  # fmt: skip


@settings(deadline=None, max_examples=1000)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_any_heap_of_fragments_is_answered_or_refused(heap):
    assert_typed(heap)
    assert_typed(tagged(heap))
    assert_typed(tagged(f"[{{'Position': [{heap}], 'Confidence': 1}}]"))


@settings(deadline=None, max_examples=300)
@given(st.data(), answers)
def test_a_mutated_answer_is_answered_or_refused(data, answer):
    text = data.draw(renderings(answer))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.sampled_from(["", *FRAGMENTS])) + text[start + data.draw(st.integers(0, 3)) :]
    assert_typed(text)


def test_a_text_cut_short_is_never_an_answer():
    text = tagged(f"[{ONE}]")
    for length in range(len(text)):
        parsed = parse_detection(text[:length])
        assert isinstance(parsed, Refusal)
        inside = len("<think>") <= length < text.index("</think>") + 8 or length >= text.index("<answer>") + 8
        assert (parsed.reason is Reason.TRUNCATED) == inside


REFUSED = [
    (Reason.NO_THINK, "", f"[{ONE}]", "<answer>[]</answer>", "</think><answer>[]</answer>", "<answer>[]</answer><think>x</think>", "<thin"),
    (Reason.NO_ANSWER, "<think>x</think>", "<think>x</think>[]", "<think><answer>[]</answer></think>", "<think>x</think></answer>"),
    (Reason.NO_ANSWER, "<think>x</think><ans"),
    (Reason.TRUNCATED, "<think>and then", "<think>x</think><answer>[{'Pos", "<answer>[", "<think>x</think><answer>[]</answer", "</think>[]<think>"),
    (Reason.REPEATED_TAG, tagged("[]") * 2, "<think>" + tagged("[]"), tagged("[]</answer>"), tagged("[]", "so <answer>")),
    (Reason.TEXT_OUTSIDE, "Sure! " + tagged("[]"), tagged("[]") + ".", "<think>x</think>so<answer>[]</answer>", tagged("[]") + "\u00a0"),
    (Reason.EMPTY_ANSWER, tagged(""), tagged(" \n")),
    (Reason.NOT_A_LIST, tagged("nothing"), tagged("NoObjects"), tagged("No Objects!"), tagged(ONE), tagged("[1]"), tagged("[[]]"), tagged("[,]")),
    (Reason.NOT_A_LIST, tagged(f"[{ONE}"), tagged(f"[{ONE} {ONE}]"), tagged(f"[{ONE},,]"), tagged(f"[{ONE}]."), tagged("[]]"), tagged(f"({ONE},)")),
    (Reason.NOT_A_LIST, tagged("[{'Position': [1, 2, 3, 4] 'Confidence': 1}]"), tagged(f"[\u00a0{ONE}]")),
    (Reason.NOT_A_LIST, one(confidence="0.5 or so"), tagged("__import__('os')")),
    (Reason.BAD_KEYS, tagged("[{}]"), tagged("[{'Position': [1, 2, 3, 4]}]"), tagged("[{'Confidence': 1}]"), tagged("[{'Position' [1]}]")),
    (Reason.BAD_KEYS, one(confidence="1, 'Confidence': 1"), one("[1, 2, 3, 4], 'Position': [1, 2, 3, 4]"), one(confidence="1, 'Label': 'cat'")),
    (Reason.BAD_KEYS, tagged("[{'position': [1, 2, 3, 4], 'confidence': 1}]")),
    (Reason.BAD_KEYS, tagged("[{Position: [1, 2, 3, 4], Confidence: 1}]"), tagged("[{'Position]")),
    (Reason.BAD_BOX, one("[1, 2, 3]"), one("[1, 2, 3, 4, 5]"), one("[]"), one("5"), one("'1, 2, 3, 4'"), one("[[1, 2, 3, 4]]"), one("(1, 2, 3, 4)")),
    (Reason.BAD_BOX, one("[1 2 3 4]"), one("[1, 2, 3, None]"), one("[1, 2, 3, '4']"), one("[1, 2, 3, 0x10]"), one("[1, 2, 3, 1_0]")),
    (Reason.BAD_BOX, one("[1, 2, 3, 04]"), one("[1, 2, 3, +-4]"), one("[1, 2, 3, 2+2]"), one("[1, 2, 3, 4e]")),
    (Reason.BAD_BOX, one("[1, 2, 3, ٤]"), one("[1, 2, 3, 4٤]"), one("[1, 2, 3, ４]"), one("[1, 2, 3, 4.5.6]")),
    (Reason.NOT_FINITE, one("[NaN, 2, 3, 4]"), one("[1, 2, inf, 4]"), one("[1, -Infinity, 3, 4]"), one(confidence="nan"), one("[1, 2, 3, 1e999]")),
    (Reason.NOT_FINITE, one(f"[1, 2, 3, 1{'0' * 5000}]"), one(confidence="-" + "9" * 100_000)),
    (Reason.OUT_OF_FRAME, one("[-1, 2, 3, 4]"), one("[1, 2, 3, 1001]"), one("[1, 2, 1000.5, 4]"), one("[3, 2, 1, 1001]")),
    (Reason.INVERTED_BOX, one("[3, 2, 1, 4]"), one("[1, 4, 3, 2]"), one("[3, 4, 1, 2]"), one("[3, 2, 1, 2]")),
    (Reason.ZERO_AREA, one("[1, 2, 1, 4]"), one("[1, 2, 3, 2]"), one("[1, 2, 1, 2]"), one("[0, 0, 1e-200, 1e-200]")),
    (Reason.BAD_CONFIDENCE, one(confidence="5"), one(confidence="1.01"), one(confidence="-0.1")),
    (Reason.BAD_CONFIDENCE, one(confidence="'high'"), one(confidence="True"), one(confidence="95%")),
    (Reason.BAD_CONFIDENCE, one(confidence="[1]"), one(confidence=""), one(confidence="0.5x"), one(confidence="٠")),
    (Reason.TOO_MANY_BOXES, tagged(f"[{', '.join([ONE] * 101)}]"), tagged("[" + f"{ONE}," * 100 + "nonsense")),
]  # fmt: skip


@pytest.mark.parametrize("reason, text", [(reason, text) for reason, *texts in REFUSED for text in texts])
def test_each_fault_has_its_reason(reason, text):
    refusal = parse_detection(text)
    assert isinstance(refusal, Refusal) and refusal.reason is reason and len(refusal.detail) <= 60


REFUSED_NAMES = [
    (Reason.NO_THINK, "rose", "<answer>rose</answer>"),
    (Reason.REPEATED_TAG, tagged("rose") + "<answer>tulip</answer>"),
    (Reason.EMPTY_ANSWER, tagged(""), tagged(" \t\n")),
    (Reason.NOT_A_NAME, tagged("rose\ntulip"), tagged("rose\r\ntulip"), tagged("rose\u2028tulip"), tagged("rose\x85tulip"), tagged("rose\vtulip")),
    (Reason.NOT_A_NAME, tagged("r" * 81), tagged("<b>rose</b>"), tagged("a < b"), tagged("rose\0"), tagged("\ud800"), tagged("rose\x1b[0m")),
]  # fmt: skip
REFUSED_BOXES = [
    (Reason.TRUNCATED, "<think>x</think><answer>(1,2),(3"),
    (Reason.NOT_A_BOX, tagged("[1, 2, 3, 4]"), tagged("(1,2,3,4)"), tagged("1,2,3,4"), tagged("((1,2),(3,4))")),
    (Reason.NOT_A_BOX, tagged("(1,2)"), tagged("(1,2),"), tagged("(1,2),(3,4"), tagged("(1,2),(3)"), tagged("(1,2)(3,4)"), tagged("(1,2),(3,4,5)")),
    (Reason.NOT_A_BOX, tagged("[(1,2),(3,4)]"), tagged("rose"), tagged("No Objects"), tagged("(1,2),(3,4))"), tagged("(1,2),(3,4) or so")),
    (Reason.NOT_A_BOX, tagged("(1,2),(3,4),"), tagged("(1,2),(3,4)."), tagged("the box (1,2),(3,4)")),
    (Reason.NOT_A_BOX, tagged("(1,2),(3,٤)"), tagged("(1,2),(3,'4')"), tagged("(1,2),(3,04)"), tagged("(1 2),(3 4)"), tagged("(,),(,)")),
    (Reason.SEVERAL_BOXES, tagged("(1,2),(3,4),(5,6),(7,8)"), tagged("(1,2),(3,4) (5,6),(7,8)"), tagged("(1,2),(3,4)\n(1,2),(3,4)")),
    (Reason.SEVERAL_BOXES, tagged("(1,2),(3,4),("), tagged("(1,2),(3,4),(1001,0)")),
    (Reason.NOT_FINITE, tagged("(1,2),(3,nan)"), tagged("(1,2),(inf,4)"), tagged(f"(1,2),(3,{'9' * 5000})")),
    (Reason.OUT_OF_FRAME, tagged("(-1,2),(3,4)"), tagged("(1,2),(3,1001)"), tagged("(1,2),(3,1001),(5,6),(7,8)")),
    (Reason.INVERTED_BOX, tagged("(3,2),(1,4)"), tagged("(1,4),(3,2)"), tagged("(3,4),(1,2)")),
    (Reason.ZERO_AREA, tagged("(1,2),(1,4)"), tagged("(1,2),(3,2)"), tagged("(0,0),(1e-200,1e-200)")),
]  # fmt: skip


@pytest.mark.parametrize("parse, refused", [(parse_classification, REFUSED_NAMES), (parse_grounding, REFUSED_BOXES)])
def test_each_fault_of_a_name_or_a_box_has_its_reason(parse, refused):
    for reason, *texts in refused:
        for text in texts:
            refusal = parse(text)
            assert isinstance(refusal, Refusal) and refusal.reason is reason and len(refusal.detail) <= 60, text


def test_every_reason_is_reachable():
    assert {reason for reason, *_ in (*REFUSED, *REFUSED_NAMES, *REFUSED_BOXES)} == set(Reason)


def test_the_detail_shows_the_fault():
    refusal = parse_detection(tagged(f"[{ONE}, {{'Position': [9, 9, 5, 9], 'Confidence': 1}}]"))
    assert refusal == Refusal(Reason.INVERTED_BOX, "[9, 9, 5, 9], 'Confidence': 1}]")
    assert parse_grounding(tagged("(1,2),(3,4), (5,6)")) == Refusal(Reason.SEVERAL_BOXES, ", (5,6)")
    assert parse_classification(tagged("a rose\nor a tulip")) == Refusal(Reason.NOT_A_NAME, "a rose\nor a tulip")


@pytest.mark.parametrize("number, value", [("1", 1), ("1.", 1), (".5", 0.5), ("+1", 1), ("-0.0", 0), ("5e-1", 0.5), ("1E+0", 1), ("0.50", 0.5)])
def test_numbers_are_read_as_json_and_python_write_them(number, value):
    assert parse_detection(one(confidence=number)) == DetectionAnswer((Detection((1, 2, 3, 4), value),))


@pytest.mark.parametrize("text", ["", "<", "a <b> c", "[1, 2]", "\n\n", "No Objects"])
def test_the_thinking_may_be_anything(text):
    assert parse_detection(tagged(f"[{ONE}]", text)) == ANSWER


# Contracts

THOUGHTLESS = Contract(thinking=False)
PARSED = [
    (parse_detection, f"[{ONE}]", ANSWER),
    (parse_grounding, "(1,2),(3,4)", GroundingAnswer((1, 2, 3, 4))),
    (parse_classification, "rose", ClassAnswer("rose")),
]


@pytest.mark.parametrize("parse, body, answer", PARSED)
def test_where_no_thinking_is_asked_for_the_answer_stands_alone(parse, body, answer):
    bare = f" <answer>{body}</answer>\n"
    assert parse(bare, THOUGHTLESS) == answer == parse(tagged(body))
    assert parse(bare).reason is Reason.NO_THINK
    for text, reason in (
        (tagged(body), Reason.TEXT_OUTSIDE),
        ("<think></think>" + bare, Reason.TEXT_OUTSIDE),
        (bare + "<think>x</think>", Reason.TEXT_OUTSIDE),
        ("I see. " + bare, Reason.TEXT_OUTSIDE),
        (bare * 2, Reason.REPEATED_TAG),
        (body, Reason.NO_ANSWER),
        ("", Reason.NO_ANSWER),
        ("<answer>" + body, Reason.TRUNCATED),
        ("<think>" + bare, Reason.TRUNCATED),
        ("<answer></answer>", Reason.EMPTY_ANSWER),
    ):
        refusal = parse(text, THOUGHTLESS)
        assert isinstance(refusal, Refusal) and refusal.reason is reason, text


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("frame", [NORM1000, Resized(644, 476), Original(30, 5000)])
def test_a_box_reaches_to_the_edge_of_its_frame_and_no_further(frame, thinking):
    contract, before = Contract(frame, thinking), "<think>x</think>" if thinking else ""
    for x, y in ((frame.width, frame.height), (frame.width + 1, frame.height), (frame.width, frame.height + 1), (frame.width + 0.5, 1)):
        inside = x <= frame.width and y <= frame.height
        listed = parse_detection(f"{before}<answer>[{{'Position': [0, 0, {x}, {y}], 'Confidence': 0.5}}]</answer>", contract)
        pointed = parse_grounding(f"{before}<answer>(0,0),({x},{y})</answer>", contract)
        assert listed == DetectionAnswer((Detection((0, 0, x, y), 0.5),)) if inside else listed.reason is Reason.OUT_OF_FRAME
        assert pointed == GroundingAnswer((0, 0, x, y)) if inside else pointed.reason is Reason.OUT_OF_FRAME


def test_as_many_boxes_as_allowed_are_read():
    assert parse_detection(tagged(f"[{', '.join([ONE] * 100)}]")) == DetectionAnswer(ANSWER.detections * 100)


def test_white_space_alone_is_no_obstacle():
    mass = " " * 300_000
    assert parse_detection(mass + tagged(f"{mass}[{mass}{ONE}{mass}]{mass}") + mass) == ANSWER
    assert parse_detection(tagged(f"No{mass}Objects{mass}.")) == DetectionAnswer(())


def test_confidence_is_kept_to_the_last_bit():
    assert parse_detection(one(confidence=repr(math.pi / 4))) == DetectionAnswer((Detection((1, 2, 3, 4), math.pi / 4),))


@pytest.mark.parametrize(
    "spelling",
    ["Pink Primrose", "pink_primrose", " PINK -_ primrose. ", "pink\u2011primrose", "pink\u3000primrose", "pink\tprimrose"],
)
def test_spelling_means_nothing_to_a_name(spelling):
    assert normalised_name(spelling) == "pink primrose"


@settings(deadline=None, max_examples=200)
@given(st.text(characters, max_size=8), st.text(characters, max_size=8))
def test_a_normalised_name_stays_as_it_is(first, second):
    once = normalised_name(first)
    assert once == normalised_name(f"_{once}- ") == normalised_name(f"{once} .") or once.endswith(".")  # a stop is one stop
    assert normalised_name(f"x{first} {second}x") == normalised_name(f"x{first}-{second}x")


def test_letters_that_only_look_alike_are_others():
    """Circled, mathematical, of another width, raised: NFKC would make them one."""
    for spelling in ("ⓟⓘⓝⓚ primrose", "𝓅𝒾𝓃𝓀 primrose", "ｐｉｎｋ primrose", "ᴾink primrose", "pink primrose…", "pink primrose.."):
        assert normalised_name(spelling) != "pink primrose"
    assert normalised_name("rose\u0301") == normalised_name("ros\u00e9")  # but for a letter and its accent


def test_different_names_stay_different():
    names = ["rose", "pink rose", "rosé", "rose or tulip", "737-200", "737-300", "F-16A/B", "C 130", "C-130J", ""]
    assert len({normalised_name(name) for name in names}) == len(names)


def test_an_alias_means_its_class_in_whatever_spelling():
    aliases = {"Black-eyed_Susan": "Rudbeckia hirta"}
    assert {canonical_name(name, aliases) for name in ("black eyed susan.", "rudbeckia_hirta", "RUDBECKIA HIRTA")} == {"rudbeckia hirta"}
    assert canonical_name("susan", aliases) == "susan"
