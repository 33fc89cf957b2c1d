"""How a run ends that may have several ranks: its reason is on the screen once, its exit code is right, and no rank stays behind.

All ranks fail alike (a wrong key, a file that all of them read), or one fails while the others wait for it in a collective call. They find out which
by notes on a board: one more collective call would be taken for the one that is waited for.
"""

import atexit
import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NoReturn

from visual_rft.config.refusals import WRITABLE, folded
from visual_rft.distributed import Preempted, World, board, is_gone

BUG, REFUSED, GO_ON, INTERRUPTED = 1, 2, 75, 130  # 75 is the system's EX_TEMPFAIL: the same command, with resume=auto, goes on
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what no program can foresee
EXIT_FILE = "VISUAL_RFT_EXIT_FILE"

TOGETHER = 5.0  # seconds within which ranks that fail alike have all said so
PATIENCE = 10.0  # seconds that a rank left alone gives the reason, and the launcher, to come first

_meetings = count()  # ranks count their attempts alike, so that each has notes of its own


@dataclass(frozen=True)
class Ending:
    """How an action ended on this rank: the exit code; what the rank says of it on stderr, and what others had said before; the folder of a job that
    succeeded; whether all ranks have ended it, and so can begin another."""

    code: int = 0
    text: str = ""
    said: str = ""
    folder: Path | None = None
    in_step: bool = True


def attempt(action: Callable[[], Path | None], world: World, label: str = "", folder: Path = Path()) -> Ending:
    """Runs `action`, and says how it ended; `label` begins its line, `folder` is what a disk error is about that names no file."""
    meeting = f"end {next(_meetings)}"
    try:
        done = action()
        world.gather(None)  # nobody has succeeded before all have
        return Ending(folder=done)
    except ValueError as error:
        ending = _together(Ending(REFUSED, label + folded(str(error))), world, meeting)
        if ending.text and logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true: the place is wanted too
            return replace(ending, text=traceback.format_exc() + ending.text)
        return ending
    except Preempted as stop:
        return _together(Ending(GO_ON, label + folded(str(stop))), world, meeting)
    except Exception as error:  # noqa: BLE001  # the traceback is printed, and the other jobs of a sweep go on
        if isinstance(error, OSError) and error.errno in DISK:
            line = f"{label}{error.filename or folder}: {error.strerror}; make room, or {WRITABLE}; what was written is kept"
            return _together(Ending(REFUSED, line), world, meeting)
        if world.size == 1:
            return Ending(BUG, label + traceback.format_exc())
        return _left_alone(world, meeting) if is_gone(error) else _bug(f"rank {world.rank}: {label}{traceback.format_exc()}", world, meeting)


def say(ending: Ending, elsewhere: bool = False) -> None:
    """What the rank has to say, on stderr; where it ended elsewhere, what others had said there too."""
    for text in (ending.said if elsewhere else "", ending.text):
        if text:
            print(text, file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End this process at once: the regular way out would wait for ranks that no longer answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_at_exit() -> Callable[[int], None]:
    """The interpreter shall end by `leave`, after whatever else waits for its end, with the code that is told to what this returns.

    Where a group of gloo's has been used, its own way out aborts now and then, however orderly the ranks have parted (torch 2.13: "terminate called
    without an active exception"), and a launcher would take a run that is done for one that has crashed.
    """
    codes = [BUG]
    atexit.register(lambda: leave(codes[-1]))
    return codes.append


def final(code: int, in_step: bool = True) -> int:
    """What the process exits with.

    A launcher that starts a failed run again, or cannot tell exit codes apart, names a file, VISUAL_RFT_EXIT_FILE: a code that another try would only
    repeat is written there. Ranks in step then exit with 0, which the launcher takes for an end; one that has left others behind does not, so that
    they are ended.
    """
    file = os.environ.get(EXIT_FILE)
    if not file or code in (0, BUG):
        return code
    Path(file).write_text(f"{code}\n")
    return 0 if in_step else code


def is_settled() -> bool:
    """Whether an earlier try has ended in a way that this one would only repeat."""
    file = os.environ.get(EXIT_FILE)
    return bool(file) and Path(str(file)).is_file() and Path(str(file)).stat().st_size > 0


def _together(ending: Ending, world: World, meeting: str) -> Ending:
    """The ending of a rank, when the others have said theirs or were waited for: of ranks that say the same only the first says it."""
    if world.size == 1:
        return ending
    lines = _meet(ending.text, world, meeting)
    in_step = len(lines) == world.size
    alike = in_step and len(set(lines.values())) == 1
    is_mine = world.rank == min(rank for rank, line in lines.items() if line == ending.text)
    text = ending.text if alike else f"rank {world.rank}: {ending.text}"
    return replace(ending, text=text if is_mine else "", in_step=in_step)


def _meet(line: str, world: World, meeting: str) -> dict[int, str]:
    """What each rank says that says anything within the time: its own line among them."""
    try:
        notes, mine = board(), f"{meeting}/{world.rank}"
        notes.set(mine, line)
        keys = [f"{meeting}/{rank}" for rank in range(world.size)]
        _until(lambda: notes.check(keys), TOGETHER)
        lines = {rank: notes.get(key).decode() for rank, key in enumerate(keys) if key == mine or notes.check([key])}
        notes.add(f"{meeting}/read", 1)
        if world.is_first:  # the board may be its own, and end with it
            _until(lambda: notes.add(f"{meeting}/read", 0) >= len(lines), TOGETHER)
    except RuntimeError:  # the rank that held the board is gone
        return {world.rank: line}
    return lines


def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def _bug(text: str, world: World, meeting: str) -> Ending:
    """The ending of a rank whose traceback is said at once; the others can read it on the board."""
    with suppress(RuntimeError):  # the rank that held it is gone
        board().set(f"{meeting}/{world.rank}", text)
    return Ending(BUG, text, in_step=False)


def _left_alone(world: World, meeting: str) -> Ending:
    """The ending of a rank that another no longer answers, after a while in which the reason was said. One line for all that are left."""
    line = f"rank {world.rank}: lost the connection to another rank, whose reason stands above"
    time.sleep(PATIENCE)
    try:
        notes = board()
        others = [(rank, f"{meeting}/{rank}") for rank in range(world.size)]
        said = [_of(rank, notes.get(key).decode()) for rank, key in others if notes.check([key])]
        is_mine = notes.add(f"{meeting}/alone", 1) == 1
    except RuntimeError:
        said, is_mine = [], True
    return Ending(BUG, line if is_mine else "", "\n".join(said), in_step=False)


def _of(rank: int, text: str) -> str:
    return text if text.startswith(f"rank {rank}: ") else f"rank {rank}: {text}"
