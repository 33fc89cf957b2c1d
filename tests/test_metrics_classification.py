"""Laws of the classification metrics: they agree with the strict reward, do not depend on order, and count what could not be read.

pytest tests/test_metrics_classification.py
"""

import random

import pytest

from visual_rft.metrics.classification import ANOTHER_WORD, REFUSED, classification_scores
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


def test_the_confusion_says_every_answer_once():
    """Its rows sum to the questions, its diagonal to the right answers, its refusals to the refused ones."""
    pairs = some_answers(2)
    confusion = scores(pairs).confusion
    assert list(confusion) == sorted(NAMES) and all(set(said) <= {*NAMES, ANOTHER_WORD, REFUSED} for said in confusion.values())
    for name, said in confusion.items():
        assert sum(said.values()) == sum(truth.name == name for truth, _ in pairs)
        assert said[name] == pytest.approx(scores(pairs).by_category[name] / 100 * sum(said.values()))
    assert sum(said.get(REFUSED, 0) for said in confusion.values()) == sum(isinstance(answer, Refusal) for _, answer in pairs)
    assert sum(said.get(ANOTHER_WORD, 0) for said in confusion.values()) == sum(answer == ClassAnswer("primrose") for _, answer in pairs) > 0


def test_a_confusion_by_hand():
    """However a class is spelled, it is one; classes that are in no question have their names, too."""
    truths = [ClassTruth("rose"), ClassTruth("Rose"), ClassTruth("queen of flowers"), ClassTruth("tulip")]
    answers = [ClassAnswer("ROSE."), ClassAnswer("daisy"), ClassAnswer("bellis"), ClassAnswer("(another word)")]
    found = classification_scores(truths, answers, aliases={"queen of flowers": "rose", "bellis": "Daisy"}, classes=("rose", "daisy"))
    assert found.confusion == {"rose": {"daisy": 2, "rose": 1}, "tulip": {ANOTHER_WORD: 1}}
    assert found.by_category == pytest.approx({"rose": 100 / 3, "tulip": 0}) and found.values["accuracy"] == 25


def test_nothing_asked_scores_0():
    assert classification_scores([], []) == Scores({"accuracy": 0, "mean per class": 0, "well-formed": 0}, {}, {})


def test_a_missing_answer_is_not_passed_over():
    with pytest.raises(ValueError):
        classification_scores([ClassTruth("rose")], [])
