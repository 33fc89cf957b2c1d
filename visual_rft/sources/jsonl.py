"""Files that users bring as JSON lines. Whatever is wrong with one is said with the file and the line."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

STDIN = "-"


@dataclass(frozen=True)
class Line:
    """One object of a file, and where it stands, for messages: "file.jsonl, line 3"."""

    place: str
    values: dict[str, Any]


def read_text(file: str) -> str:
    """The text of a UTF-8 file, or of stdin for `-`. Raises ValueError when there is none, or it is only white space."""
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else Path(file).expanduser().read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; name a file that can be read") from error
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}, line {row}: not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8") from error
    if not text.strip():
        raise ValueError(f"{file}: empty; give one JSON object a line")
    return text


def read_lines(file: str, text: str, keys: Sequence[str]) -> list[Line]:
    """Every line of `text`, which was read from `file`, as an object whose `keys` are texts; blank lines are left out. ValueError for another one."""
    form = "{" + ", ".join(f'"{key}": "…"' for key in keys) + "}"
    lines: list[Line] = []
    for row, written in enumerate(text.split("\n"), start=1):  # JSON's strings may hold the other ends of lines that splitlines() knows
        if written.strip():
            lines.append(Line(f"{file}, line {row}", strict_json(written, f"{file}, line {row}", f"write {form}")))
            _check(lines[-1], keys, form)
    return lines


def strict_json(text: str, place: str, remedy: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, for numbers that JSON cannot write down again, and for too deep a nesting."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinity
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{place}: not JSON ({reason}); {remedy}") from error
    return value


def _check(line: Line, keys: Sequence[str], form: str) -> None:
    if not isinstance(line.values, dict):
        raise ValueError(f"{line.place}: not a JSON object; write {form}")
    for key in keys:
        if key not in line.values:
            raise ValueError(f"{line.place}: no key `{key}`; write {form}")
        if not isinstance(line.values[key], str):
            raise ValueError(f"{line.place}: `{key}` is not a text; write {form}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
