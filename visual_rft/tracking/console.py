"""What a person sees while a run runs: one live line on stderr (plain lines in a log file), and at the end one table on stdout.

A terminal redraws the line by itself, all the time. A notebook knows no more of a terminal than the return to the line's beginning, and is told when
there is something new: of a run in its own kernel, and of a command that a cell starts with `!`.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as Terminal
from rich.live import Live
from rich.text import Text

from visual_rft.tracking._format import difference, duration, number

COLUMNS = 80
PLAIN_EVERY_SECONDS = 10.0
NOTEBOOK_EVERY_SECONDS = 0.5  # each is a message from the kernel to the page
OF_A_KERNEL = "JPY_PARENT_PID"  # in the environment of a notebook's kernel and of what it starts
WINDOW_STEPS = 20
SHOWN = {"reward/mean": "reward", "loss/nll": "loss"}


class Console:
    """Progress of a run of `steps` steps, as a context manager.

    Time left is the mean time of the last 20 steps times the steps to come, plus `final_seconds` (expected seconds of the final evaluation; set it
    when it is known). The first step, which pays for warming up, is never counted, so there is no estimate before the second.
    """

    def __init__(self, steps: int, *, final_seconds: float = 0.0, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.final_seconds = final_seconds
        self._steps, self._clock = steps, clock
        self._file = sys.stderr if file is None else file
        self._begin = clock()
        self._finished: deque[tuple[int, float]] = deque(maxlen=WINDOW_STEPS + 1)  # step, seconds
        self._shown: dict[str, float] = {}
        self._stage: tuple[str, int, int, float] | None = None  # name, done, total, begin
        self._printed = float("-inf")
        self._live: Live | None = None
        self._overwrites = _is_in_a_notebook(self._file)
        self._open = 0  # characters of a notebook's line that is to be overwritten
        terminal = Terminal(file=self._file)
        # rich takes FORCE_COLOR for a terminal; only a real one can redraw a line.
        if self._file.isatty() and not terminal.is_dumb_terminal and not self._overwrites:
            # Results go to stdout untouched; a stray warning on stderr must not tear the live line.
            self._live = Live(console=terminal, get_renderable=self._text, refresh_per_second=2, redirect_stdout=False, redirect_stderr=True)

    def __enter__(self) -> "Console":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self._open:
            print(file=self._file, flush=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` (1 … steps) is finished. Shows `reward/mean` or `loss/nll` and the first `eval/<metric>`, each for as long as no newer one is
        given."""
        self._finished.append((step, self._clock()))
        self._shown |= {name: metrics[key] for key, name in SHOWN.items() if key in metrics}
        for key in [key for key in metrics if key.startswith("eval/")][:1]:
            self._shown[key.removeprefix("eval/")] = metrics[key]
        self._update(last=step == self._steps)

    def say(self, text: str) -> None:
        """`text` as one line above the live line. Control characters (model text may hold any) become spaces."""
        line = "".join(character if character.isprintable() else " " for character in text)
        if self._live:
            self._live.console.print(Text(line), soft_wrap=True)
        else:
            self._put(line, end="\n")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Progress through `total` items in place of the step line: `with console.stage("evaluate", 64) as advance: advance(8)`."""
        done, begin = 0, self._clock()
        self._stage = (name, done, total, begin)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._stage = (name, done, total, begin)
            # The last line comes when the stage is left; before there is something to tell, a log file gets none.
            if done < total and (self._live or self._clock() - begin >= 1):
                self._update(last=False)

        try:
            yield advance
            self.say(self._line())
        finally:
            self._stage = None

    def _update(self, last: bool) -> None:
        now = self._clock()
        if self._live:
            self._live.refresh()
        elif self._overwrites and now - self._printed >= NOTEBOOK_EVERY_SECONDS:
            self._printed = now
            self._put(self._line(), end="")
        elif last or now - self._printed >= PLAIN_EVERY_SECONDS:
            self._printed = now
            self.say(self._line())

    def _put(self, line: str, end: str) -> None:
        """In the place of an open line, to the end of it: a page may draw a shorter one over a longer one."""
        print(f"\r{line.ljust(self._open)}" if self._open else line, end=end, file=self._file, flush=True)
        self._open = 0 if end else len(line)

    def _text(self) -> Text:
        return Text(self._line() if self._stage or self._steps else "", no_wrap=True, overflow="ellipsis")

    def _line(self) -> str:
        now = self._clock()
        if self._stage:
            name, done, total, begin = self._stage
            left = (now - begin) / done * (total - done) if done else None
            parts = [name, f"{done}/{total}"]
        else:
            begin, left = self._begin, self._seconds_left(now)
            step = self._finished[-1][0] if self._finished else 0
            parts = [f"step {step}/{self._steps}", *(f"{name} {number(value, '.4g')}" for name, value in self._shown.items())]
        parts.append(f"{duration(now - begin)} elapsed")
        if left is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)[:COLUMNS]

    def _seconds_left(self, now: float) -> float | None:
        if len(self._finished) < 2:
            return None
        (first, begin), (last, end) = self._finished[0], self._finished[-1]
        # Counted down from the last step; a step that takes longer than its share does not eat the others' time.
        current = max((end - begin) / (last - first) - (now - end), 0.0)
        ahead = self._steps - last
        if not ahead:  # the last step is told after the final evaluation, with its scores
            return 0.0
        return self.final_seconds + current + (end - begin) / (last - first) * (ahead - 1)


def _is_in_a_notebook(file: TextIO) -> bool:
    """Whether it is the output of a cell: of the kernel itself, or of a command in the terminal that the kernel makes for it."""
    of_the_kernel = any(kind.__module__.startswith("ipykernel.") for kind in type(file).__mro__)
    return of_the_kernel or (file.isatty() and OF_A_KERNEL in os.environ)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print on stdout as aligned plain text: the first column to the left, all others to the right."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for name, *others in cells:
        print("  ".join([name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]).rstrip())


def score_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(name, before, after, change) of every score of a run's `summary.json`, the task's metric first, `-` where there is no number."""
    before, after = (summary[f"evaluation_{when}"] for when in ("before", "after"))
    return [
        (name, number(old), number(after[name]), number(difference(old, after[name]), "+.2f"))
        for name, old in before.items()
        if not isinstance(old, Mapping)
    ]


def sweep_row(folder: Path, summary: Mapping[str, Any]) -> tuple[str, ...]:
    """(job, metric, before, after, change, seconds) of one job of a sweep."""
    before, after = summary["before"], summary["after"]
    return (folder.name, summary["metric"], number(before), number(after), number(difference(before, after), "+.2f"), f"{summary['seconds']:.0f}")
