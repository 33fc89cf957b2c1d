"""The processes of one run, and what they tell each other. A run of one process is the same with nobody to tell.

Launchers say who is who by torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")

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
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

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


@contextmanager
def join() -> Iterator[World]:
    """The world of this process, by the launcher's variables; alone where there are none. Leaves it when the block ends well."""
    if dist.is_initialized():
        yield _world()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    # Both: tensors of either kind are gathered, objects by the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    yield _world()
    dist.destroy_process_group()


def alone() -> None:
    """A process group of this process only, for what shards weights even where there is one device."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _world() -> World:
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
