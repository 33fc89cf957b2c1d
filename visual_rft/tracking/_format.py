"""How numbers and times read, the same on the console and in the report."""

import math


def number(value: float | None, form: str = ".2f") -> str:
    """`value` in the format `form`, or `-` where there is no finite number."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def difference(before: float | None, after: float | None) -> float | None:
    """after - before, or None where one is missing."""
    return None if before is None or after is None else after - before


def duration(seconds: float) -> str:
    """Seconds as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
