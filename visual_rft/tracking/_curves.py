"""Which numbers of `metrics.jsonl` are drawn over the steps, in which order and which together, and the points of each."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

Points = Sequence[tuple[int, float | None]]  # step, value

ORDER = ("reward/mean", "reward/", "eval/", "refused/", "completion/", "loss/", "policy/", "rollout/")  # others after them
NOT_DRAWN = ("step", "time/", "throughput/", "memory/", "policy/lr")
IF_EVER = ("policy/clip_fraction", "policy/skipped_steps")  # at 0 throughout they say nothing
STEP = "time/step"  # what all stages of a step took
OTHER = "other"  # what no stage of it measured
POINTS = 200  # of one line: more cannot be told apart at the width of a figure


def curve_keys(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys to draw of all that these lines hold, what was learned before how."""
    keys = {key for line in lines for key, value in line.items() if key not in IF_EVER or value != 0}
    return sorted((key for key in keys if not key.startswith(NOT_DRAWN)), key=_place)


def keys_under(lines: Iterable[Mapping[str, Any]], *rooms: str) -> list[str]:
    """Every key of these lines that lies in one of these rooms, such as `time`."""
    return sorted({key for line in lines for key in line if key.partition("/")[0] in rooms and key != STEP})


def by_room(keys: Iterable[str]) -> dict[str, list[str]]:
    """Keys in their order, by what stands before the slash."""
    return {room: list(alike) for room, alike in groupby(keys, key=lambda key: key.partition("/")[0])}


def _place(key: str) -> tuple[int, str]:
    return next((rank for rank, prefix in enumerate(ORDER) if key.startswith(prefix)), len(ORDER)), key


def curve(lines: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float | None]]:
    """(step, value) of every line that holds `key`; a training step that does not name a reason of refusal had none of it."""
    return [(line["step"], line.get(key, 0.0)) for line in lines if key in line or (key.startswith("refused/") and "reward/mean" in line)]


def thinned(points: Points) -> list[tuple[int, float | None]]:
    """At most POINTS points: the mean of as many neighbouring steps as that takes, at the last of them. NaN where none of them is finite."""
    size = math.ceil(len(points) / POINTS)
    if size < 2:
        return list(points)
    chunks = [points[first : first + size] for first in range(0, len(points), size)]
    return [(chunk[-1][0], mean([value for _, value in chunk])) for chunk in chunks]


def mean(values: Iterable[float | None]) -> float:
    """Of those that are finite numbers; NaN without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def stages(lines: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Seconds of each stage of a step, over the steps that were timed, the greatest first; last what no stage measured."""
    timed = [line for line in lines if line.get(STEP) is not None]
    keys = sorted(keys_under(timed, "time"), key=lambda key: -sum(line.get(key) or 0.0 for line in timed))
    found: dict[str, Points] = {key.partition("/")[2]: [(line["step"], line.get(key) or 0.0) for line in timed] for key in keys}
    rest = [(line["step"], max(line[STEP] - sum(line.get(key) or 0.0 for key in keys), 0.0)) for line in timed]
    return found | ({OTHER: rest} if any(seconds for _, seconds in rest) else {})
