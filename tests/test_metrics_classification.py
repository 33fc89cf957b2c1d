"""Laws of the classification metrics: they agree with the strict reward, do not depend on order, and count what could not be read.

pytest tests/test_metrics_classification.py
"""

import random

import pytest

from visual_rft.metrics.classification import classification_scores
from visual_rft.rewards import strict
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Reason, Refusal, Scores

NAMES = ("rose", "pink primrose", "tulip")


def some_answers(seed: int) -> list[tuple[ClassTruth, ClassAnswer | Refusal]]:
    draw = random.Random(seed)
    answers = (ClassAnswer(draw.choice([*NAMES, "Pink_Primrose.", "primrose"])) for _ in range(100))
    return [(ClassTruth(draw.choice(NAMES)), Refusal(Reason.NOT_A_NAME) if draw.random() < 0.2 else answer) for answer in answers]


def scores(pairs: list[tuple[ClassTruth, ClassAnswer | Refusal]]) -> Scores:
    return classification_scores([truth for truth, _ in pairs], [answer for _, answer in pairs])


def test_accuracy_is_the_mean_of_the_strict_reward():
    pairs = some_answers(0)
    texts = ["" if isinstance(answer, Refusal) else f"<think></think><answer>{answer.name}</answer>" for _, answer in pairs]
    rewards = [strict.classification(text, truth).parts for (truth, _), text in zip(pairs, texts, strict=True)]
    found = scores(pairs).values
    assert found["accuracy"] == pytest.approx(sum(parts["accuracy"] for parts in rewards)) and 10 < found["accuracy"] < 90
    assert found["well-formed"] == pytest.approx(sum(parts["format"] for parts in rewards))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_questions_means_nothing_to_the_last_bit(seed):
    pairs = some_answers(seed)
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    assert scores(shuffled) == scores(pairs) and list(scores(shuffled).by_category) == sorted(NAMES)


def test_each_class_stands_alone_and_weighs_the_same():
    pairs = some_answers(1)
    found = scores(pairs)
    for name, accuracy in found.by_category.items():
        alone = scores([pair for pair in pairs if pair[0].name == name])
        assert alone.values["accuracy"] == alone.values["mean per class"] == accuracy
    assert found.values["mean per class"] == pytest.approx(sum(found.by_category.values()) / 3)


def test_scores_by_hand():
    pairs = [(ClassTruth("rose"), ClassAnswer("Rose"))] * 3 + [
        (ClassTruth("tulip"), ClassAnswer("a tulip")),
        (ClassTruth("tulip"), ClassAnswer("tulip")),
    ]
    found = scores([*pairs, (ClassTruth("rose"), Refusal(Reason.NOT_A_NAME)), (ClassTruth("rose"), Refusal(Reason.TRUNCATED))])
    assert found.values == pytest.approx({"accuracy": 400 / 7, "mean per class": 55, "well-formed": 500 / 7})
    assert found.by_category == pytest.approx({"rose": 60, "tulip": 50})
    assert found.refusals == {Reason.NOT_A_NAME: 1, Reason.TRUNCATED: 1}
    assert next(iter(found.values)) == "accuracy"


def test_an_alias_is_right():
    truths, answers = [ClassTruth("Rudbeckia hirta"), ClassTruth("rose")], [ClassAnswer("black-eyed Susan"), ClassAnswer("black-eyed Susan")]
    assert classification_scores(truths, answers).values["accuracy"] == 0
    assert classification_scores(truths, answers, aliases={"Black-Eyed Susan": "rudbeckia_hirta"}).values["accuracy"] == 50


def test_nothing_asked_scores_0():
    assert classification_scores([], []) == Scores({"accuracy": 0, "mean per class": 0, "well-formed": 0}, {}, {})


def test_a_missing_answer_is_not_passed_over():
    with pytest.raises(ValueError):
        classification_scores([ClassTruth("rose")], [])
