"""An entry on several ranks: its reason once, its exit code, nobody left behind; the scripts of launch/; sweeps whose jobs are processes.

    pytest -m "" tests/test_launch.py

The entry is tests/ranks_toy.py, whose ranks gather numbers and fail as told. There is no Slurm here: its commands are stood in for by scripts.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from threading import Thread

import pytest
import ranks_toy
import torch.distributed as dist
from ranks_toy import ToyConfig

from visual_rft import config
from visual_rft.config import ranks, start
from visual_rft.config.ranks import REFUSED, Ending
from visual_rft.distributed import World

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
LIMIT = 60  # seconds in which all ranks of a failed run are gone
LOST = "rank 0: lost the connection to another rank, whose reason stands above"
KEYS = {"steps": 3, "pause": 0, "fails": "never", "rank": -1, "at": 2, "once": "false", "resume": "never"}
STAND_INS = {
    "srun": """
        echo "srun $*" >>"$RECORD"
        while [[ $1 == --* ]]; do shift; done
        for rank in 0 1; do SLURM_PROCID=$rank SLURM_NTASKS=2 SLURM_LOCALID=$rank "$@" & pids[rank]=$!; done
        trap 'kill -USR1 "${pids[@]}"' USR1
        highest=0
        for rank in 0 1; do
            while kill -0 "${pids[rank]}" 2>/dev/null; do wait "${pids[rank]}" && code=0 || code=$?; done
            ((code)) && kill -KILL "${pids[@]}" 2>/dev/null
            ((code > highest)) && highest=$code
        done
        exit $highest
        """,
    "scontrol": """
        echo "scontrol $*" >>"$RECORD"
        case "$1 $2" in
            "show job") echo "JobId=$3 JobName=visual_rft"; echo "   Command=$SCRIPT" ;;
            "show hostnames") echo 127.0.0.1 ;;
        esac
        """,
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a conf/ beside it, and an environment in which the toy is an entry and no rank lives on."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "conf/habits.yaml").write_text((ROOT / "conf/habits.yaml").read_text())
    keys = "".join(f"{key}: {value}\n" for key, value in KEYS.items())
    run = "hydra: {run: {dir: 'outputs/${started:%Y-%m-%d_%H-%M-%S-%f}'}}\n"
    (tmp_path / "conf/toy.yaml").write_text(f"defaults: [toy_schema, habits, _self_]\n{keys}{run}")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "VISUAL_RFT_EXIT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TOY_CONF": tmp_path / "conf", "PYTHONPATH": ROOT / "tests", "ENTRY": "ranks_toy", "NPROC": 2, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(config, "conf_folder", lambda _: tmp_path / "conf")
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"


class Ended:
    """What came of a command: exit code, stdout, stderr, seconds."""

    def __init__(self, code: int, out: str, err: str, seconds: float) -> None:
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def lines(self) -> list[str]:
        """Of stderr, without what torchrun and gloo say."""
        ours = (line for line in self.err.splitlines() if line.strip())
        return [line for line in ours if line.startswith(("rank ", "stopped", "row", "step")) or ": row" in line or "no such key" in line]


def spawn(command: Sequence[object], **environment: object) -> "subprocess.Popen[str]":
    """A command in a session of its own, so that all it starts can be ended."""
    env = os.environ | {name: str(value) for name, value in environment.items()}
    pipe = subprocess.PIPE
    return subprocess.Popen([str(part) for part in command], env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def ended(process: "subprocess.Popen[str]", since: float, limit: float = LIMIT + 60) -> Ended:
    """Waits for the end; a process that is still there fails the test, and goes with all that it started."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"still there after {limit} s: {out}{err}")
    return Ended(process.returncode, out, err, time.monotonic() - since)


def call(*command: object, **environment: object) -> Ended:
    return ended(spawn(command, **environment), time.monotonic())


def bare(*arguments: str, **environment: object) -> list[Ended]:
    """The toy on two ranks that no launcher watches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    since = time.monotonic()
    world = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "ranks_toy", *arguments]
    started = [spawn(command, RANK=rank, LOCAL_RANK=rank, **world, **environment) for rank in range(2)]
    return [ended(process, since) for process in started]


def appears(file: Path, seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.1)


# Ranks that no launcher watches


def test_ranks_share_a_folder_and_say_once_what_all_say(work: Path) -> None:
    first, second = bare("-m", "fails=never,refuses")
    assert (first.code, second.code) == (2, 2)
    assert (first.out, second.out) == ("table of 0_fails-never\n", "")
    assert (first.err, second.err) == ("1_fails-refuses: row 3 has no image\n", "")
    (sweep,) = (work / "outputs/sweeps").iterdir()
    assert {path.name for path in (sweep / "0_fails-never").iterdir()} == {"rank0", "rank1", "tried", "done"}


def together(lines: dict[int, str], size: int, monkeypatch: pytest.MonkeyPatch) -> dict[int, Ending]:
    """The endings of the ranks that refuse, each with its line."""
    store, endings = dist.HashStore(), {}
    monkeypatch.setattr(ranks, "board", lambda: store)
    monkeypatch.setattr(ranks, "TOGETHER", 0.3)

    def refuse(rank: int) -> None:
        endings[rank] = ranks._together(Ending(REFUSED, lines[rank]), World(rank, size), "end 0")

    threads = [Thread(target=refuse, args=(rank,)) for rank in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return endings


@pytest.mark.parametrize(
    ("lines", "size", "said", "in_step"),
    [
        ({0: "a", 1: "a", 2: "a"}, 3, ["a"], True),
        ({1: "a"}, 2, ["rank 1: a"], False),
        ({0: "a"}, 2, ["rank 0: a"], False),
        ({1: "a", 2: "a"}, 3, ["rank 1: a"], False),
        ({0: "a", 1: "b"}, 2, ["rank 0: a", "rank 1: b"], True),
        ({0: "a", 1: "b", 2: "a"}, 3, ["rank 0: a", "rank 1: b"], True),
    ],
)
def test_every_reason_is_said_by_one_rank_that_is_named_unless_all_have_it(
    lines: dict[int, str], size: int, said: list[str], in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = together(lines, size, monkeypatch)
    assert sorted(ending.text for ending in endings.values() if ending.text) == said
    assert {(ending.code, ending.in_step) for ending in endings.values()} == {(REFUSED, in_step)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "reason", "codes"),
    [("refuses", "rank 1: row 3 has no image", (1, 2)), ("bug", "rank 1: Traceback", (1, 1)), ("killed", "", (1, -9)), ("quits", "", (1, 3))],
)
def test_one_rank_that_fails_ends_the_others_without_a_launcher(fails: str, reason: str, codes: tuple[int, int], work: Path) -> None:
    first, second = bare(f"fails={fails}", "rank=1", "steps=1000", "pause=0.01")
    assert (first.code, second.code) == codes and max(first.seconds, second.seconds) < LIMIT
    assert second.err.startswith(reason) and ("a bug of rank 1" in second.err) == (fails == "bug")
    assert first.err == f"{LOST}\n" and first.out == second.out == ""


# launch/


@pytest.mark.parametrize("script", ["local.sh", "torchrun.sh", "slurm.sh"])
def test_a_script_is_sound_and_can_be_run(script: str) -> None:
    assert os.access(LAUNCH / script, os.X_OK) and "set -euo pipefail" in (LAUNCH / script).read_text()
    assert subprocess.run(["bash", "-n", LAUNCH / script], capture_output=True, check=True).stderr == b""


def test_local_hands_on_arguments_exit_code_and_the_folder_of_the_user(work: Path) -> None:
    assert (done := call(LAUNCH / "local.sh", "hydra.run.dir=here it is")).code == 0 and done.out == "table of here it is\n"
    assert (work / "here it is/rank0").read_text() == "1 0\n"
    assert (refused := call(LAUNCH / "local.sh", "stepz=2")).code == 2 and refused.err == "stepz: no such key; did you mean steps?\n"


@pytest.mark.slow
def test_torchrun_runs_ranks_and_ends_a_refusal_at_once(work: Path) -> None:
    done = call(LAUNCH / "torchrun.sh", "hydra.run.dir=run")
    assert (done.code, done.out, done.err) == (0, "table of run\n", "")
    assert [(work / f"run/rank{rank}").read_text() for rank in range(2)] == ["2 0\n", "2 1\n"]
    refused = call(LAUNCH / "torchrun.sh", "stepz=2")
    assert (refused.code, refused.out, refused.err) == (2, "", "stepz: no such key; did you mean steps?\n")


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "reason"), [("refuses", "rank 1: row 3 has no image"), ("bug", "rank 1: Traceback")])
def test_under_torchrun_the_reason_comes_first_and_nothing_is_tried_in_vain(fails: str, reason: str, work: Path) -> None:
    one = call(LAUNCH / "torchrun.sh", f"fails={fails}", "rank=1", "steps=1000", RESTARTS=0 if fails == "bug" else 3)
    assert one.code == (2 if fails == "refuses" else 1) and one.seconds < LIMIT
    assert one.err.startswith(reason) and one.err.count(reason) == 1 and one.out == ""


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again(work: Path) -> None:
    done = call(LAUNCH / "torchrun.sh", "fails=killed", "rank=1", "once=true", "steps=20", "hydra.run.dir=run")
    assert (done.code, done.out) == (0, "table of run\n") and (work / "run/done").exists() and "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_saves_and_stops(number: signal.Signals, work: Path) -> None:
    process, since = spawn([LAUNCH / "torchrun.sh", "steps=100000", "pause=0.05", "hydra.run.dir=run"]), time.monotonic()
    appears(work / "run/rank1")
    time.sleep(1)
    process.send_signal(number)
    done = ended(process, since)
    assert done.code == 75 and done.out == ""
    assert done.err.startswith("stopped after step ") and done.err.endswith("; go on with resume=auto\n") and done.err.count("\n") == 1


@pytest.fixture
def slurm(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, as far as the script needs them; returns the file in which they say how they were called."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{dedent(text)}")
        (tmp_path / "bin" / name).chmod(0o755)
    names = {"SLURM_JOB_ID": os.getpid(), "SLURM_JOB_NODELIST": "node[1-1]", "SCRIPT": LAUNCH / "slurm.sh", "RECORD": tmp_path / "record"}
    for name, value in (names | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}).items():
        monkeypatch.setenv(name, str(value))
    return tmp_path / "record"


@pytest.mark.slow
def test_slurm_queues_again_what_was_stopped_and_nothing_else(slurm: Path, work: Path, tmp_path: Path) -> None:
    spooled = tmp_path / "slurm_script"  # Slurm runs a copy
    spooled.write_text((LAUNCH / "slurm.sh").read_text())
    done = call("bash", spooled, "hydra.run.dir=run")
    assert (done.code, done.out, done.err) == (0, "table of run\n", "") and (work / "run/rank1").read_text() == "2 1\n"
    refused = call("bash", spooled, "fails=refuses")
    assert (refused.code, refused.err) == (2, "row 3 has no image\n")
    assert (
        "requeue" not in slurm.read_text()
        and f"{ROOT}/launch/../.venv/bin/python" in slurm.read_text()
        and "--kill-on-bad-exit=1" in slurm.read_text()
    )
    process, since = spawn(["bash", spooled, "steps=100000", "pause=0.05", "hydra.run.dir=long"]), time.monotonic()
    appears(work / "long/rank1")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGUSR1)
    stopped = ended(process, since)
    assert stopped.code == 75 and stopped.err.count("\n") == 1 and stopped.err.startswith("stopped after step ")
    assert slurm.read_text().endswith(f"scontrol requeue {os.getpid()}\n") and list(work.glob(".visual_rft*")) == []


# Sweeps whose jobs are processes of their own

LOCAL = ["-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=2", "hydra.sweep.dir=sweep"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["hydra/launcher=submitit_local"], "hydra/launcher=submitit_local: it starts the jobs of a sweep; write -m before the overrides"),
        (["-m", "hydra/launcher=submitit_slrum"], "hydra/launcher=submitit_slrum: no such option; there is basic, submitit_local, submitit_slurm"),
        (["-m", *LOCAL[1:], "hydra.launcher.tasks=2"], "hydra.launcher.tasks"),
    ],
)
def test_a_wrong_launcher_is_one_line(arguments: list[str], line: str, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert start(ToyConfig, "toy", ranks_toy.run, arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1 and list(work.iterdir()) == []


def test_a_launcher_that_is_not_installed_says_how_to_install_it(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda _: None)
    assert start(ToyConfig, "toy", ranks_toy.run, ["-m", "hydra/launcher=submitit_slurm"]) == 2
    assert capfd.readouterr().err == "hydra/launcher=submitit_slurm: not installed; pip install hydra-submitit-launcher\n"


@pytest.mark.slow
def test_each_job_of_a_submitit_sweep_is_a_world_and_a_failing_one_stops_no_other(work: Path) -> None:
    done = call(sys.executable, "-m", "ranks_toy", *LOCAL, "fails=never,refuses", "rank=-1,1")
    assert (done.code, done.out) == (2, "table of 0_fails-never_rank--1, 1_fails-never_rank-1\n")
    assert done.err.splitlines() == [
        "2_fails-refuses_rank--1: row 3 has no image",
        "rank 1: 3_fails-refuses_rank-1: row 3 has no image",
        LOST,
    ]
    assert [(work / f"sweep/0_fails-never_rank--1/rank{rank}").read_text() for rank in range(2)] == ["2 0\n", "2 1\n"]


@pytest.mark.slow
def test_a_rank_of_a_submitit_job_that_is_killed_is_one_line(work: Path) -> None:
    done = call(sys.executable, "-m", "ranks_toy", *LOCAL, "fails=killed", "rank=1", "steps=1000", "pause=0.01")
    assert (done.code, done.out) == (1, "") and done.err.count("\n") == 1 and "its log is beside that file" in done.err
