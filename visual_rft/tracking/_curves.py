"""Which numbers of `metrics.jsonl` are drawn over the steps, in which order, and the points of each."""

from collections.abc import Iterable, Mapping
from typing import Any

ORDER = ("reward/mean", "reward/", "loss/", "policy/", "completion/", "eval/", "rollout/", "refused/")  # others after them
NOT_DRAWN = ("step", "time/", "throughput/", "memory/", "policy/lr")
IF_EVER = ("policy/clip_fraction", "policy/skipped_steps")  # at 0 throughout they say nothing


def curve_keys(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys to draw of all that these lines hold, what was learned before how."""
    keys = {key for line in lines for key, value in line.items() if key not in IF_EVER or value != 0}
    return sorted((key for key in keys if not key.startswith(NOT_DRAWN)), key=_place)


def _place(key: str) -> tuple[int, str]:
    return next((rank for rank, prefix in enumerate(ORDER) if key.startswith(prefix)), len(ORDER)), key


def curve(lines: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float | None]]:
    """(step, value) of every line that holds `key`; a training step that does not name a reason of refusal had none of it."""
    return [(line["step"], line.get(key, 0.0)) for line in lines if key in line or (key.startswith("refused/") and "reward/mean" in line)]
