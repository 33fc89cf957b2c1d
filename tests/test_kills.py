"""A run that is killed at any moment goes on as if nothing had happened. Run: .venv/bin/python -m pytest tests/test_kills.py

Slow: twenty kills at random moments on one process, and on two; and a rank that dies under torchrun.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import pytest
from many import SECONDS, Started, entry, free_port

STEPS = 6
SMALL = [
    f"steps={STEPS}",
    "prompts_per_step=2",
    "algorithm.group_size=4",
    "task.shots=1",
    "data.test_images=4",
    "hardware.threads=1",
    "logger.report_images=2",
    "checkpoint.every=1",
    "resume=auto",
]
MINUTE = 60.0
TIMES = ("time/", "throughput/", "memory/")  # what no two runs have alike

Moment = Callable[[], bool]


@dataclass(frozen=True)
class Run:
    """A run under test: its folder, which has no neighbours, and of how many ranks it is."""

    folder: Path
    size: int

    def start(self, attempt: int) -> Started:
        return Started.of(self.size, entry, [*SMALL, f"hydra.run.dir={self.folder}"], logs=self.folder.parent / f"try{attempt}")

    def lines(self, name: str = "metrics.jsonl") -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def saved(self) -> int | None:
        """The step of the newest checkpoint that is whole and can be gone on from."""
        notes = [json.loads(file.read_text()) for file in self.folder.glob("checkpoints/step_*/run.json")]
        return max((note["step"] for note in notes if "trainer" in note), default=None)


def comparable(line: str) -> str:
    return json.dumps({name: value for name, value in json.loads(line).items() if not name.startswith(TIMES)})


def outcome(run: Run) -> dict[str, object]:
    """What must not depend on kills: every byte of the logs, times apart, the answers, the weights."""
    shards = {file.name: file.read_bytes() for file in sorted((run.folder / f"checkpoints/step_{STEPS:06d}").glob("*.safetensors"))}
    answers = {name: (run.folder / f"answers_{name}.jsonl").read_bytes() for name in ("before", "after")}
    return {"metrics": list(map(comparable, run.lines())), "rollouts": run.lines("rollouts.jsonl"), "answers": answers, "weights": shards}


def assert_same(run: Run, expected: dict[str, object]) -> None:
    found = outcome(run)
    assert expected["weights"], "there is something to compare"
    assert [name for name in expected if found[name] != expected[name]] == []
    assert [path.name for path in run.folder.rglob("*.partial") if "checkpoints" in path.parts] == []


class Whole:
    """An uninterrupted run, and how long it took."""

    def __init__(self, run: Run) -> None:
        began = time.monotonic()
        assert run.start(0).wait() == [0] * run.size, Started([], [], run.folder.parent / "try0").text("err", 0)
        self.seconds, self.outcome = time.monotonic() - began, outcome(run)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(Run(tmp_path_factory.mktemp("one") / "run", 1))


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(Run(tmp_path_factory.mktemp("two") / "run", 2))


def after(seconds: float) -> Moment:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def saving(run: Run) -> Moment:
    return lambda: any(run.folder.glob("checkpoints/.step_*.partial"))


def naming(run: Run) -> Moment:
    """A checkpoint has all its tensors, and not yet its name."""
    return lambda: any(run.folder.glob("checkpoints/.step_*.partial/shards.json"))


def beginning(run: Run) -> Moment:
    """The run makes its first file."""
    return lambda: any(run.folder.glob("*config.yaml*"))


def at_the_end(run: Run) -> Moment:
    """The last evaluation is under way, or its answers are being written."""
    return lambda: any(run.folder.glob(f"checkpoints/*step_{STEPS:06d}*"))


def rewinding(run: Run) -> Moment:
    """A run that goes on has begun to take lines out of the logs."""
    log = run.folder / "metrics.jsonl"
    before = log.stat().st_ino if log.exists() else 0
    return lambda: log.exists() and log.stat().st_ino != before


def killed(run: Run, moments: Iterator[Callable[[Run], Moment]], enough: int = 10**6) -> int:
    """Starts the run again and again, and kills it at the moments, until it has finished (or so many kills were made); returns how many hit it."""
    hits = 0
    for attempt in count(1):
        kept, saved = run.lines(), run.saved()
        moment, started = next(moments)(run), run.start(attempt)
        while not started.is_over and (hits >= enough or not moment()):
            time.sleep(0.0005)
        over = started.is_over
        started.kill()
        assert_went_on(run, kept, saved, started.text("err", 0))
        if over:
            assert [process.exitcode for process in started.processes] == [0] * run.size, started.text("err", 0)
            assert all(started.text("out", rank) == "" for rank in range(1, run.size)) and "run folder:" in started.text("out", 0)
            return hits
        hits += 1
    raise AssertionError


def assert_went_on(run: Run, kept: list[str], saved: int | None, said: str) -> None:
    """From the newest whole checkpoint: its steps' lines stay what they were, times included, so none was run again."""
    (step,) = re.findall(r"goes on after step (\d+)", said) or [None]
    if step is None:
        return
    assert int(step) == (saved or 0), said
    if saved is not None:
        old = [line for line in kept if json.loads(line)["step"] <= saved]
        assert len(old) == saved + 1 and run.lines()[: len(old)] == old


def test_a_killed_run_goes_on_as_if_nothing_had_happened(by_one: Whole, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 1)
    moments = [beginning, naming, rewinding, saving, at_the_end, rewinding]
    assert killed(run, iter([*moments, lambda _: after(MINUTE)])) == len(moments)
    assert_same(run, by_one.outcome)


def test_two_killed_ranks_go_on_as_if_nothing_had_happened(by_two: Whole, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 2)
    assert killed(run, iter([saving, naming, lambda _: after(MINUTE)])) == 2
    assert_same(run, by_two.outcome)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_twenty_kills_at_random_moments(size: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole: Whole = request.getfixturevalue("by_one" if size == 1 else "by_two")
    chance, hits = Random(size), 0

    def moments() -> Iterator[Callable[[Run], Moment]]:
        aims: list[Callable[[Run], Moment]] = [saving, naming, at_the_end, rewinding, beginning]
        while True:
            aimed = chance.random() < 0.3
            yield chance.choice(aims) if aimed else lambda _: after(chance.uniform(0, whole.seconds))

    for number in count():
        run = Run(tmp_path / str(number) / "run", size)
        hits += killed(run, moments(), enough=20 - hits)
        assert_same(run, whole.outcome)
        if hits == 20:
            return
