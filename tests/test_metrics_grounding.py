"""Laws of the grounding metrics: they agree with the strict reward, do not depend on order, and count what could not be read.

pytest tests/test_metrics_grounding.py
"""

import random

import pytest

from visual_rft.frames import Box
from visual_rft.metrics.grounding import grounding_scores
from visual_rft.rewards import strict
from visual_rft.vocabulary import GroundingAnswer, GroundingTruth, Reason, Refusal, Scores

CAT = (100.0, 200.0, 300.0, 400.0)
Pair = tuple[GroundingTruth, GroundingAnswer | Refusal]


def some_answers(seed: int) -> list[Pair]:
    draw = random.Random(seed)

    def a_box() -> Box:
        x, y = draw.randint(0, 300), draw.randint(0, 300)
        return float(x), float(y), float(x + draw.randint(100, 400)), float(y + draw.randint(100, 400))

    return [(GroundingTruth(a_box()), Refusal(Reason.NOT_A_BOX) if draw.random() < 0.2 else GroundingAnswer(a_box())) for _ in range(100)]


def scores(pairs: list[Pair]) -> Scores:
    return grounding_scores([truth for truth, _ in pairs], [answer for _, answer in pairs])


def test_mean_iou_is_the_mean_of_the_strict_reward():
    pairs = some_answers(0)
    said = ["" if isinstance(answer, Refusal) else "({},{}),({},{})".format(*answer.box) for _, answer in pairs]
    rewards = [strict.grounding(f"<think></think><answer>{box}</answer>", truth).parts for (truth, _), box in zip(pairs, said, strict=True)]
    found = scores(pairs).values
    assert found["mIoU"] == pytest.approx(sum(parts["iou"] for parts in rewards)) and 10 < found["mIoU"] < 90
    assert found["accuracy@0.5"] == sum(parts["iou"] >= 0.5 for parts in rewards)
    assert found["well-formed"] == pytest.approx(sum(parts["format"] for parts in rewards))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_questions_means_nothing_to_the_last_bit(seed):
    pairs = some_answers(seed)
    assert scores(random.Random(seed).sample(pairs, len(pairs))) == scores(pairs)


def test_two_halves_average_to_the_whole():
    pairs = some_answers(2)
    halves, whole = (scores(pairs[:50]).values, scores(pairs[50:]).values), scores(pairs).values
    assert whole == pytest.approx({name: (halves[0][name] + halves[1][name]) / 2 for name in whole})


def test_scores_by_hand():
    answers = [GroundingAnswer(CAT), GroundingAnswer((100, 200, 300, 300)), GroundingAnswer((100, 200, 300, 299)), Refusal(Reason.SEVERAL_BOXES)]
    found = grounding_scores([GroundingTruth(CAT)] * 4, answers)
    assert found.values == pytest.approx({"mIoU": 100 * (1 + 0.5 + 0.495) / 4, "accuracy@0.5": 50, "well-formed": 75})
    assert found.by_category == {} and found.refusals == {Reason.SEVERAL_BOXES: 1}
    assert next(iter(found.values)) == "mIoU"


def test_nothing_asked_scores_0():
    assert grounding_scores([], []) == Scores({"mIoU": 0, "accuracy@0.5": 0, "well-formed": 0}, {}, {})


def test_a_missing_answer_or_a_truth_without_area_is_refused():
    with pytest.raises(ValueError):
        grounding_scores([GroundingTruth(CAT)], [])
    with pytest.raises(ValueError, match="no area"):
        grounding_scores([GroundingTruth((1, 1, 1, 2))], [GroundingAnswer(CAT)])
