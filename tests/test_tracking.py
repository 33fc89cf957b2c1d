"""The run folder and the console: `pytest tests/test_tracking.py`."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from visual_rft.images import StoredImage
from visual_rft.tracking import runfolder
from visual_rft.tracking._format import duration
from visual_rft.tracking.console import Console, print_table, score_rows
from visual_rft.tracking.runfolder import RunFolder, environment, rollout_records
from visual_rft.vocabulary import Completion, Detection, DetectionAnswer, DetectionTruth, Example, Group, Reason, Refusal, Reward

BEGUN = ["config.yaml", "environment.json"]  # what every run begins with
METRICS = {"reward/mean": 0.1 + 0.2, "loss/kl": 1e-17, "policy/lr": 1 / 3}


def begin(path: Path) -> RunFolder:
    return RunFolder.create(path, "seed: 1\n", {"device": "cpu"})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


# --- the run folder ---


def test_every_line_is_readable_as_soon_as_it_is_logged_and_earlier_ones_never_change(tmp_path: Path) -> None:
    run, before = begin(tmp_path / "a" / "run"), b""
    for step in range(1, 6):
        run.log_metrics(step, METRICS)
        run.log_rollouts(step, [{"completion": "a\nb\u2028c\ud800"}, {"completion": ""}])
        now = (run.path / "metrics.jsonl").read_bytes()
        assert now.startswith(before) and now.count(b"\n") == step
        assert lines(run.path / "metrics.jsonl")[-1] == {"step": step, **METRICS}
        assert len(lines(run.path / "rollouts.jsonl")) == 2 * step
        before = now


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from visual_rft.tracking.runfolder import RunFolder
run = RunFolder.create(pathlib.Path(sys.argv[1]), "", {})
for step in range(1, 4):
    run.log_metrics(step, {"reward/mean": 0.5})
    run.log_rollouts(step, [{"completion": "x" * 100_000}])
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "rollouts.jsonl")] == [1, 2, 3]


def test_equal_values_give_equal_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    for name, metrics in (("a", METRICS), ("b", dict(reversed(METRICS.items())))):
        begin(tmp_path / name).log_metrics(7, metrics)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "a" / "metrics.jsonl").read_text().startswith('{"step": 7, "loss/kl": 1e-17,')


def test_numbers_survive_the_round_trip_exactly_and_non_finite_ones_become_null(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.log_metrics(1, {**METRICS, "a": float("nan"), "b": float("-inf"), "c": float("inf")})
    run.log_rollouts(1, [{"rewards": {"iou": float("nan")}}])
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, **METRICS, "a": None, "b": None, "c": None}]
    assert lines(tmp_path / "rollouts.jsonl") == [{"step": 1, "rewards": {"iou": None}}]


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    begin(tmp_path).log_metrics(1, METRICS)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=rf"{tmp_path} already holds a run.*hydra\.run\.dir"):
        begin(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [*BEGUN, "metrics.jsonl"] and (tmp_path / "metrics.jsonl").read_bytes() == before
    (tmp_path / "metrics.jsonl").rename(tmp_path / "summary.json")
    with pytest.raises(ValueError, match=r"summary\.json"):
        begin(tmp_path)


def test_a_folder_that_hydra_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "train.log").touch()
    begin(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hydra", *BEGUN, "train.log"]


def test_a_folder_that_cannot_be_made_or_written_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=rf"cannot write the run folder {path}: .*hydra\.run\.dir"):
            begin(path)

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=f"cannot write the run folder {tmp_path}: Permission denied"):
        begin(tmp_path)


def test_a_summary_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path)
    with pytest.raises(TypeError):
        run.write_summary({"before": 1.0, "after": object()})
    assert sorted(os.listdir(tmp_path)) == BEGUN

    run.write_summary({"before": 1.0})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.write_summary({"before": 2.0})
    assert sorted(os.listdir(tmp_path)) == [*BEGUN, "summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"before": 1.0}


def test_config_environment_and_checkpoints_have_their_places(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "seed: 1\n", environment("cpu", {"train": "abc"}, "python -m x"))
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"
    assert json.loads((tmp_path / "environment.json").read_text())["data"] == {"train": "abc"}
    assert run.checkpoints == tmp_path / "checkpoints" and sorted(os.listdir(tmp_path)) == BEGUN


def test_the_environment_is_that_in_which_the_run_began(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write_environment({"device": "another"})
    assert json.loads((tmp_path / "environment.json").read_text()) == {"device": "cpu"}
    (tmp_path / "environment.json").unlink()  # killed between the two files
    run.write_environment({"device": "another"})
    assert json.loads((tmp_path / "environment.json").read_text()) == {"device": "another"}


def test_a_run_that_is_killed_as_it_begins_has_its_whole_configuration_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("link", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, name, interrupt)
            begin(tmp_path / name)
    assert os.listdir(tmp_path / "link") == []
    assert os.listdir(tmp_path / "replace") == ["config.yaml"] and (tmp_path / "replace/config.yaml").read_text() == "seed: 1\n"


def test_environment_names_versions_device_and_threads() -> None:
    found = environment("cpu", {}, "python -m x a=1")
    assert found["command"] == "python -m x a=1" and found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert all(found[key] for key in ("python", "transformers", "numpy", "platform", "device", "device_name"))


def test_git_is_the_packages_own_checkout_or_none(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    tracked = tmp_path / Path(runfolder.__file__).name
    assert runfolder._git(tmp_path) is None
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's project")
    tracked.touch()
    assert runfolder._git(tmp_path) is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert runfolder._git(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    tracked.write_text("changed")
    assert runfolder._git(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": True}


def test_rollout_records_go_prompt_by_prompt_and_say_answer_or_refusal() -> None:
    answer = DetectionAnswer((Detection((0.0, 1.0, 2.0, 3.0), 0.9),))
    rewards_PG = [
        [Reward({"iou": 0.5}, answer, None), Reward({"iou": 0.0}, None, Refusal(Reason.TRUNCATED, "<think>"))],
        [Reward({"iou": 1.0}, DetectionAnswer(()), None), Reward({"iou": 0.0}, None, None)],
    ]
    groups = [
        Group(
            Example(name, (StoredImage.of(0, Image.new("RGB", (8, 8))),), "seven", "where?", DetectionTruth(())),
            tuple(Completion(torch.arange(3), torch.zeros(3), f"{name}{g}", finished=g == 0) for g in range(2)),
        )
        for name in ("a", "b")
    ]
    records = rollout_records(4, groups, rewards_PG, torch.tensor([[0.5, 0.0], [1.0, 0.0]]), [[1.0, -1.0], [1.0, -1.0]])
    assert [record["completion"] for record in records] == ["a0", "a1", "b0", "b1"]
    assert [record["answer"] for record in records] == [[{"Position": [0.0, 1.0, 2.0, 3.0], "Confidence": 0.9}], None, [], None]
    assert [record["refused"] for record in records] == [None, "truncated", None, None]
    assert records[0] | {"answer": 0} == {
        "step": 4, "example": "a", "completion": "a0", "answer": 0, "refused": None,
        "rewards": {"iou": 0.5}, "reward": 0.5, "advantage": 1.0, "finished": True, "tokens": 3,
    }  # fmt: skip
    assert json.loads(json.dumps(records)) == records


# --- the console ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TerminalFile(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_steps(file: io.StringIO, seconds: list[float], *, steps: int, final_seconds: float = 0.0) -> list[str]:
    """Steps that take `seconds` each; the lines printed."""
    clock = Clock()
    with Console(steps, final_seconds=final_seconds, file=file, clock=clock) as console:
        for step, duration_ in enumerate(seconds, start=1):
            clock.now += duration_
            console.step(step, {"reward/mean": 0.25, "eval/AP": 12.5})
    return file.getvalue().splitlines()


def test_a_log_file_gets_a_plain_line_every_ten_seconds_and_the_last_step() -> None:
    printed = run_steps(io.StringIO(), [1.0] * 25, steps=25)
    assert [line.split()[1] for line in printed] == ["1/25", "11/25", "21/25", "25/25"]
    assert printed[1] == "step 11/25  reward 0.25  AP 12.5  0:11 elapsed  0:14 left"


def test_a_log_file_gets_no_escape_code_even_when_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with Console(1, file=file) as console:
        console.say("hostile \x1b[2J\rtext\nhere")
        console.step(1, {"reward/mean": 1.0})
    assert "\x1b" not in file.getvalue() and file.getvalue().splitlines()[0] == "hostile  [2J text here"


def test_time_left_forgets_the_slow_first_step_follows_recent_ones_and_adds_the_final_evaluation() -> None:
    def left(seconds: list[float], steps: int, final_seconds: float = 0.0) -> str:
        printed = run_steps(io.StringIO(), [*seconds], steps=steps, final_seconds=final_seconds)
        return printed[-1].split()[-2]

    assert left([500.0, 20.0], steps=10) == duration(8 * 20)
    assert left([500.0, 20.0], steps=10, final_seconds=60) == duration(8 * 20 + 60)
    assert left([1.0] * 100 + [20.0] * 20, steps=130) == duration(10 * 20)
    assert left([20.0, 20.0], steps=2, final_seconds=60) == duration(0), "the last step is told after it"
    assert run_steps(io.StringIO(), [500.0], steps=10)[-1].endswith("elapsed"), "one step says nothing about the others"


def test_time_left_counts_down_between_steps_and_never_below_the_other_steps() -> None:
    clock = Clock()
    console = Console(4, file=io.StringIO(), clock=clock)
    for step in (1, 2):
        clock.now += 30
        console.step(step, {})
    found = []
    for _ in range(4):
        found.append(console._seconds_left(clock.now))
        clock.now += 20
    assert found == [60, 40, 30, 30]


def test_a_stage_takes_the_line_and_gives_it_back() -> None:
    file, clock = io.StringIO(), Clock()
    with Console(2, file=file, clock=clock) as console:
        with console.stage("evaluate", 40) as advance:
            for _ in range(4):
                clock.now += 6
                advance(10)
        console.step(2, {})
    assert file.getvalue().splitlines() == [
        "evaluate  10/40  0:06 elapsed  0:18 left",
        "evaluate  30/40  0:18 elapsed  0:06 left",
        "evaluate  40/40  0:24 elapsed  0:00 left",
        "step 2/2  0:24 elapsed",
    ]


def test_lines_fit_eighty_columns_and_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    terminal = TerminalFile()
    for file in (None, terminal):
        with Console(10**6, file=file) as console, console.stage("a stage of a very long name " * 5, 10) as advance:
            console.step(1, {"reward/mean": 0.123456789, "eval/a_metric_with_a_name_that_is_far_too_long_for_one_line_of_a_terminal": 12.3})
            advance(5)
    out, err = capsys.readouterr()
    assert out == "" and err
    assert "\x1b" in terminal.getvalue(), "a terminal has a live line"
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "\n", err + terminal.getvalue())
    assert max(map(len, re.split(r"[\r\n]+", shown))) == 80


def test_in_a_terminal_messages_stay_whole_and_stdout_untouched(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    terminal = TerminalFile()
    with Console(2, file=terminal) as console:
        console.say("/a" * 60 + " [not markup]")
        print("result")
    assert capsys.readouterr() == ("result\n", "")
    assert "/a" * 60 + " [not markup]\n" in terminal.getvalue()


def shown_by_a_page(written: str) -> list[str]:
    """What a page shows of a cell's output: a return goes to the beginning of the line, over what is there; other control codes it may not know."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.rstrip())
    return lines


class KernelFile(io.StringIO):
    """What the kernel of a notebook has for stderr."""

    __module__ = "ipykernel.iostream"


class CommandFile(TerminalFile):
    """What a command has for stderr that a cell starts with `!`: a terminal, in the environment of the kernel."""


@pytest.mark.parametrize("file", [KernelFile(), CommandFile()], ids=lambda file: type(file).__name__)
def test_a_notebook_gets_one_line_that_is_overwritten_and_no_escape_code(file: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    clock, written = Clock(), []
    with Console(200, file=file, clock=clock) as console:
        with console.stage("evaluate", 4000) as advance:
            for _ in range(4000):
                clock.now += 0.01
                advance(1)
        for step in range(1, 200):
            clock.now += 1
            console.step(step, {"reward/mean": 1 / step})
            written.append(shown_by_a_page(file.getvalue())[-1])
        console.say("a sign of trouble")
        clock.now += 1
        console.step(200, {"reward/mean": 0.5})
    assert shown_by_a_page(file.getvalue()) == [
        "evaluate  4000/4000  0:40 elapsed  0:00 left",
        "a sign of trouble",
        "step 200/200  reward 0.5  4:00 elapsed  0:00 left",
        "",
    ]
    assert written[6] == "step 7/200  reward 0.1429  0:47 elapsed  3:13 left", "the line lives"
    assert file.getvalue().count("\r") < 300, "a message to the page at most twice a second"
    assert "\x1b" not in file.getvalue()


def test_what_a_notebook_catches_is_a_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert [line.split()[1] for line in run_steps(io.StringIO(), [1.0] * 25, steps=25)] == ["1/25", "11/25", "21/25", "25/25"]


def test_the_results_table_is_aligned_plain_text_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = {"AP": 6.8, "AP seven": None, "by category": {}}, {"AP": 25.7, "AP seven": float("nan")}
    print_table(("", "before", "after", "change"), score_rows({"evaluation_before": before, "evaluation_after": after}))
    out, err = capsys.readouterr()
    assert err == "" and out == (
        "          before  after  change\n"
        "AP          6.80  25.70  +18.90\n"
        "AP seven       -      -       -\n"
    )  # fmt: skip
