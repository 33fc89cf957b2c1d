"""Several processes of one test: ranks with gloo between them, each a fork of one that has imported everything already, so that a start is cheap."""

import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["visual_rft.train", "torch.distributed.fsdp", "transformers.models.qwen2_vl.modeling_qwen2_vl"])

SECONDS = 300.0  # after which ranks count as hung; alone on two cores they are done in seconds


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ranks(size: int, action: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> list[Any]:
    """What `action(world, *arguments)` returns on each of so many ranks. An error of one, or no end in time, fails the test."""
    started = Started.of(size, _joined, action, arguments)
    try:
        return started.values(seconds)
    finally:
        started.kill()


@dataclass
class Started:
    """Processes under way, rank by rank; `logs` is where their output goes, as `out0`, `err0`, `out1`, …."""

    processes: list[ForkServerProcess]
    pipes: list[Connection]
    logs: Path | None = None
    ended: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, size: int, action: Callable[..., Any], *arguments: Any, logs: Path | None = None) -> "Started":
        """Starts `action(*arguments)` in so many processes, with torchrun's variables where there are several."""
        port, processes, pipes = free_port(), [], []
        for rank in range(size):
            names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if size > 1 else {}
            mine, theirs = SPAWN.Pipe(duplex=False)
            process = SPAWN.Process(target=_rank, args=({k: str(v) for k, v in names.items()}, theirs, logs, rank, action, arguments), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(mine)
        return cls(processes, pipes, logs)

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return all(process.exitcode is not None for process in self.processes)

    def values(self, seconds: float = SECONDS) -> list[Any]:
        """What each one returned; AssertionError with the traceback of one that failed."""
        end, values = time.monotonic() + seconds, []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(max(end - time.monotonic(), 0)), f"rank {rank} hangs"
            try:
                value, error = pickle.loads(pipe.recv_bytes())
            except EOFError:
                self.processes[rank].join(5)
                raise AssertionError(f"rank {rank} died: {self.processes[rank].exitcode}") from None
            assert not error, f"rank {rank}: {error}"
            values.append(value)
        return values

    def wait(self, seconds: float = SECONDS) -> list[int | None]:
        """The exit code of each, when all have ended; AssertionError when they do not."""
        end = time.monotonic() + seconds
        for rank, process in enumerate(self.processes):
            process.join(max(end - time.monotonic(), 0))
            assert process.exitcode is not None, f"rank {rank} hangs: {self.text('err', rank)}"
        return [process.exitcode for process in self.processes]

    def kill(self, only: Sequence[int] | None = None) -> None:
        """SIGKILL, and waits until they are gone."""
        gone = [process for rank, process in enumerate(self.processes) if only is None or rank in only]
        for process in gone:
            process.kill()
        for process in gone:
            process.join(10)

    def text(self, stream: str, rank: int) -> str:
        """What a rank has said on `out` or `err`; nothing if it died before it could."""
        file = self.logs / f"{stream}{rank}" if self.logs else None
        return file.read_text(errors="replace") if file and file.exists() else ""


def _rank(names: dict[str, str], pipe: Connection, logs: Path | None, rank: int, action: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(names)
    torch.set_num_threads(1)
    if logs:
        logs.mkdir(parents=True, exist_ok=True)
        for stream, number in (("out", 1), ("err", 2)):
            file = os.open(logs / f"{stream}{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        value, error = action(*arguments), ""
    except Exception:  # noqa: BLE001  # the test fails with it
        value, error = None, traceback.format_exc()
    with suppress(BrokenPipeError):  # the test has ended already
        pipe.send_bytes(pickle.dumps((value, error)))


def _joined(action: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    from visual_rft.distributed import join

    with join() as world:
        value = action(world, *arguments)
        world.gather(None)  # none leaves while another still reads from it
    return value


def entry(argv: Sequence[str]) -> None:
    """`python -m visual_rft.train` with these arguments, up to its exit."""
    from visual_rft.train import main

    code = main(argv)
    sys.stdout.flush()
    sys.exit(code)
