"""A run that is killed at any moment goes on as if nothing had happened. Run: .venv/bin/python -m pytest tests/test_kills.py

Slow: two ranks, of which one dies; under torchrun, too; twenty kills at random moments on one process, and on two.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from many import SECONDS, Started, entry, free_port
from safetensors.torch import load_file

STEPS = 6
SMALL = [
    f"steps={STEPS}",
    "prompts_per_step=2",
    "algorithm.group_size=4",
    "task.shots=1",
    "data.train_images=60",
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
class Kill:
    """When processes of a run are killed, and which; None: all."""

    moment: "Callable[[Run], Moment]"
    only: int | None = None


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


def outcome(run: Run) -> dict[str, Any]:
    """What must not depend on kills: every byte of the logs, times apart, the answers, the weights."""
    shards = {file.name: load_file(file) for file in sorted((run.folder / f"checkpoints/step_{STEPS:06d}").glob("*.safetensors"))}
    weights = {file: {name: tensor.numpy().tobytes() for name, tensor in tensors.items()} for file, tensors in shards.items()}
    answers = {name: (run.folder / f"answers_{name}.jsonl").read_bytes() for name in ("before", "after")}
    return {"metrics": list(map(comparable, run.lines())), "rollouts": run.lines("rollouts.jsonl"), "answers": answers, "weights": weights}


def assert_same(run: Run, expected: dict[str, Any]) -> None:
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


def appears(run: Run, pattern: str) -> Moment:
    """Something of this name is made, or changed, by the process that is about to start."""
    before = stamps(run, pattern)
    return lambda: bool(stamps(run, pattern) - before)


def stamps(run: Run, pattern: str) -> set[tuple[str, int, int]]:
    found = set()
    for path in run.folder.glob(pattern):
        with suppress(FileNotFoundError):  # it has got its name
            stat = path.stat()
            found.add((path.name, stat.st_ino, stat.st_ctime_ns))
    return found


AIMS: dict[str, str] = {
    "its first file is made": "*config.yaml*",
    "logs are rewound": "metrics.jsonl",
    "a checkpoint is written": "checkpoints/.step_*.partial",
    "a checkpoint gets its name": "checkpoints/.step_*.partial/shards.json",
    "the last evaluation is under way": f"checkpoints/*step_{STEPS:06d}*",
}


def at(aim: str, only: int | None = None) -> Kill:
    return Kill(lambda run: appears(run, AIMS[aim]), only)


def killed(run: Run, kills: Iterator[Kill], enough: int = 10**6) -> int:
    """Starts the run again and again, and kills it, until it has finished (or so many kills were made); returns how many hit it."""
    for hits in count():
        kept, saved = run.lines(), run.saved()
        kill = next(kills)
        moment, started = kill.moment(run), run.start(hits + 1)
        while not started.is_over and (hits >= enough or not moment()):
            time.sleep(0.0005)
        over = started.is_over
        if kill.only is not None and not over:
            assert_ends_the_others(started, kill.only)
        started.kill()
        assert_went_on(run, kept, saved, started.text("err", 0))
        if over:
            assert [process.exitcode for process in started.processes] == [0] * run.size, started.text("err", 0)
            assert all(started.text("out", rank) == "" for rank in range(1, run.size)) and started.text("out", 0).count("run folder:") == 1
            return hits
    raise AssertionError


def assert_ends_the_others(started: Started, dead: int) -> None:
    """Within a minute, in one line and no traceback: the reason is the dead one's to say."""
    started.kill([dead])
    codes = started.wait(MINUTE)
    said = "".join(started.text("err", rank) for rank in range(len(codes)) if rank != dead)
    assert all(code == 1 for rank, code in enumerate(codes) if rank != dead), (codes, said)
    assert said.count("lost the connection to another rank") == 1 and "Traceback" not in said, said


def assert_went_on(run: Run, kept: list[str], saved: int | None, said: str) -> None:
    """From the newest whole checkpoint: its steps' lines stay what they were, times included, so none was run again."""
    (step,) = re.findall(r"goes on after step (\d+)", said) or [None]
    if step is None:
        return
    assert int(step) == (saved or 0), said
    if saved is not None:
        old = [line for line in kept if json.loads(line)["step"] <= saved]
        assert len(old) == saved + 1 and run.lines()[: len(old)] == old


def to_the_end() -> Kill:
    return Kill(lambda _: after(10 * MINUTE))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(by_one: Whole, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 1)
    kills = [at("its first file is made"), at("a checkpoint gets its name"), at("logs are rewound"), at("the last evaluation is under way")]
    assert killed(run, iter([*kills, to_the_end()])) == len(kills)
    assert_same(run, by_one.outcome)


@pytest.mark.slow
def test_a_run_goes_on_when_one_of_two_ranks_was_killed(by_two: Whole, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 2)
    assert killed(run, iter([at("a checkpoint is written", only=1), to_the_end()])) == 1
    assert_same(run, by_two.outcome)


@pytest.mark.slow
def test_two_ranks_write_what_one_does(by_one: Whole, by_two: Whole) -> None:
    """The first step and the answers before it; what comes later is the sampling rule's."""
    (before, first), (others_before, others) = ([json.loads(line) for line in whole.outcome["metrics"][:2]] for whole in (by_one, by_two))
    assert others_before == before and others == pytest.approx(first, abs=1e-5, rel=1e-5)
    assert by_two.outcome["answers"]["before"] == by_one.outcome["answers"]["before"]
    said, others_said = ([r["completion"] for r in map(json.loads, whole.outcome["rollouts"]) if r["step"] == 1] for whole in (by_one, by_two))
    assert others_said == said and len(said) == 8


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_twenty_kills_at_random_moments(size: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole: Whole = request.getfixturevalue("by_one" if size == 1 else "by_two")
    chance, hits, length = Random(size), 0, whole.seconds

    def kills() -> Iterator[Kill]:
        while True:
            seconds, aim, only = chance.uniform(0, length), chance.choice(list(AIMS)), chance.choice([None, *range(size)])
            # One rank alone is killed where it has met the other: before that the launcher ends what is left.
            yield at(aim, only if size > 1 else None) if chance.random() < 0.5 else Kill(lambda _, seconds=seconds: after(seconds))

    for number in count():
        run = Run(tmp_path / str(number) / "run", size)
        began, before = time.monotonic(), hits
        hits += killed(run, kills(), enough=20 - hits)
        assert_same(run, whole.outcome)
        if hits == 20:
            return
        if hits == before:  # the machine has become faster
            length = time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_under_torchrun_the_dead_rank_is_named_first(dead: int, tmp_path: Path) -> None:
    run, log = Run(tmp_path / "run", 2), tmp_path / "log"
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m", "visual_rft.train"]
    with log.open("wb") as file:
        argv += [*SMALL, "steps=1000", f"hydra.run.dir={run.folder}"]
        torchrun = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    try:
        end = time.monotonic() + SECONDS
        while len(run.lines()) < 3:
            assert torchrun.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        os.kill(rank_of(torchrun.pid, dead), signal.SIGKILL)
        assert torchrun.wait(MINUTE) != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(torchrun.pid, signal.SIGKILL)
    said = log.read_text()
    named, others = said.find(f"local_rank: {dead}"), [said.find(word) for word in ("Traceback", "lost the connection") if word in said]
    assert 0 <= named < min(others, default=len(said)), said


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank, among its launcher's children."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_child = f"\nPPid:\t{launcher}\n" in (folder / "status").read_text()
            if is_child and f"\0LOCAL_RANK={rank}\0".encode() in b"\0" + (folder / "environ").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no rank {rank}")
