"""Laws of a World: shares cover everything once, what one rank knows all know, and a signal only sets a flag.

pytest tests/test_distributed.py
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from visual_rft.distributed import World, interruptible, is_gone, is_joined, join

HANDLERS = (signal.SIG_DFL, signal.SIG_IGN, lambda *_: None)


@pytest.mark.parametrize("count", [0, 1, 5, 16, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_everything_once_and_are_even(count: int, size: int) -> None:
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [one for share in shares for one in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_a_world_without_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as world:
        assert world == World(0, 1, 0) and world.is_first and not is_joined()
        assert (world.gather("a"), world.any(True), world.any(False), world.first(lambda: 3), world.each(lambda: 4)) == (["a"], True, False, 3, 4)


def test_ranks_know_what_each_knows(tmp_path: Path) -> None:
    program = """
        import json, sys
        from visual_rft.distributed import join

        def refuse():
            if world.rank == 1:
                raise ValueError("row 3")
            return "fine"

        with join() as world:
            try:
                told = world.each(refuse)
            except ValueError as error:
                told = str(error)
            any_of = [world.any(world.rank == rank) for rank in range(3)]
            print(json.dumps([world.rank, world.gather({"rank": world.rank}), told, world.first(lambda: world.rank), any_of]))
        """
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 10000), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(2):
        environment = os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", dedent(program)]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True))
    told = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert told == [[rank, [{"rank": 0}, {"rank": 1}], "row 3", 0, [True, True, False]] for rank in range(2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("before", HANDLERS, ids=["default", "ignored", "own"])
def test_a_signal_only_sets_a_flag_and_handlers_come_back(number: signal.Signals, before: object, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = signal.signal(number, before)  # type: ignore[arg-type]
    try:
        with pytest.raises(KeyError), interruptible() as asked:
            assert not asked()
            os.kill(os.getpid(), number)
            assert asked() and asked()
            raise KeyError
        assert signal.getsignal(number) == before
        with interruptible() as asked:
            assert not asked()
    finally:
        signal.signal(number, earlier)


def test_the_signal_of_another_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGUSR2)  # submitit queues a job again by it
    with interruptible():
        assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:2994: Connection reset by peer", True),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2994", True),
        ("Timed out waiting 7200000ms for recv operation to complete", True),
        ("ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.", True),
        ("NCCL error: ncclInvalidUsage: Duplicate GPU detected", False),
        ("CUDA error: the launch timed out and was terminated", False),
        ("[gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 1 vs 2", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_only_a_silent_rank_is_gone(text: str, gone: bool) -> None:
    import torch.distributed  # noqa: F401  # else nobody can be gone

    assert is_gone(RuntimeError(text)) == gone and not is_gone(ValueError(text))
