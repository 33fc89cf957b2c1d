"""The processes of one run, and what they tell each other. A run of one process is the same with nobody to tell.

Launchers say who is who by torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:  # else only where there are several ranks: an entry that refuses, or needs no tensors, starts in a tenth of the time
    from torch.distributed import Store  # type: ignore[attr-defined]

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # Slurm sends the one when it preempts a job, the other when its time is nearly up
GONE = re.compile(  # what gloo and NCCL say of a rank that does not answer; both say much else that is a defect here
    r"[Cc]onnection (was )?(closed|reset|refused)|Broken pipe|Timed out waiting|timeout caused pair closure|ncclRemoteError|remote process exited"
)

WAIT = timedelta(hours=2)  # for the slowest rank: the first one scores evaluations of thousands of images while the others wait


@dataclass(frozen=True)
class World:
    """Who this process is among those of its run: its rank, of how many, and which it is on its own machine.

    Every rank calls the same methods in the same order. What is gathered comes from processes of this run alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of so many things are this rank's: neighbours stay together, no two ranks differ by more than one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, value: T) -> list[T]:
        """Each rank's value, in the order of their ranks, on every rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def any(self, flag: bool) -> bool:
        """Whether it is true of any rank."""
        return True in self.gather(flag)

    def each(self, action: Callable[[], T]) -> T:
        """What `action` returns on this rank. A ValueError of any rank is raised on all, so that none waits for one that has given up."""
        value: T | None = None
        refused: str | None = None
        try:
            value = action()
        except ValueError as error:
            if self.size == 1:
                raise
            refused = str(error)
        reasons = [reason for reason in self.gather(refused) if reason is not None]
        if reasons:
            raise ValueError(reasons[0])
        return cast(T, value)

    def first(self, action: Callable[[], T]) -> T:
        """What `action` returns on the first rank, which alone runs it, on all; so with a ValueError."""
        mine = self.each(lambda: action() if self.is_first else None)
        return cast(T, self.gather(mine)[0])


class Preempted(Exception):
    """The run was asked to stop and has saved what it needs to go on; its text is one line. Every rank raises it at the same place."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGUSR1 only set a flag; what is given says whether one has come. Main thread only.

    One that came is heeded after all where the block ends because another rank is gone."""
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, remember) for number in STOP_SIGNALS}
    left_alone = False
    try:
        yield lambda: bool(came)
    except RuntimeError as error:
        left_alone = is_gone(error)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came and left_alone:  # torchrun ends what a dead rank has left behind, and says which one died only afterwards
            signal.raise_signal(came[0])


ALONE = World()


@contextmanager
def join() -> Iterator[World]:
    """The world of this process, by the launcher's variables; alone where there are none. Leaves it when the block ends well.

    Raises ValueError where the ranks cannot find each other.
    """
    if is_joined():
        yield _world()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        _take_down()
        return
    import torch.distributed as dist

    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=WAIT))  # type: ignore[attr-defined]
        # torchrun keeps its store when it starts ranks again: they would read there the addresses of those that are dead.
        store = dist.PrefixStore(f"try {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
        dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=WAIT)
    except RuntimeError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(f"MASTER_ADDR:MASTER_PORT={place}: the ranks cannot meet ({error}); name a free port of the first machine") from error
    yield _world()
    _world().gather(None)  # no rank takes down what another still uses
    _take_down()


def _take_down() -> None:
    """Takes down this process's group, if it has one."""
    if is_joined():
        import torch.distributed as dist

        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this process has a process group."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_initialized()


def board() -> "Store":
    """Where ranks leave each other notes when one of them can no longer be trusted to answer a collective call."""
    from torch.distributed.distributed_c10d import _get_default_store  # the one that the group has met by; torch shows it nowhere else

    return _get_default_store()


def is_gone(error: BaseException) -> bool:
    """Whether an error says that another rank no longer answers; one that says anything else is a defect of its own."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and isinstance(error, RuntimeError) and GONE.search(str(error)) is not None  # gloo raises no type of its own


def alone() -> None:
    """A process group of this process only, for what shards weights even where there is one device."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group(_backend(), store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _backend() -> str:
    """Both where there is CUDA: tensors of either kind are gathered, objects by the CPU."""
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _world() -> World:
    import torch.distributed as dist

    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
