"""Laws of the strict classification reward, and each hole of the published one: what `paper` pays there, and what `strict` does.

pytest tests/test_rewards_classification.py
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft.rewards import paper, strict
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Reason, Reward

laws = settings(deadline=None, max_examples=200)
words = st.text("abcdefghijklmnopqrstuvwxyzéñß0123456789/'", min_size=1, max_size=8)
names = st.lists(words, min_size=1, max_size=4).map(" ".join)


def says(body: str, thinking: str = "I see.") -> str:
    return f"<think>{thinking}</think><answer>{body}</answer>"


def parts(reward: Reward) -> tuple[float, float]:
    return reward.parts["accuracy"], reward.parts["format"]


def both(text: str, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """What paper pays, and what strict does: (accuracy, format) each."""
    return parts(paper.classification(text, ClassTruth(name))), parts(strict.classification(text, ClassTruth(name)))


def why_refused(text: str) -> Reason:
    refusal = strict.classification(text, ClassTruth("rose")).refusal
    assert refusal is not None
    return refusal.reason


# ---- laws of strict


@laws
@given(names, names)
def test_the_true_name_alone_is_right(name, other):
    assert parts(strict.classification(says(name), ClassTruth(name))) == (1, 1)
    assert parts(strict.classification(says(other), ClassTruth(name))) == (float(other.casefold() == name.casefold()), 1)


@laws
@given(
    names, st.sampled_from(["_", "-", "  ", "\u2011"]), st.sampled_from([str.upper, str.title, str.casefold]), st.sampled_from(["", ".", " .", "\n"])
)
def test_spelling_means_nothing(name, between, letters, end):
    assert parts(strict.classification(says(letters(name).replace(" ", between) + end), ClassTruth(name))) == (1, 1)


@laws
@given(names, names)
def test_truth_and_answer_can_be_exchanged(one, two):
    assert strict.classification(says(one), ClassTruth(two)).parts == strict.classification(says(two), ClassTruth(one)).parts


@laws
@given(st.text() | st.text().map(says), names)
def test_no_text_breaks_a_reward(text, name):
    assert set(parts(paper.classification(text, ClassTruth(name)))) <= {0, 1}
    reward = strict.classification(text, ClassTruth(name))
    assert (reward.answer is None) != (reward.refusal is None) and set(parts(reward)) <= {0, 1}
    assert reward.refusal is None or parts(reward) == (0, 0)


def test_an_alias_is_right_for_its_class_only():
    aliases = {"Black-eyed Susan": "Rudbeckia hirta"}
    said = says("black eyed susan")
    assert parts(strict.classification(said, ClassTruth("rudbeckia_hirta"), aliases=aliases)) == (1, 1)
    assert (
        parts(strict.classification(said, ClassTruth("rudbeckia_hirta")))
        == parts(strict.classification(said, ClassTruth("rose"), aliases=aliases))
        == (0, 1)
    )


def test_the_answer_is_shown_as_it_was_said():
    for family in (paper, strict):
        assert family.classification(says(" Pink_Rose. "), ClassTruth("tulip")).answer == ClassAnswer("Pink_Rose.")
    assert paper.classification("a rose", ClassTruth("rose")).answer is None


# ---- the holes: paper first, then strict


def test_hole_an_empty_class_answer_scores_1():
    for empty in ("", " ", "_"):
        assert both(says(empty), "rose")[0] == (1, 1)
    assert both(says(" "), "rose")[1] == (0, 0) and why_refused(says(" ")) is Reason.EMPTY_ANSWER
    for unseen in ("_", "-", ".", "\u00a0", "\u200b", "\ufe0f", "\u3164", "\u2800", "\u115f \u034f", "\u200b_\u200b", "\u200d.\u200d"):
        assert both(says(unseen), "rose")[1] == (0, 0) and why_refused(says(unseen)) is Reason.EMPTY_ANSWER
    assert both("", "rose") == ((1, 0), (0, 0))


@pytest.mark.parametrize("part", ["rose", "primrose", "o", "pink"])
def test_hole_a_substring_scores_1(part):
    assert both(says(part), "pink primrose") == ((1, 1), (0, 1))


@pytest.mark.parametrize("hedge", ["rose or tulip", "rose, tulip", "tulip/rose", "not a rose", "r o s e s"])
def test_hole_a_or_b_scores_1(hedge):
    assert both(says(hedge), "rose") == ((1, 1), (0, 1))


def test_hole_a_list_of_every_class_scores_1():
    everything = "\n".join(["rose", "tulip", "daisy"])
    assert both(says(everything), "tulip") == ((1, 1), (0, 0))
    assert why_refused(says(everything)) is why_refused(says("rose, " * 20)) is Reason.NOT_A_NAME


def test_hole_a_multi_line_answer_is_right_by_what_was_thought():
    assert both(says("\ntulip\n", "Not a rose."), "rose") == ((1, 1), (0, 1))
    assert both(says("\nrose\n"), "rose") == ((1, 1), (1, 1))


def test_hole_untagged_names_get_full_marks():
    assert both("It may be a rose.", "rose") == ((1, 0), (0, 0))
    assert why_refused("It may be a rose.") is Reason.NO_THINK
    assert both("<think>a rose, I think", "rose") == ((1, 0), (0, 0))
    assert why_refused("<think>a rose, I think") is Reason.TRUNCATED


def test_hole_a_maths_equality_shortcut_scores_names_that_share_one_number():
    assert both(says("BMW M3 Coupe 2012"), "Audi S4 Sedan 2012") == ((1, 1), (0, 1))
    assert both(says("BMW M3 Coupe 2012"), "Audi S4 Sedan 2011") == ((0, 1), (0, 1))


def test_hole_every_fault_is_silent():
    for text, reason in (
        (says("<b>tulip</b>"), Reason.NOT_A_NAME),
        (says("tulip") + "!", Reason.TEXT_OUTSIDE),
        ("<think>x</think>", Reason.NO_ANSWER),
    ):
        reward = paper.classification(text, ClassTruth("rose"))
        assert reward.parts["accuracy"] == 0 and reward.refusal is None and why_refused(text) is reason


# ---- paper elsewhere, read off the published code


@pytest.mark.parametrize("said, name, right", [
    (says("Pink_Primrose"), "pink primrose", 1),
    (says("pink-primrose"), "pink primrose", 0),
    (says("tulip"), "rose", 0),
    (says("tulip") + says("rose"), "rose", 0),
    (says("tul\nip"), "rose", 0),
    ("<answer>tulip\n</answer>\n<answer>rose</answer>", "rose", 1),
])  # fmt: skip
def test_paper_pays_what_the_published_code_pays(said, name, right):
    assert paper.classification(said, ClassTruth(name)).parts["accuracy"] == right
