"""Laws of the strict grounding reward, and each hole of the published one: what `paper` pays there, and what `strict` does.

pytest tests/test_rewards_grounding.py
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft.boxes import giou_matrix, iou_matrix
from visual_rft.frames import Box
from visual_rft.rewards import paper, strict
from visual_rft.vocabulary import GroundingAnswer, GroundingTruth, Reason, Reward

laws = settings(deadline=None, max_examples=200)
spans = st.tuples(st.integers(0, 999), st.integers(1, 1000)).filter(lambda span: span[0] < span[1])
boxes = st.builds(lambda x, y: (float(x[0]), float(y[0]), float(x[1]), float(y[1])), spans, spans)

CAT = (100.0, 200.0, 300.0, 400.0)
HALF = (100.0, 200.0, 300.0, 300.0)
DOG = (500.0, 600.0, 900.0, 800.0)


def drawn(box: Box) -> str:
    return "({:.0f},{:.0f}),({:.0f},{:.0f})".format(*box)


def says(body: str) -> str:
    return f"<think>I see.</think><answer>{body}</answer>"


def overlap(reward: Reward) -> tuple[float, float]:
    first, second = reward.parts.values()
    return first, second


def both(text: str, box: Box = CAT) -> tuple[tuple[float, float], tuple[float, float]]:
    """What paper pays (giou, format), and what strict does (iou, format)."""
    return overlap(paper.grounding(text, GroundingTruth(box))), overlap(strict.grounding(text, GroundingTruth(box)))


def why_refused(text: str) -> Reason:
    refusal = strict.grounding(text, GroundingTruth(CAT)).refusal
    assert refusal is not None
    return refusal.reason


# ---- laws


@laws
@given(boxes, boxes)
def test_strict_pays_iou_and_paper_giou_plus_1(box, other):
    published, ours = both(says(drawn(box)), other)
    assert ours == (iou_matrix([box], [other])[0, 0], 1)
    assert published == (pytest.approx(giou_matrix([box], [other])[0, 0] + 1), 1)


@laws
@given(boxes)
def test_the_true_box_earns_everything(box):
    assert both(says(drawn(box)), box) == ((2, 1), (1, 1))


@laws
@given(boxes, boxes)
def test_truth_and_answer_can_be_exchanged(box, other):
    assert both(says(drawn(box)), other) == both(says(drawn(other)), box)


@laws
@given(
    st.lists(st.sampled_from([*"(),-. \n", "1", "300", "9" * 400, "nan", "٣", "<answer>", "</answer>", drawn(CAT)]), max_size=12).map("".join), boxes
)
def test_no_text_breaks_a_reward(heap, box):
    for text in (heap, says(heap), says(f"(100,{heap}),(300,400)")):
        assert overlap(paper.grounding(text, GroundingTruth(box)))[0] < float("inf")
        reward = strict.grounding(text, GroundingTruth(box))
        assert (reward.answer is None) != (reward.refusal is None)
        assert reward.refusal is None or overlap(reward) == (0, 0)


def test_the_parts_have_names_and_the_answer_is_shown():
    text = says("(100, 200), (300, 300)")
    for family, part in ((paper, "giou"), (strict, "iou")):
        reward = family.grounding(text, GroundingTruth(CAT))
        assert list(reward.parts) == [part, "format"] and reward.answer == GroundingAnswer(HALF)
    assert paper.grounding(drawn(CAT), GroundingTruth(CAT)).answer is None


def test_a_truth_without_area_is_the_users_fault():
    with pytest.raises(ValueError, match="no area"):
        strict.grounding(says(drawn(CAT)), GroundingTruth((1, 1, 1, 2)))


# ---- the holes: paper first, then strict


def test_hole_two_boxes_in_a_grounding_answer_corrupt_the_score():
    # Of (x1,y1),(x2,y2) twice, the published code takes the first corner of each for one box.
    right_twice = says(f"{drawn(CAT)} {drawn(CAT)}")
    assert both(right_twice) == ((1, 1), (0, 0))  # a point in the box: GIoU 0
    assert both(says("(100,200),(1,1) (300,400),(9,9)")) == ((2, 1), (0, 0))
    assert why_refused(right_twice) is Reason.SEVERAL_BOXES


def test_hole_impossible_boxes_score():
    inverted, doubly, flat, outside = "(300,200),(100,400)", "(1000,1000),(0,0)", "(100,200),(100,400)", "(100,200),(300,4000)"
    assert both(says(inverted)) == ((pytest.approx(0), 1), (0, 0))
    assert both(says(doubly)) == ((pytest.approx(26), 1), (0, 0))  # "1 + GIoU" of at most 2
    assert both(says(flat)) == ((pytest.approx(1), 1), (0, 0))
    assert both(says(outside)) == ((pytest.approx(1 + 200 / 3800), 1), (0, 0))
    reasons = [why_refused(says(box)) for box in (inverted, doubly, flat, outside)]
    assert reasons == [Reason.INVERTED_BOX, Reason.INVERTED_BOX, Reason.ZERO_AREA, Reason.OUT_OF_FRAME]


def test_hole_a_box_that_misses_is_paid():
    published, ours = both(says(drawn(DOG)))
    assert 0.2 < published[0] < 1 and ours == (0, 1)
    everything = says(drawn((0.0, 0.0, 1000.0, 1000.0)))
    assert both(everything) == ((pytest.approx(1.04), 1), (pytest.approx(0.04), 1))


def test_hole_boxes_without_tags_or_within_a_sentence_get_full_marks():
    for text, form, reason in (
        (drawn(CAT), 0, Reason.NO_THINK),
        (f"<think>perhaps {drawn(CAT)}", 0, Reason.TRUNCATED),
        (says(f"it is at {drawn(CAT)}, I think"), 1, Reason.NOT_A_BOX),
        (says(drawn(CAT)) + "!", 0, Reason.TEXT_OUTSIDE),
    ):
        assert both(text) == ((2, form), (0, 0)) and why_refused(text) is reason


def test_hole_every_exception_becomes_reward_0_silently():
    for body, reason in (
        ("[100, 200, 300, 400]", Reason.NOT_A_BOX),
        ("(100,200)", Reason.NOT_A_BOX),
        ("(NaN,200),(300,400)", Reason.NOT_FINITE),
        ("(-1,200),(300,400)", Reason.OUT_OF_FRAME),
        ("the cat", Reason.NOT_A_BOX),
        ("", Reason.EMPTY_ANSWER),
    ):
        assert both(says(body)) == ((0, 1), (0, 0)) and why_refused(says(body)) is reason
        assert paper.grounding(says(body), GroundingTruth(CAT)).refusal is None


def test_hole_fractions_cannot_be_read():
    assert both(says("(100.0,200.0),(300.0,400.0)")) == ((0, 1), (1, 1))


# ---- paper elsewhere, read off the published code


@pytest.mark.parametrize("said, paid", [
    (says(f"\n{drawn(CAT)}\n"), 2),
    (says("( 100 , 200 ) ,\n( 300 , 400 )"), 2),
    (says(drawn(HALF)), 1.5),
    (says("(١٠٠,200),(300,400)"), 2),
    (says("the cat") + drawn(CAT), 0),
    (says(f"(1,1),(2,2) {drawn(CAT)} {drawn(CAT)}"), (99 * 199 + 200 * 200) / (299 * 399)),
])  # fmt: skip
def test_paper_pays_what_the_published_code_pays(said, paid):
    assert paper.grounding(said, GroundingTruth(CAT)).parts["giou"] == pytest.approx(paid)


@pytest.mark.parametrize("number", ["9" * 160, "9" * 400, "9" * 5000])
def test_paper_pays_0_for_boxes_beyond_all_bounds(number):
    for box in (f"({number},{number}),(0,0)", f"(100,200),({number},{number})"):
        assert both(says(box)) == ((0, 1), (0, 0))
