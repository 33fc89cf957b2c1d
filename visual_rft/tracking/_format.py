"""How numbers and times read, the same on the console and in the report."""

import math

# name, before, after, change; None or NaN where there is no number.
Row = tuple[str, float | None, float | None, float | None]


def number(value: float | None, form: str = ".2f") -> str:
    """`value` in the format `form`, or `-` where there is no finite number."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def duration(seconds: float) -> str:
    """Seconds as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
