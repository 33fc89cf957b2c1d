"""An entry whose ranks only count together, and fail as they are told: what tests/test_launch.py starts."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from visual_rft import config
from visual_rft.config import Job, start
from visual_rft.distributed import Preempted, interruptible


class Fails(StrEnum):
    """How a rank fails at the step `at`, and in which job of a sweep."""

    never = "never"
    refuses = "refuses"
    bug = "bug"
    killed = "killed"
    quits = "quits"  # leaves without a word


@dataclass
class ToyConfig:
    """`steps`: gathers; `pause`: seconds between two; `fails`, `rank` (-1: all) and `at`: what goes wrong where; `once`: only at the first try;
    `resume`: what the scripts of launch/ add."""

    in_ranks: ClassVar = True

    steps: int = MISSING
    pause: float = MISSING
    fails: Fails = MISSING
    rank: int = MISSING
    at: int = MISSING
    once: bool = MISSING
    resume: str = MISSING

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be at least 1")


def run(job: Job[ToyConfig]) -> None:
    """Gathers `steps` times; a file a rank says where it has been."""
    c, world = job.config, job.world
    first_try = not (job.folder / "tried").exists()
    world.gather(first_try)
    (job.folder / f"rank{world.rank}").write_text(f"{world.size} {world.local_rank}\n")
    (job.folder / "tried").touch()
    with interruptible() as asked:
        for step in range(1, c.steps + 1):
            if step == c.at and c.rank in (-1, world.rank) and (first_try or not c.once):
                fail(c.fails, world.rank)
            assert world.gather(step) == [step] * world.size
            time.sleep(c.pause)
            if world.any(asked()):
                raise Preempted(f"stopped after step {step}; go on with resume=auto")
    world.first(lambda: (job.folder / "done").touch())


def fail(how: Fails, rank: int) -> None:
    """Fails."""
    match how:
        case Fails.refuses:
            raise ValueError("row 3 has no image")
        case Fails.bug:
            raise KeyError(f"a bug of rank {rank}")
        case Fails.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        case Fails.quits:
            os._exit(3)


def conclude(folders: list[Path], sweep: bool) -> None:
    """The table."""
    print(f"table of {', '.join(folder.name for folder in folders)}")


if __name__ == "__main__":
    signal.alarm(150)  # a test that fails leaves nobody behind: ranks of torchrun are in sessions of their own
    config.conf_folder = lambda _: Path(os.environ["TOY_CONF"])
    sys.exit(start(ToyConfig, "toy", run, conclude=conclude))
