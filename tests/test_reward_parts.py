"""Laws of the parts that a reward may have beside its family, how they are chosen, and a part of one's own.

    pytest tests/test_reward_parts.py

Axes: N predicted boxes, M true ones.
"""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_resume import SMALL, assert_same, interrupted

from visual_rft import score, train
from visual_rft.boxes import iou_matrix
from visual_rft.frames import Box
from visual_rft.rewards.average_precision import average_precision
from visual_rft.rewards.parts import dynamic_iou, giou, overlong, repetition
from visual_rft.rewards.strict import detection
from visual_rft.tasks.wording import completion, detection_answer
from visual_rft.vocabulary import (
    Attempt,
    ClassAnswer,
    ClassTruth,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    GroundingAnswer,
    GroundingTruth,
    Reason,
    Refusal,
)

laws = settings(deadline=None, max_examples=60)
spans = st.sampled_from([(a, b) for a, b in itertools.combinations(range(0, 1001, 100), 2) if b - a <= 400])
boxes = st.builds(lambda x, y: (float(x[0]), float(y[0]), float(x[1]), float(y[1])), spans, spans)
truths = st.lists(boxes, max_size=4)
found = st.lists(st.builds(Detection, boxes, st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])), max_size=4)

CAT, NEAR, FAR = (100.0, 200.0, 300.0, 400.0), (310.0, 200.0, 510.0, 400.0), (800.0, 800.0, 900.0, 900.0)
SCHEDULE = [[0, 0.85], [0.1, 0.95], [0.25, 0.99]]
OF_BOXES = {
    "giou": giou,
    "dynamic_iou": lambda one: dynamic_iou(one, thresholds=[[0, 0.5]]),
    "average_precision": lambda one: average_precision(one, count_penalty=True),
}


def attempt(drawn: list[Detection], true: list[Box], progress: float = 0.0) -> Attempt:
    return Attempt(completion("I see.", detection_answer(drawn)), DetectionAnswer(tuple(drawn)), DetectionTruth(tuple(true)), progress=progress)


def sure(*drawn: Box) -> list[Detection]:
    return [Detection(box, 1.0) for box in drawn]


@pytest.mark.parametrize("part", OF_BOXES.values(), ids=OF_BOXES)
@laws
@given(found, truths, st.randoms())
def test_parts_of_boxes_lie_in_0_to_1_and_know_no_order(part, drawn, true, random) -> None:
    value = part(attempt(drawn, true))
    assert 0 <= value <= 1
    ranked = len({one.confidence for one in drawn}) == len(drawn)  # AP ranks equal confidences as they are given
    if ranked or part is not OF_BOXES["average_precision"]:
        assert part(attempt(random.sample(drawn, len(drawn)), random.sample(true, len(true)))) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("part", OF_BOXES.values(), ids=OF_BOXES)
@laws
@given(truths)
def test_the_truth_earns_one_and_a_refusal_nothing(part, true) -> None:
    assert part(attempt(sure(*true), true)) == pytest.approx(1)
    assert part(Attempt("", Refusal(Reason.NO_THINK), DetectionTruth(tuple(true)))) == 0
    if true:
        assert part(attempt([], true)) == 0


@laws
@given(found, truths)
def test_dynamic_iou_is_the_strict_iou_at_its_threshold_and_never_rises_with_it(drawn, true) -> None:
    at = [dynamic_iou(attempt(drawn, true, progress), thresholds=[[0, 0.2], [0.3, 0.5], [0.9, 0.8]]) for progress in (0.0, 0.29, 0.3, 0.89, 0.9, 1.0)]
    assert at[0] == at[1] and at[2] == at[3] and at[4] == at[5] and at[0] >= at[2] >= at[4]
    strict = detection(completion("", detection_answer(drawn)), DetectionTruth(tuple(true)), iou_threshold=0.5)
    assert at[2] == pytest.approx(strict.parts["iou"])


def test_giou_tells_a_near_miss_from_a_far_one_where_iou_does_not() -> None:
    hit, near, far = (giou(attempt(sure(box), [CAT])) for box in (CAT, NEAR, FAR))
    assert hit == 1 and 1 > near > far > 0
    # By hand: two squares of 200 side by side, 10 apart; the hull is 410 × 200.
    assert near == pytest.approx((1 - (410 * 200 - 2 * 200 * 200) / (410 * 200)) / 2)
    assert giou(Attempt("", GroundingAnswer(NEAR), GroundingTruth(CAT))) == near


@laws
@given(found, truths)
def test_the_count_penalty_is_the_share_of_boxes_that_are_wanted(drawn, true) -> None:
    assume(true and drawn)
    plain, penal = (average_precision(attempt(drawn, true), count_penalty=count) for count in (False, True))
    assert penal == pytest.approx(plain * min(1, len(true) / len(drawn)))


def test_average_precision_alone_lets_boxes_follow_the_right_one_for_nothing() -> None:
    many = [*sure(CAT), *(Detection(box, 0.1) for box in (NEAR, FAR))]
    assert average_precision(attempt(many, [CAT]), count_penalty=False) == pytest.approx(1)
    assert average_precision(attempt(many, [CAT]), count_penalty=True) == pytest.approx(1 / 3)
    loose = (100.0, 200.0, 300.0, 470.0)  # an IoU of 200/270: found at .50 … .70, five thresholds of ten
    assert iou_matrix([loose], [CAT])[0, 0] == pytest.approx(200 / 270)
    assert average_precision(attempt(sure(loose), [CAT]), count_penalty=True) == pytest.approx(0.5)


@pytest.mark.parametrize(("tokens", "paid"), [(0, 0), (224, 0), (225, -1 / 32), (240, -0.5), (256, -1), (999, -1)])
def test_overlong_falls_evenly_over_its_buffer(tokens: int, paid: float) -> None:
    assert overlong(replace(attempt([], []), tokens=tokens), longest=256, buffer=32) == pytest.approx(paid)


@pytest.mark.parametrize(
    ("thinking", "paid"),
    [
        ("", 0),
        ("a b", 0),
        ("a b c", 0),
        ("a b c d e", 0),
        ("A b a b a b", -2 / 4),
        ("no,no,no.no no", -2 / 3),
        (" no\nno " * 500, 1 / 998 - 1),
    ],
)
def test_repetition_counts_runs_of_words_said_before(thinking: str, paid: float) -> None:
    text = completion(thinking, "[]")
    assert repetition(Attempt(text, DetectionAnswer(()), DetectionTruth(())), words=3) == pytest.approx(paid)


def test_without_thinking_nothing_is_repeated() -> None:
    """Boxes of one confidence, one after the other, are none."""
    boxes = completion(None, detection_answer(sure(CAT, NEAR, FAR)))
    assert repetition(Attempt(boxes, Refusal(Reason.NO_THINK), DetectionTruth(())), words=3) == 0


@pytest.mark.parametrize("text", ["", "<think>", "</think>", "a</think>", "<think></think>", "<answer>x</answer>"])
def test_thinking_is_empty_where_there_is_none(text: str) -> None:
    assert Attempt(text, Refusal(Reason.NO_THINK), DetectionTruth(())).thinking == ""


@pytest.mark.parametrize(
    ("part", "of", "line"),
    [
        (giou, Attempt("", ClassAnswer("cat"), ClassTruth("cat")), "it scores boxes, and this task has none"),
        (lambda one: average_precision(one, count_penalty=True), Attempt("", GroundingAnswer(CAT), GroundingTruth(CAT)), "is for detection"),
        (lambda one: overlong(one, longest=9, buffer=2), attempt([], []), "length in tokens is not known"),
        (lambda one: overlong(one, longest=9, buffer=10), attempt([], []), r"buffer=10: must lie in 1\.\.longest=9"),
        (lambda one: repetition(one, words=0), attempt([], []), "words=0: must be at least 1"),
        *(
            (lambda one, wrong=wrong: dynamic_iou(one, thresholds=wrong), attempt([], []), "must be pairs")
            for wrong in ([], [[0.1, 0.5]], [[0, 1.0]], [[0, 0.5], [0, 0.6]], [[0, 0.5], [0.2]], [[0, 0.5], [0.4, 0.6], [0.2, 0.7]])
        ),
    ],
)
def test_what_cannot_be_scored_is_said(part: Any, of: Attempt, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        part(of)


# ---- how they are chosen

MINE = """
def mine(one, *, least):
    return float(len(one.thinking.split()) >= least)


def nan(one):
    return float("nan")


def huge(one):
    return 10**400


broken = 3
"""
ANSWER = {"completion": completion("two words", detection_answer(sure(CAT))), "solution": "[{'Position': [100, 200, 300, 400], 'Confidence': 1}]"}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rewards of a user's, in which the tests run."""
    (tmp_path / "own_rewards.py").write_text(MINE)
    (tmp_path / "half_a_module.py").write_text("def f(one:\n")
    (tmp_path / "needs_another.py").write_text("import another_one\n")
    (tmp_path / "said.jsonl").write_text(json.dumps(ANSWER | {"tokens": 90}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def scored(capfd: pytest.CaptureFixture[str], *argv: str) -> dict[str, float]:
    assert score.main([*argv, "completions=said.jsonl"]) == 0
    line = json.loads(capfd.readouterr().out)
    return {**line["rewards"], "total": line["reward"]}


@pytest.mark.parametrize(
    ("argv", "earned"),
    [
        (["rewards=giou"], {"iou": 1, "giou": 1, "confidence": 1, "format": 1, "total": 3}),
        (["rewards=dynamic_iou", "progress=1"], {"iou": 1, "dynamic_iou": 1, "confidence": 1, "format": 1, "total": 3}),
        (["rewards=average_precision"], {"iou": 1, "average_precision": 1, "confidence": 1, "format": 1, "total": 2}),
        (["rewards=brief"], {"iou": 1, "overlong": (64 - 90) / 32, "repetition": 0, "confidence": 1, "format": 1, "total": 3 + (64 - 90) / 32}),
        (["rewards=paper", "+rewards.parts.mine={_target_: own_rewards.mine, least: 2}"], {"iou": 1, "mine": 1, "confidence": 1, "format": 1}),
        (["+rewards.parts.mine={_target_: own_rewards.mine, least: 3}", "+rewards.weights.mine=-2"], {"mine": 0, "total": 3}),
    ],
)
def test_a_yaml_or_a_key_chooses_them(argv: list[str], earned: dict[str, float], mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parts = scored(capfd, *argv)
    assert {name: parts[name] for name in earned} == pytest.approx(earned)


def test_a_schedule_is_scored_where_it_stands(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loose = detection_answer(sure((100.0, 200.0, 300.0, 420.0)))  # an IoU of 10/11
    (mine / "said.jsonl").write_text(json.dumps(ANSWER | {"completion": completion("", loose)}) + "\n")
    at = {progress: scored(capfd, "rewards=dynamic_iou", f"progress={progress}")["dynamic_iou"] for progress in (0.0, 0.09, 0.1, 0.5)}
    assert at == pytest.approx({0.0: 10 / 11, 0.09: 10 / 11, 0.1: 0, 0.5: 0})


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["rewards=giou", "task=cls_digits"], "rewards.weights.iou: this task has no such reward part; its parts are accuracy, format, giou"),
        (["rewards=average_precision", "task=grounding_digits"], "rewards.weights.confidence: this task has no such reward part"),
        (["+rewards.parts.iou={_target_: own_rewards.mine, least: 1}"], "rewards.parts.iou: rewards.family=strict has a part of this name"),
        (
            ["+rewards.parts.x={_target_: nowhere_at_all.f}"],
            "rewards.parts.x._target_=nowhere_at_all.f: ModuleNotFoundError: No module named 'nowhere_at_all'; a module is",
        ),
        (
            ["+rewards.parts.x={_target_: own_rewards.f}"],
            "rewards.parts.x._target_=own_rewards.f: AttributeError: module 'own_rewards' has no attribute 'f'; mend",
        ),
        (
            ["+rewards.parts.x={_target_: own_rewards.broken}"],
            "rewards.parts.x._target_=own_rewards.broken: must be a function of an attempt",
        ),
        (["+rewards.parts.x={_target_: own_rewards.mine}"], "rewards.parts.x: own_rewards.mine is called with an attempt and no arguments"),
        (["+rewards.parts.x={_target_: own_rewards.mine, most: 1}"], "rewards.parts.x: own_rewards.mine is called with an attempt and most"),
        (["+rewards.parts.x=3"], "rewards.parts.x: must be {_target_: module.function, …}"),
        (["+rewards.parts.x={_target_: own_rewards.nan}"], "said.jsonl, line 1: rewards.parts.x: must be a finite number of at most 1e+06 for every"),
        (["+rewards.parts.x={_target_: own_rewards.huge}"], "rewards.parts.x: must be a finite number of at most 1e+06 for every completion"),
        (["+rewards.parts.x={_target_: half_a_module.f}"], "rewards.parts.x._target_=half_a_module.f: SyntaxError: "),
        (["+rewards.parts.x={_target_: needs_another.f}"], "needs_another.f: ModuleNotFoundError: No module named 'another_one'; mend it"),
        (["progress=1.5"], "progress=1.5: must lie in 0..1"),
        (["rewards=brief", "rewards.parts.overlong.buffer=0"], "said.jsonl, line 1: rewards.parts.overlong: buffer=0: must lie in 1..longest=96"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(argv: list[str], line: str, mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert score.main([*argv, "completions=said.jsonl"]) == 2
    out, err = capfd.readouterr()
    assert not out and len(err.splitlines()) == 1 and line in err


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "9"])
def test_a_length_that_is_none_is_refused_by_line(tokens: object, mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (mine / "said.jsonl").write_text(json.dumps(ANSWER | {"tokens": tokens}) + "\n")
    assert score.main(["rewards=brief", "completions=said.jsonl"]) == 2
    assert "said.jsonl, line 1: tokens must be the length of the completion" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["fsod_digits", "cls_digits", "grounding_digits"])
def test_parts_of_text_belong_to_every_task(name: str, mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = {"fsod_digits": "[]", "cls_digits": "seven", "grounding_digits": "(1,2),(3,4)"}[name]
    (mine / "said.jsonl").write_text(json.dumps({"completion": completion("again again again again", said), "solution": said, "tokens": 96}) + "\n")
    earned = scored(capfd, f"task={name}", "rewards=brief")
    assert earned["repetition"] == -0.5 and earned["overlong"] == -1


@pytest.mark.slow
def test_a_part_of_ones_own_trains_from_outside_the_package(mine: Path) -> None:
    """In a process that starts in the user's folder, as the README has it; every rollout says what it earned."""
    command = [sys.executable, "-m", "visual_rft.train", *SMALL, "steps=1", "hydra.run.dir=run", "+rewards.weights.mine=0.5"]
    own = "+rewards.parts.mine={_target_: own_rewards.mine, least: 3}"
    subprocess.run([*command, own], cwd=mine, check=True, capture_output=True)
    rollouts = [json.loads(line) for line in (mine / "run/rollouts.jsonl").read_text().splitlines()]
    for one in rollouts:
        assert one["rewards"]["mine"] == float(len(Attempt(one["completion"], Refusal(Reason.NO_THINK), DetectionTruth(())).thinking.split()) >= 3)
    assert {one["rewards"]["mine"] for one in rollouts} != {0.0}
    assert "reward/mine" in json.loads((mine / "run/metrics.jsonl").read_text().splitlines()[-1])


def test_one_that_fails_is_named(mine: Path) -> None:
    """With the traceback that its author needs."""
    (mine / "own_failing.py").write_text("def f(one):\n    return {}['no such key']\n")
    command = [sys.executable, "-m", "visual_rft.score", "completions=said.jsonl", "+rewards.parts.x={_target_: own_failing.f}"]
    ended = subprocess.run(command, cwd=mine, capture_output=True, text=True)
    assert ended.returncode == 1 and "KeyError: 'no such key'" in ended.stderr and "rewards.parts.x cannot score" in ended.stderr


def test_a_reward_that_cannot_score_is_refused_before_the_run_is_begun(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = mine / "run"
    assert train.main([*SMALL, "+rewards.parts.x={_target_: own_rewards.nan}", f"hydra.run.dir={folder}"]) == 2
    assert "rewards.parts.x: must be a finite number of at most 1e+06 for every completion, and is nan" in capfd.readouterr().err
    assert not folder.exists()


# ---- schedules


def seen_progress(folder: Path) -> list[float]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line["reward/done"] for line in lines if "reward/done" in line]


@pytest.mark.slow
def test_a_schedule_goes_on_where_the_checkpoint_left_it(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reward knows of the training is how much of it is done, and that is the checkpoint's: a run that was interrupted in the middle of a
    schedule earns what one earns that was not."""
    (mine / "own_rewards.py").write_text("def done(one):\n    return one.progress\n")
    sys.modules.pop("own_rewards", None)
    argv = ["checkpoint.every=2", "rewards=dynamic_iou", "rewards.parts.dynamic_iou.thresholds=[[0,0.1],[0.5,0.4],[0.7,0.6]]"]
    argv += ["+rewards.parts.done={_target_: own_rewards.done}"]
    one, other = mine / "one", mine / "other"
    assert train.main([*SMALL, *argv, f"hydra.run.dir={one}"]) == 0
    interrupted(monkeypatch, *argv, f"hydra.run.dir={other}", after=4)
    assert train.main([*SMALL, *argv, f"hydra.run.dir={other}", "resume=auto"]) == 0
    assert_same(one, other)
    assert seen_progress(other) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
