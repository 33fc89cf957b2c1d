"""What a run's metrics warn of: `pytest tests/test_signs.py`."""

import io
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft.journal import Draft, Watch, Written
from visual_rft.tracking.console import Console
from visual_rft.tracking.loggers import NoLogger
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.tracking.signs import _SIGNS, LONG_WINDOW, PATIENCE, WINDOW, Sign, signs, signs_at_the_end

HEALTHY = {
    "reward/mean": 1.5,
    "reward/std": 0.8,
    "reward/zero_std_fraction": 0.1,
    "reward/iou": 0.4,
    "reward/format": 0.97,
    "refused/bad_box": 0.03,
    "completion/length_mean": 24.0,
    "completion/truncated_fraction": 0.01,
    "completion/thinking_words_mean": 3.0,
    "answer/unreadable_fraction": 0.03,
    "answer/boxes_mean": 1.1,
    "truth/boxes_mean": 1.0,
    "answer/empty_fraction": 0.1,
    "truth/empty_fraction": 0.1,
    "loss/kl": 0.1,
    "policy/entropy": 0.8,
    "policy/skipped_steps": 0.0,
}
TURNS = 12  # the step from which on a run of the tests goes wrong


def run(steps: int = 30, /, **wrong: float) -> list[dict[str, Any]]:
    """A run that learns: its parts rise evenly; from step TURNS on what is `wrong` (reward_mean for reward/mean) holds in place of it."""
    lines: list[dict[str, Any]] = [{"step": 0, "eval/AP": 8.0}]
    replaced = {name.replace("_", "/", 1): value for name, value in wrong.items()}
    for step in range(1, steps + 1):
        risen = {key: HEALTHY[key] * (1 + step / 100) for key in ("reward/mean", "reward/iou")}
        lines.append({"step": step} | HEALTHY | risen | (replaced if step >= TURNS else {}))
    return lines


def names(found: list[Sign]) -> list[str]:
    return [sign.name for sign in found]


def test_the_document_lists_every_sign() -> None:
    document = (Path(__file__).parents[1] / "docs/commands.md").read_text()
    assert [name for name in _SIGNS if f"`{name}`" not in document] == []


def test_a_run_that_learns_shows_none() -> None:
    assert signs(run()) == [] and signs([]) == [] and signs(run()[:1]) == []


WRONG: dict[str, tuple[dict[str, float], str]] = {
    "reward_stuck": ({"reward_mean": 0.0, "reward_std": 0.0, "refused_bad_box": 0.9}, "90% of the answers are refused, most as bad_box"),
    "groups_equal": ({"reward_zero_std_fraction": 1.0}, "in 100% of the groups all rewards are equal, 1."),
    "length_collapse": ({"completion_length_mean": 8.0}, "24 tokens at the beginning, 8 now"),
    "length_explosion": ({"completion_length_mean": 80.0}, "24 tokens at the beginning, 80 now"),
    "truncated": ({"completion_truncated_fraction": 0.5}, "50% of the completions are cut off"),
    "kl_runaway": ({"loss_kl": 3.0}, "KL 3.00 nats a token"),
    "entropy_collapse": ({"policy_entropy": 0.001}, "entropy 0.800 nats at the beginning, 0.001 now"),
    "thinking_gone": ({"completion_thinking_words_mean": 0.0}, 'the thinking is reduced to "…": 3.0 words at the beginning'),
    "empty_answers": ({"answer_empty_fraction": 0.6}, "and right for 10%; 10% at the beginning"),
    "more_boxes": ({"answer_boxes_mean": 4.0}, "boxes where there is nothing, as cheating does: "),
    "reward_falls": ({"reward_mean": 0.5}, "the reward falls, 1.5"),
    "hacking": ({"reward_mean": 2.5, "reward_iou": 0.1}, "and iou falls, 0.42 to "),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_shows_its_own_sign_once_with_a_remedy(name: str) -> None:
    wrong, text = WRONG[name]
    (sign,) = signs(run(**wrong))
    assert sign.name == name and text in sign.text and TURNS <= sign.step < TURNS + LONG_WINDOW
    assert sign.remedy and "\n" not in sign.text + sign.remedy and sign in signs_at_the_end(run(**wrong)[: sign.step + 1])


@pytest.mark.parametrize("name", WRONG)
def test_one_odd_step_is_no_sign_and_nor_is_a_fault_that_was_always_there(name: str) -> None:
    odd, fine = run(**WRONG[name][0]), run()
    assert signs([*fine[:20], odd[20], *fine[21:]]) == []
    if name not in ("reward_stuck", "groups_equal", "truncated", "kl_runaway"):  # which say of themselves how much is too much
        assert signs([{"step": step, **{key: odd[20][key] for key in HEALTHY}} for step in range(1, PATIENCE)]) == []


@pytest.mark.parametrize("key", HEALTHY)
def test_what_is_not_measured_is_no_sign(key: str) -> None:
    for wrong, _ in WRONG.values():
        without = [{name: value for name, value in line.items() if name != key} for line in run(**wrong)]
        assert len(signs(without)) <= 1
        assert signs([line | {key: None} for line in run(**wrong)]) == signs([line | {key: math.inf} for line in run(**wrong)])  # null in a file
    assert signs([{"step": step, "loss/nll": 1.0, "policy/skipped_steps": 0.0} for step in range(60)]) == []


def scattered(key: str, true: str, said: list[float], was: list[float]) -> list[dict[str, Any]]:
    """A run of few prompts a step: what is said, and what is true."""
    return [{"step": step, key: a, true: b} for step, (a, b) in enumerate(zip(said, was, strict=True), start=1)]


def test_what_a_step_asks_is_hardly_ever_a_sign() -> None:
    """Of 40 healthy runs of two prompts a step, which are now and then about nothing, and now and then answered wrongly, at most one shows any."""
    alarms = 0
    for seed in range(40):
        chance = Random(seed)
        was = [chance.choice([0.0, 0.0, 0.5, 1.0]) for _ in range(60)]
        said = [min(max(true + chance.choice([-0.25, 0.0, 0.0, 0.25]), 0.0), 1.0) for true in was]
        found = signs(scattered("answer/empty_fraction", "truth/empty_fraction", said, was))
        found += signs(scattered("answer/boxes_mean", "truth/boxes_mean", [2 - a for a in said], [2 - b for b in was]))
        alarms += bool(found)
    assert alarms <= 1


def test_nothing_answered_where_nothing_is_is_no_cheat() -> None:
    assert signs(scattered("answer/boxes_mean", "truth/boxes_mean", [0.2] * 10 + [0.0] * 20, [0.2] * 10 + [0.0] * 20)) == []


def test_empty_answers_are_seen_where_hardly_anything_is_there() -> None:
    (sign,) = signs(scattered("answer/empty_fraction", "truth/empty_fraction", [0.82] * 10 + [1.0] * 20, [0.81] * 30))
    assert sign.name == "empty_answers"


def test_numbers_beyond_squaring_end_no_run() -> None:
    for key in ("completion/length_mean", "policy/entropy"):
        signs([{"step": step, key: 1e308 if step > 9 else 1.0} for step in range(1, 20)])
    signs(scattered("answer/boxes_mean", "truth/boxes_mean", [1.0] * 10 + [1e308] * 10, [-1e308] * 20))


def test_long_thinking_that_becomes_a_word_is_gone() -> None:
    assert names(signs([{"step": step, "completion/thinking_words_mean": 20.0 if step < 10 else 1.0} for step in range(1, 30)])) == ["thinking_gone"]


def test_cheating_is_seen_in_what_cannot_be_read() -> None:
    (sign,) = signs(run(reward_mean=9.0, reward_iou=9.0, answer_unreadable_fraction=0.9))
    assert sign.name == "hacking" and "ever more completions hold no answer, 3% to" in sign.text
    assert signs(run(reward_mean=1.5, answer_unreadable_fraction=0.9)) == []


def test_form_alone_shows_when_there_was_time_to_learn_more() -> None:
    still = [line | ({} if line["step"] == 0 else {"reward/iou": 0.1}) for line in run(PATIENCE)]
    assert names(signs(still[:-1])) == [] and [(sign.name, sign.step) for sign in signs(still)] == [("form_alone", PATIENCE)]


def test_stuck_says_what_to_do_for_each_cause() -> None:
    def remedy(**wrong: float) -> str:
        (sign,) = signs(run(reward_mean=0.0, reward_std=0.0, **wrong))
        return sign.remedy

    assert remedy(refused_truncated=0.5) == "raise algorithm.max_completion_tokens" and "sft" in remedy(refused_no_think=0.9)
    read = [{key: value for key, value in line.items() if not key.startswith("refused/")} for line in run(reward_mean=0.0, reward_std=0.0)]
    assert "all are read, and all are wrong" in signs(read)[0].text and "near misses" in signs(read)[0].remedy
    unread = [line | {"answer/unreadable_fraction": 0.9} for line in read]
    assert "90% of the completions hold no answer" in signs(unread)[0].text and "sft" in signs(unread)[0].remedy


def test_skipped_updates_are_counted_over_the_last_steps() -> None:
    lines = run(60)
    for line in lines[1:]:
        line["policy/skipped_steps"] = float(line["step"] >= 30) + 2.0 * (line["step"] >= 50)
    assert [(sign.name, sign.step) for sign in signs(lines)] == [("skipped", 50)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(sorted(HEALTHY)), st.none() | st.floats()), max_size=30))
def test_any_numbers_are_looked_at(lines: list[dict[str, Any]]) -> None:
    numbered = [{"step": step} | line for step, line in enumerate(lines)]
    found = signs(numbered)
    assert len(set(names(found))) == len(found) and all(WINDOW <= sign.step <= len(lines) for sign in found)


@pytest.mark.parametrize("name", WRONG)
def test_a_run_is_told_each_sign_once_however_often_it_was_interrupted(name: str) -> None:
    """Step by step what the whole run shows; one that goes on does not repeat what was said before it stopped."""
    lines = run(**WRONG[name][0])
    for stopped in (0, 1, TURNS + 2, 25):
        watch, said = Watch(lines[:stopped]), signs(lines[:stopped])
        for line in lines[stopped:]:
            said += watch.after(line["step"], {key: value for key, value in line.items() if key != "step"})
        assert said == signs(lines)


def test_the_console_says_a_sign_on_a_line_of_its_own(tmp_path: Path) -> None:
    told = io.StringIO()
    folder = RunFolder.create(tmp_path / "run", "", {})
    journal = Written(folder, NoLogger(), Console(60, file=told, clock=lambda: 0.0), Watch(()), Draft(folder))
    for line in run(loss_kl=3.0):
        journal.metrics(line["step"], {key: value for key, value in line.items() if key != "step"})
    said = [line for line in told.getvalue().splitlines() if "KL" in line]
    assert said == [str(sign) for sign in signs(folder.metrics())] and len(said) == 1
    assert said[0].startswith("step 16: the policy runs away from the base model: KL 3.00 nats a token; ask for a smaller model.learning_rate")
