"""Laws of the strict detection reward, and each hole of the published one: what `paper` pays there, and what `strict` does.

    pytest tests/test_rewards.py

Axes: N predicted boxes, M true ones.
"""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from visual_rft.boxes import iou_matrix
from visual_rft.frames import Box
from visual_rft.rewards import paper, strict
from visual_rft.vocabulary import Detection, DetectionTruth, Reason, Reward

laws = settings(deadline=None, max_examples=100)
# A coarse grid, so that equal boxes, equal confidences and equal overlaps are common.
spans = st.sampled_from([(a, b) for a, b in itertools.combinations(range(0, 1001, 100), 2) if b - a <= 400])
boxes = st.builds(lambda x, y: (float(x[0]), float(y[0]), float(x[1]), float(y[1])), spans, spans)
truths = st.lists(boxes, max_size=4).map(lambda drawn: DetectionTruth(tuple(drawn)))
detections = st.builds(Detection, boxes, st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
predictions = st.lists(detections, max_size=4)

CAT = (100.0, 200.0, 300.0, 400.0)
DOG = (500.0, 600.0, 900.0, 800.0)
JUNK = (10.0, 910.0, 50.0, 990.0)


def listed(*found: tuple[Box, float]) -> str:
    return str([{"Position": list(box), "Confidence": confidence} for box, confidence in found])


def says(body: str) -> str:
    return f"<think>I see.</think><answer>{body}</answer>"


def render(found: list[Detection]) -> str:
    return says(listed(*((one.box, one.confidence) for one in found)))


def parts(reward: Reward) -> tuple[float, float, float]:
    return reward.parts["iou"], reward.parts["confidence"], reward.parts["format"]


def both(text: str, *true: Box) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """What paper pays, and what strict does: (iou, confidence, format) each."""
    truth = DetectionTruth(true)
    return parts(paper.detection(text, truth)), parts(strict.detection(text, truth))


def why_refused(text: str) -> Reason:
    refusal = strict.detection(text, DetectionTruth((CAT,))).refusal
    assert refusal is not None
    return refusal.reason


# ---- laws of strict


def test_order_means_nothing_where_several_matchings_are_the_best():
    # The second and the third prediction could each be the one that stays unmatched.
    wide, right, left = (100.0, 0.0, 900.0, 1000.0), (600.0, 0.0, 900.0, 1000.0), (300.0, 0.0, 600.0, 1000.0)
    true = (400.0, 0.0, 900.0, 1000.0), (300.0, 0.0, 800.0, 1000.0)
    text = says(listed((wide, 0.9), (right, 0.8), (left, 0.1)))
    assert parts(strict.detection(text, DetectionTruth(true))) == parts(strict.detection(text, DetectionTruth(true[::-1])))


@laws
@given(truths)
def test_a_perfect_answer_scores_one_in_every_part(truth):
    assert parts(strict.detection(render([Detection(box, 1) for box in truth.boxes]), truth)) == (1, 1, 1)


@laws
@given(predictions, truths, st.randoms())
def test_order_means_nothing(found, truth, random):
    shuffled = DetectionTruth(tuple(random.sample(truth.boxes, len(truth.boxes))))
    assert parts(strict.detection(render(random.sample(found, len(found))), shuffled)) == parts(strict.detection(render(found), truth))


@laws
@given(predictions, truths, detections)
def test_a_junk_box_never_raises_the_reward(found, truth, junk):
    assume((iou_matrix([junk.box], truth.boxes) <= 0.5).all())
    before, after = (strict.detection(render(drawn), truth).parts for drawn in (found, [*found, junk]))
    assert after["iou"] <= before["iou"]
    assert after["confidence"] <= max(before["confidence"], 0.0)


@laws
@given(predictions, truths, boxes)
def test_a_truth_that_nothing_matches_never_raises_the_reward(found, truth, missed):
    assume((iou_matrix([one.box for one in found], [missed]) <= 0.5).all())
    before, after = (strict.detection(render(found), DetectionTruth(all_of)).parts for all_of in (truth.boxes, (*truth.boxes, missed)))
    assert after["iou"] <= before["iou"]
    assert after["confidence"] <= max(before["confidence"], 0.0)


@laws
@given(predictions, truths)
def test_parts_have_their_range_and_a_parsed_answer_never_earns_less_than_a_refused_one(found, truth):
    iou, confidence, form = parts(strict.detection(render(found), truth))
    assert 0 <= iou <= 1 and -1 <= confidence <= 1 and form == 1
    assert iou + confidence + form >= sum(parts(strict.detection("garbage", truth)))


@pytest.mark.parametrize("percent", [0, 10, 37, 50, 80, 100])
def test_the_honest_confidence_pays_best(percent):
    def expected(stated: int) -> float:
        text = says(listed((DOG, 0.9), (CAT, stated / 100)))
        hit, miss = (strict.detection(text, DetectionTruth(true)).parts["confidence"] for true in ((DOG, CAT), (DOG, JUNK)))
        return percent / 100 * hit + (1 - percent / 100) * miss

    assert max(range(101), key=expected) == percent


def test_equal_boxes_are_matched_by_their_confidence():
    truth = DetectionTruth((CAT,))
    assert parts(strict.detection(says(listed((CAT, 0.1), (CAT, 0.9))), truth))[1] == pytest.approx((2 * 0.9 - 0.81 - 0.01) / 2)


def test_the_threshold_itself_does_not_count():
    half = (100.0, 200.0, 200.0, 400.0)
    assert strict.detection(says(listed((half, 1))), DetectionTruth((CAT,))).parts["iou"] == 0
    assert strict.detection(says(listed((half, 1))), DetectionTruth((CAT,)), iou_threshold=0.49).parts["iou"] == 0.5


def test_strict_by_hand():
    loose = (100.0, 200.0, 300.0, 500.0)
    reward = strict.detection(says(listed((loose, 0.8), (JUNK, 0.3))), DetectionTruth((CAT, DOG, (0.0, 0.0, 9.0, 9.0))))
    assert reward.parts == {"iou": pytest.approx(2 / 9), "confidence": pytest.approx((1.6 - 0.64 - 0.09) / 3), "format": 1}
    assert reward.refusal is None and reward.answer is not None and reward.answer.detections[1] == Detection(JUNK, 0.3)


def test_swapped_perfect_boxes_keep_their_full_score():
    for order in itertools.permutations([(CAT, 0.9), (DOG, 1.0), (JUNK, 0.8)]):
        assert both(says(listed(*order)), CAT, DOG, JUNK)[1] == (1, pytest.approx((0.99 + 1 + 0.96) / 3), 1)


def test_a_truth_without_area_is_the_users_fault():
    with pytest.raises(ValueError, match="no area"):
        strict.detection(says(listed((CAT, 1))), DetectionTruth(((1, 1, 1, 2),)))


FRAGMENTS = [
    "<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", ",", ":", "'Position'", '"Confidence"', "'Label': 'cat'", "No Objects",
    "{'Position': [100, 200, 300, 400], 'Confidence': 0.5}", "NaN", "-Infinity", "9" * 400, "answer ", " 200", "1", ".5", "\n", "'", "\ud800", "٣",
]  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), truths)
def test_no_text_breaks_a_reward(heap, truth):
    for text in (heap, says(heap), says(f"[{{'Position': [100, {heap}], 'Confidence': {heap}}}]")):
        assert all(0 <= part <= 1 for part in parts(paper.detection(text, truth)))
        reward = strict.detection(text, truth)
        assert (reward.answer is None) != (reward.refusal is None)
        assert reward.refusal is None or parts(reward) == (0, 0, 0)


# ---- the holes: paper first, then strict


def test_hole_a_maths_equality_shortcut_scores_boxes_that_share_one_number():
    shares_y1 = says("[{'Position': [700, 200, 990, 210], 'Confidence': 0.9}]")
    assert both(shares_y1, CAT) == ((1, 1, 1), (0, pytest.approx(-0.81), 1))
    assert both(shares_y1.replace("200", "201"), CAT)[0] == (0, pytest.approx(0.1), 1)


def test_hole_one_junk_box_at_confidence_0_scores_confidence_1():
    assert both(says(listed((JUNK, 0))), CAT) == ((0, 1, 1), (0, 0, 1))


def test_hole_adding_junk_boxes_raises_the_mean():
    one, two = (listed((CAT, 0.5), *[(JUNK, 0.0)] * junk) for junk in (0, 1))
    assert both(says(one), DOG, CAT) == ((0.5, 0.5, 1), (0.5, 0.375, 1))
    assert both(says(two), DOG, CAT) == ((0.5, 0.75, 1), (0.5, 0.375, 1))
    assert both(says(two), CAT) == ((1, 1, 1), (0.5, 0.375, 1))  # in paper, the shared y1 besides


def test_hole_jittered_duplicates_pass():
    jittered = says(listed((CAT, 1), ((101.0, 201.0, 300.0, 400.0), 0)))
    exact = says(listed((CAT, 1), (CAT, 1)))
    assert both(exact, DOG, CAT) == ((0.5, 1, 1), (0.5, 0, 1))
    assert both(jittered, DOG, CAT) == ((0.5, 1, 1), (0.5, 0.5, 1))
    sure = says(listed((CAT, 1), ((101.0, 201.0, 300.0, 400.0), 1)))
    assert both(sure, DOG, CAT) == ((0.5, 0.5, 1), (0.5, 0, 1))


@pytest.mark.parametrize("empty", ["No Objects", "[]"])
def test_hole_a_right_empty_answer_scores_0(empty):
    assert both(says(empty)) == ((0, 0, 1), (1, 1, 1))
    assert both(says(empty), CAT) == ((0, 0, 1), (0, 0, 1))
    assert both(says(listed((JUNK, 0.5)))) == ((0, 0.5, 1), (0, -0.25, 1))


def test_hole_multi_line_answers_score_0():
    assert both(says("\n" + listed((CAT, 0.9)) + "\n"), CAT) == ((0, 0, 1), (1, pytest.approx(0.99), 1))


def test_hole_truncated_lists_are_repaired_into_something_else():
    cut = listed((CAT, 0.9), (DOG, 0.9))[:-30]
    assert both(cut, DOG, CAT) == ((0.5, 0.9, 0), (0, 0, 0))
    unclosed = f"<think>I see.</think><answer>{cut}"
    assert both(unclosed, DOG, JUNK)[1] == (0, 0, 0)
    assert [why_refused(text) for text in (cut, unclosed, "<think>I see.</think>")] == [Reason.NO_THINK, Reason.TRUNCATED, Reason.NO_ANSWER]


def test_hole_untagged_raw_lists_get_full_marks():
    assert both(listed((CAT, 0.9)), CAT) == ((1, 0.9, 0), (0, 0, 0))
    assert why_refused(listed((CAT, 0.9))) is Reason.NO_THINK


def test_hole_confidence_5_is_accepted():
    sure = says(listed((CAT, 5)))
    assert both(sure, DOG, CAT) == ((0.5, 1, 1), (0, 0, 0))
    assert why_refused(sure) is Reason.BAD_CONFIDENCE


@pytest.mark.parametrize("position, reason, published", [
    ("[300, 400, 100, 200]", Reason.INVERTED_BOX, (0, 1, 1)),
    ("[300, 400, 300, 500]", Reason.ZERO_AREA, (0, 1, 1)),
    ("[100, NaN, 300, 400]", Reason.NOT_FINITE, (0, 1, 1)),
    ("[100, -Infinity, 300, 400]", Reason.NOT_FINITE, (0, 1, 1)),
    ("[100, -10, 300, 400]", Reason.OUT_OF_FRAME, (200 / 410, 0, 1)),
])  # fmt: skip
def test_hole_impossible_boxes_score(position, reason, published):
    text = says(f"[{{'Position': {position}, 'Confidence': 0}}]")
    truth = DetectionTruth((CAT,))
    assert parts(paper.detection(text, truth, iou_threshold=0.4)) == pytest.approx(published)
    assert why_refused(text) is reason and parts(strict.detection(text, truth)) == (0, 0, 0)


@pytest.mark.parametrize("body, reason", [
    ("[{'Position': [1, 2, 3], 'Confidence': 1}]", Reason.BAD_BOX),
    ("[{'Position': [1, 'a', 3, 4], 'Confidence': 1}]", Reason.BAD_BOX),
    ("[{'Position': [1, 2, 3, 4]}]", Reason.BAD_KEYS),
    ("[{'Position': [1, 2, 3, 4], 'Confidence': 'high'}]", Reason.BAD_CONFIDENCE),
    ("[5]", Reason.NOT_A_LIST),
    ("I see a cat", Reason.NOT_A_LIST),
])  # fmt: skip
def test_hole_every_exception_becomes_reward_0_silently(body, reason):
    assert parts(paper.detection(says(body), DetectionTruth((CAT,)))) == (0, 0, 1)
    assert paper.detection(says(body), DetectionTruth((CAT,))).refusal is None
    assert why_refused(says(body)) is reason


def test_hole_greedy_matching_spends_a_truth_that_another_box_needs():
    left, right = (0.0, 0.0, 100.0, 1000.0), (30.0, 0.0, 130.0, 1000.0)
    text = says(listed(((13, 5, 113, 1000), 0.9), ((0, 5, 90, 1000), 0.8)))
    published, ours = both(text, left, right)
    assert published[0] == pytest.approx(0.995 * 87 / (100 + 99.5 - 0.995 * 87) * 1 / 2, abs=2e-3)
    assert ours[0] > 0.75 and ours[1] == pytest.approx((0.99 + 0.96) / 2)


# ---- paper elsewhere: values of the published code itself, run with math_verify 0.5.2 on these lines

PUBLISHED = [
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}]"), (0.9025, 0.8, 1)),
    (says("[[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}]]"), (0.9025, 0.8, 1)),
    (says('[{"Position": [110, 210, 300, 400], "Confidence": 0.8, "Label": "cat"}]'), (0.9025, 0.8, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8},]"), (0, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': .8}]"), (0, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8"), (0.9025, 0.8, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}"), (0, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}, {'Position': [1, 1, 9, 9], 'Confidence': 0.6}, {'Pos"), (0.45125, 0.6, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}] []"), (0, 0, 1)),
    (says("[{'Position': [100, 300, 300, 400], 'Confidence': 0.8}]"), (0, 0.2, 1)),
    (says("[{'Position': [110, 210, 300, 400] 'Confidence': 1}]"), (0, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence' 1}]"), (0, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': -1}]"), (0.9025, 0, 1)),
    (says("[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}]") + " bye", (0.9025, 0.8, 0)),
    ("<think>\n</think>\n\n<answer>[{'Position': [110, 210, 300, 400], 'Confidence': 0.8}]</answer>", (0.9025, 0.8, 1)),
    ("<think>I see 200 cats</think> <answer>No Objects</answer>", (1, 1, 1)),
    ("", (0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("text, published", PUBLISHED)
def test_paper_pays_what_the_published_code_paid(text, published):
    reward = paper.detection(text, DetectionTruth((CAT,)))
    assert parts(reward) == pytest.approx(published)


def test_paper_pays_0_where_the_published_code_paid_nan():
    text = says("[{'Position': [110, 210, 300, 400], 'Confidence': NaN}]")
    assert parts(paper.detection(text, DetectionTruth((CAT,)))) == pytest.approx((0.9025, 0, 1))


def test_paper_shows_the_answer_when_there_is_one():
    truth = DetectionTruth((CAT,))
    shown = paper.detection(says(listed((CAT, 0.9))), truth).answer
    assert shown is not None and shown.detections == (Detection(CAT, 0.9),)
    assert paper.detection(listed((CAT, 0.9)), truth).answer is None
