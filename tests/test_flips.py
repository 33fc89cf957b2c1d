"""What one answer is worth, and which questions two arms answer differently: `pytest tests/test_flips.py`."""

import json
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from test_comparison import page, run, write_run
from test_report import HOSTILE

from visual_rft.metrics.classification import right
from visual_rft.metrics.detection import Query, fit, mean_iou
from visual_rft.metrics.grounding import iou
from visual_rft.tracking._flips import SHOWN, flips, in_common
from visual_rft.tracking.comparison import Arm, arms_of
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.tracking.runs import Judged, Run, read_run
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Detection, DetectionAnswer, GroundingAnswer, GroundingTruth, Reason, Refusal

LEFT, RIGHT = (0.0, 0.0, 100.0, 100.0), (500.0, 0.0, 600.0, 100.0)
HALF = (0.0, 0.0, 100.0, 50.0)  # IoU 0.5 with LEFT
REFUSED = Refusal(Reason.TRUNCATED)


def query(truth: tuple, drawn: tuple) -> Query:
    return Query(1, "five", truth, DetectionAnswer(tuple(Detection(box, 0.9) for box in drawn)))


def test_a_missing_box_and_an_extra_one_cost_the_same_and_nothing_rightly_said_is_perfect() -> None:
    assert fit(query((LEFT, RIGHT), (RIGHT, LEFT))) == fit(query((), ())) == 1
    assert fit(query((LEFT, RIGHT), (LEFT,))) == fit(query((LEFT,), (LEFT, RIGHT))) == 0.5
    assert fit(query((LEFT,), (HALF,))) == pytest.approx(0.5) and fit(query((LEFT,), (HALF,) * 2)) == pytest.approx(0.25)
    assert fit(query((), (LEFT,))) == fit(query((LEFT,), ())) == fit(Query(1, "five", (), REFUSED)) == 0
    assert 100 * fit(query((LEFT,), (HALF,))) == mean_iou([query((LEFT,), (HALF,))]), "of one box each it is the mean IoU"


def test_a_name_is_right_or_wrong_and_a_box_fits_as_far_as_it_overlaps() -> None:
    assert right(ClassTruth("A rose"), ClassAnswer("a Rose")) and not right(ClassTruth("rose"), ClassAnswer("lily"))
    assert not right(ClassTruth("rose"), REFUSED) and iou(GroundingTruth(LEFT), REFUSED) == 0
    assert iou(GroundingTruth(LEFT), GroundingAnswer(HALF)) == pytest.approx(0.5)


def answered(seed: int = 0, **worth: float) -> Run:
    return replace(run(seed=seed), answers={question: Judged(f"said to {question}", value) for question, value in worth.items()})


worths = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(worths, worths)
def test_what_one_fixed_the_other_broke(a: list[float], b: list[float]) -> None:
    one, other = (answered(**dict(zip("xyz", values, strict=True))) for values in (a, b))
    fixed, broke = flips("xyz", [one], [other])
    back = flips("xyz", [other], [one])
    assert {flip.question for flip in fixed} == {flip.question for flip in back[1]}
    assert {flip.question for flip in broke} == {flip.question for flip in back[0]} and flips("xyz", [one], [one]) == ([], [])
    assert [flip.gain for flip in fixed] == sorted((flip.gain for flip in fixed), reverse=True) and all(flip.gain < 0 for flip in broke)


def test_of_several_seeds_the_mean_counts_and_only_what_all_were_asked() -> None:
    one, others = [answered(x=0.2, y=0.9, z=1.0)], [answered(0, x=1.0, y=0.0), answered(1, x=0.4, y=0.9)]
    fixed, broke = flips(in_common(one, others), one, others)
    assert in_common(one, others) == ["x", "y"] and not [flip for flip in broke if flip.question != "y"]
    assert [(flip.question, flip.worth) for flip in fixed] == [("x", (0.2, pytest.approx(0.7)))]
    assert [(flip.question, flip.worth) for flip in broke] == [("y", (0.9, pytest.approx(0.45)))]


def test_a_run_folder_says_what_each_answer_is_worth_and_an_older_one_does_not(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run"))
    assert read_run(folder.path).answers == {}
    folder.write_answers("after", {"a": "one", "b": "two"}, [1.0, 1 / 3])
    assert read_run(folder.path).answers == {"a": Judged("one", 1.0), "b": Judged("two", 0.3333)}
    folder.write_answers("after", {"a": "one"})
    assert json.loads((folder.path / "answers_after.jsonl").read_text()) == {"example": "a", "completion": "one"}
    assert read_run(folder.path).answers == {}
    (folder.path / "answers_after.jsonl").write_text('{"example": "a", "completion": "one", "worth": "much"}\n')
    with pytest.raises(ValueError, match=r"answers_after\.jsonl, line 1: `worth` is not a number"):
        read_run(folder.path)


def test_the_page_says_what_the_second_arm_fixed_and_broke(tmp_path: Path) -> None:
    many = {f"q{number}": 0.0 for number in range(SHOWN + 3)}
    one = replace(answered(good=1.0, **many), setting={"x": "1"})
    other = replace(answered(good=0.0, **dict.fromkeys(many, 1.0)), setting={"x": "2"})
    text = page(tmp_path, arms_of([one, other])).text
    assert f"{SHOWN + 3} fixed of {SHOWN + 4}" in text and "and 3 more" in text and f"1 broken of {SHOWN + 4}" in text
    assert "good 1.00 → 0.00" in text and "x=1 → x=2" in text
    assert "Question by question" not in page(tmp_path, [Arm("a", (run(),)), Arm("b", (run(),))]).text, "nothing is known of them"
    hostile = replace(one, answers={HOSTILE: Judged(HOSTILE, 0.0)})
    found = page(tmp_path, arms_of([hostile, replace(hostile, setting={"x": "2"}, answers={HOSTILE: Judged(HOSTILE, 1.0)})]))
    assert len(found.all("script")) == 1 and not found.all("img") and found.text.count("<script src=") >= 3


def test_the_signs_of_each_run_stand_first(tmp_path: Path) -> None:
    cut = [{"step": step, "completion/truncated_fraction": 0.9} for step in range(1, 9)]
    text = page(tmp_path, [Arm("healthy", (run(),)), Arm("ill", (replace(run(seed=3), metrics=cut),))]).text
    assert text.index("ill, seed 3truncated") < text.index("Before and after") and "healthy, seed" not in text
