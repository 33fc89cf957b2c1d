"""A run that was interrupted goes on as if nothing had happened. Run: .venv/bin/python -m pytest tests/test_resume.py"""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from folders import tensors_in

from visual_rft import journal, policies, running
from visual_rft.checkpoint import newest, note
from visual_rft.resuming import hold, is_running
from visual_rft.train import main
from visual_rft.trainer import GrpoStep, Trainer

SMALL = [
    "steps=5",
    "prompts_per_step=2",
    "algorithm.group_size=4",
    "task.shots=1",
    "data.test_images=4",
    "hardware.threads=1",
    "logger.report_images=2",
]
EVERY = "checkpoint.every=2"


def interrupted(monkeypatch: pytest.MonkeyPatch, *argv: str, after: int) -> None:
    """A run that Ctrl-C ends when step `after` is done and nothing of it is written yet."""
    whole = Trainer.run

    def cut(self: Trainer, *arguments: object, **options: object) -> Iterator[GrpoStep]:
        for step in whole(self, *arguments, **options):  # type: ignore[arg-type]
            if step.number == after:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", cut)
        assert main([*SMALL, *argv]) == 130


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    assert main([*SMALL, EVERY, f"hydra.run.dir={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that was interrupted after step 3; tests take copies."""
    path = tmp_path_factory.mktemp("cut off")
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, EVERY, f"hydra.run.dir={path}", after=3)
    yield path


def lines(path: Path) -> list[dict[str, object]]:
    cost = ("time/", "throughput/", "memory/")
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(cost)} for line in path.read_text().splitlines()]


def assert_same(one: Path, other: Path) -> None:
    assert lines(one / "metrics.jsonl") == lines(other / "metrics.jsonl")
    assert (one / "rollouts.jsonl").read_bytes() == (other / "rollouts.jsonl").read_bytes()
    assert (one / "answers_after.jsonl").read_bytes() == (other / "answers_after.jsonl").read_bytes()
    a, b = (tensors_in(path / "checkpoints/step_000005") for path in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    summaries = [json.loads((path / "summary.json").read_text()) | {"seconds": 0} for path in (one, other)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow), 5])
def test_it_writes_the_very_same_run(after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before the first point to go on from, at one, between two, and after the last."""
    folder = f"hydra.run.dir={tmp_path}"
    interrupted(monkeypatch, EVERY, folder, after=after)
    assert not (tmp_path / "summary.json").exists()
    assert main([*SMALL, EVERY, folder, "resume=auto"]) == 0
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_so_does_one_that_is_computed_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer holds float32 weights of its own beside bfloat16 ones, the tower is frozen, a batch serves two updates, images come ahead."""
    way = ["hardware.precision=bfloat16", "hardware.logprob_tolerance=0.5", "model.frozen=[vision,merger]", "hardware.workers=2"]
    way.append("algorithm.updates_per_batch=2")
    one, other = tmp_path / "one", tmp_path / "other"
    assert main([*SMALL, EVERY, *way, f"hydra.run.dir={one}"]) == 0
    interrupted(monkeypatch, EVERY, *way, f"hydra.run.dir={other}", after=4)
    assert main([*SMALL, EVERY, *way, f"hydra.run.dir={other}", "resume=auto"]) == 0
    assert_same(one, other)
    before, after = (tensors_in(one / f"checkpoints/step_00000{step}") for step in (4, 5))
    assert after.keys() < before.keys() and any(not torch.equal(before[name].to(after[name].dtype), after[name]) for name in after), "and it trains"


@pytest.mark.slow
def test_it_can_be_interrupted_twice_and_what_came_after_the_point_is_forgotten(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"hydra.run.dir={tmp_path}"
    interrupted(monkeypatch, EVERY, folder, after=4)
    interrupted(monkeypatch, EVERY, folder, "resume=auto", after=5)
    leftover = tmp_path / "checkpoints/step_000005"
    leftover.mkdir()
    (leftover / "half").touch()
    assert main([*SMALL, EVERY, folder, "resume=auto"]) == 0
    assert_same(whole, tmp_path)


def test_it_is_found_beside_by_its_configuration(
    cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def at(name: str) -> str:
        return f"hydra.run.dir={tmp_path / name}"

    shutil.copytree(cut_off, tmp_path / "old")
    shutil.copytree(cut_off, tmp_path / "new")
    os.utime(tmp_path / "new/config.yaml")
    os.utime(tmp_path / "old/config.yaml", (1e9, 1e9))
    interrupted(monkeypatch, EVERY, at("other"), "seed=1", after=3)
    capfd.readouterr()
    assert main([*SMALL, EVERY, at("now"), "resume=auto"]) == 0
    out, err = capfd.readouterr()
    assert out.endswith(f"run folder: {tmp_path / 'new'}\n") and f"{tmp_path / 'new'}: goes on after step 2\n" in err
    assert not (tmp_path / "now").exists() and (tmp_path / "new/summary.json").exists()
    assert main([*SMALL, EVERY, at("now"), "resume=auto"]) == 0
    assert f"{tmp_path / 'old'}: goes on after step 2\n" in capfd.readouterr().err
    assert not (tmp_path / "other/summary.json").exists()


def test_a_finished_run_says_so_shows_its_table_and_stays(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert main([*SMALL, EVERY, f"hydra.run.dir={whole}", "resume=auto"]) == 0
    out, err = capfd.readouterr()
    assert err == f"{whole}: this run has finished; nothing is left to do\n" and "AP " in out
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_where_there_is_nothing_it_begins(whole: Path, tmp_path: Path) -> None:
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path / 'run'}", "resume=auto"]) == 0
    assert_same(whole, tmp_path / "run")


def test_another_configuration_is_refused_by_the_key_that_differs(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, EVERY, f"hydra.run.dir={whole}", "resume=auto", "seed=1"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"{whole} holds a run of another configuration (task, seed); ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "file, content",
    [
        ("*.safetensors", b"no tensors"),
        ("shards.json", b""),
        ("run.json", b"PK\x03\x04"),
        ("*.safetensors", None),  # without its last file, run.json, it would never have been whole
    ],
)
def test_a_damaged_state_is_refused_with_the_remedy(
    file: str, content: bytes | None, cut_off: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(cut_off, run)
    (state,) = (run / "checkpoints/step_000002").glob(file)
    state.write_bytes(content) if content is not None else state.unlink()
    config = (run / "config.yaml").read_text()
    capfd.readouterr()
    assert main([*SMALL, EVERY, f"hydra.run.dir={run}", "resume=auto"]) == 2
    assert capfd.readouterr().err == f"{state.parent}: damaged; delete it to go on from the one before it\n"
    assert (run / "config.yaml").read_text() == config and not (run / "summary.json").exists()


def test_a_checkpoint_that_was_deleted_since_it_was_damaged_is_not_missed(whole: Path, cut_off: Path, tmp_path: Path) -> None:
    """The remedy is one: the run goes on from the point before, here its beginning."""
    run = tmp_path / "run"
    shutil.copytree(cut_off, run)
    shutil.rmtree(run / "checkpoints/step_000002")
    assert main([*SMALL, EVERY, f"hydra.run.dir={run}", "resume=auto"]) == 0
    assert_same(whole, run)


def test_a_run_that_is_still_going_on_is_left_alone(cut_off: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cut_off, tmp_path / "live")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "live").rglob("*")}
    capfd.readouterr()
    with hold(tmp_path / "live"):
        assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path / 'live'}", "resume=auto"]) == 2
        line = f"{tmp_path / 'live'}: its run is still going on; wait for its end, or choose another hydra.run.dir\n"
        assert capfd.readouterr().err == line
        assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path / 'beside'}", "resume=auto"]) == 0
    assert (tmp_path / "beside/summary.json").exists()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "live").rglob("*")}


def test_a_log_that_a_crash_cut_and_strangers_beside_it_do_not_matter(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    interrupted(monkeypatch, EVERY, f"hydra.run.dir={run}", after=4)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (run / name).write_text((run / name).read_text() + '{"step": 4, "rew')
    (run / "checkpoints/step_best").mkdir()
    for name, text in {"bytes": b"\xff", "number": b"5", "empty": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(text)
    assert main([*SMALL, EVERY, f"hydra.run.dir={run}", "resume=auto"]) == 0
    assert_same(whole, run)
    spent = sum(json.loads(line).get("time/step", 0) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert json.loads((run / "summary.json").read_text())["seconds"] >= spent - 0.1


def test_only_one_process_goes_on_with_a_run(cut_off: Path, tmp_path: Path) -> None:
    """Both found it interrupted; the lock is what decides."""
    shutil.copytree(cut_off, tmp_path, dirs_exist_ok=True)
    with hold(tmp_path), pytest.raises(ValueError, match=f"^{tmp_path}: its run is still going on; "):
        hold(tmp_path)
    hold(tmp_path).close()


def test_it_holds_its_folder_from_before_the_model_is_loaded(cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cut_off, tmp_path, dirs_exist_ok=True)
    seen, load = [], policies.load
    monkeypatch.setattr(policies, "load", lambda *given, **named: (seen.append(is_running(tmp_path)), load(*given, **named))[1])
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert seen == [True] and not is_running(tmp_path)


def test_other_data_than_it_began_with_are_refused(cut_off: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cut_off, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "environment.json"
    began = json.loads(file.read_text())
    file.write_text(json.dumps(began | {"data": began["data"] | {"train": "0" * 64}}))
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    capfd.readouterr()
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 2
    line = f"{tmp_path}: its train data are other ones than when it began; put them back, or begin another run\n"
    assert capfd.readouterr().err == line and (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_its_seconds_and_scores_are_those_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ["checkpoint.keep_last=5", "checkpoint.keep_best=1", EVERY, f"hydra.run.dir={tmp_path}"]
    interrupted(monkeypatch, *kept, after=3)
    log = tmp_path / "metrics.jsonl"
    lines_before = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(line | ({"time/step": 1000.0} if line["step"] else {})) + "\n" for line in lines_before))
    assert main([*SMALL, *kept, "resume=auto"]) == 0
    assert 2000 <= json.loads((tmp_path / "summary.json").read_text())["seconds"] < 2600
    rewards = {line["step"]: line["reward/mean"] for line in map(json.loads, log.read_text().splitlines()) if line["step"]}
    scores = {step: note(tmp_path / f"checkpoints/step_{step:06d}")["score"] for step in (2, 4, 5)}
    assert scores == {2: pytest.approx((rewards[1] + rewards[2]) / 2), 4: pytest.approx((rewards[3] + rewards[4]) / 2), 5: pytest.approx(rewards[5])}


def test_a_checkpoint_that_was_put_aside_is_none(whole: Path, cut_off: Path, tmp_path: Path) -> None:
    shutil.copytree(cut_off, tmp_path, dirs_exist_ok=True)
    aside = [tmp_path / "checkpoints" / name for name in ("step_000009.bad", "step_best")]
    for folder in aside:
        folder.mkdir()
    assert policies.newest_checkpoint(tmp_path).name == "step_000002"
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert_same(whole, tmp_path)
    assert all(folder.exists() for folder in aside)


def test_a_run_that_goes_on_has_a_report_of_what_is_done(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal, "DRAFT_SECONDS", 0.0)  # and then fifty times what writing it took
        interrupted(monkeypatch, EVERY, f"hydra.run.dir={tmp_path}", after=4)
    draft = (tmp_path / "report.html").read_text()
    assert (
        re.search("<dt>steps</dt><dd>[123] of 5</dd>", draft)
        and 'id="explorer"' in draft
        and "To reproduce" in draft
        and "→" not in draft.partition("<h2>")[0]
    )
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert "<dt>steps</dt><dd>5</dd>" in (tmp_path / "report.html").read_text()
    assert_same(whole, tmp_path)


def test_a_signal_in_the_first_evaluation_stops_at_once_and_the_run_goes_on_with_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []
    with monkeypatch.context() as patch:
        plain = running.answer

        def signalled(*given: object, **named: object) -> Iterator[object]:
            for answered in plain(*given, **named):  # type: ignore[arg-type]
                asked.append(answered)
                signal.raise_signal(signal.SIGTERM)
                yield answered

        patch.setattr(running, "answer", signalled)
        assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}"]) == 75
    assert len(asked) == 1 and not (tmp_path / "metrics.jsonl").exists()
    assert capfd.readouterr().err.endswith("stopped by a signal in an evaluation; the same command with resume=auto goes on with it\n")
    left = []
    with monkeypatch.context() as patch:
        patch.setattr(
            running, "answer", lambda policy, processor, asked, **named: left.append(len(asked)) or plain(policy, processor, asked, **named)
        )
        assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert left == [len((whole / "answers_before.jsonl").read_text().splitlines()) - after for after in (1, 0)], (
        "what was answered is not asked again"
    )
    assert_same(whole, tmp_path)


def test_a_signal_while_training_saves_and_stops(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Trainer.run

    def signalled(self: Trainer, *given: object, **named: object) -> Iterator[GrpoStep]:
        for step in run(self, *given, **named):  # type: ignore[arg-type]
            if step.number == 3:
                signal.raise_signal(signal.SIGUSR1)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", signalled)
        assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}"]) == 75
    assert newest(tmp_path / "checkpoints") == tmp_path / "checkpoints/step_000003", "and not the point of step 2"
    assert main([*SMALL, EVERY, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert_same(whole, tmp_path)
