"""The frame of every page we write: one HTML file that needs no network, readable on a phone, in the light and in the dark.

The only script that its content policy lets run is `assets/report.js`, by its hash.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files


def page(title: str, body: str, *, moves: bool = True) -> str:
    """The whole document; unless it `moves`, without any script. `title` and `body` are HTML: whoever makes them escapes what a model or a user
    wrote."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    allowed, run = (f" script-src 'sha256-{digest}';", f"<script>{script}</script>") if moves else ("", "")
    policy = f"default-src 'none';{allowed} style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title}</title><style>{_asset('report.css')}</style></head><body>{body}{run}</body></html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (files("visual_rft.tracking") / "assets" / name).read_text(encoding="utf-8")


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def in_rooms(rooms: Mapping[str, str]) -> str:
    """What belongs together under its name, one beside the other where there is room."""
    return f'<div class="rooms">{"".join(f"<div><h3>{escape(room)}</h3>{shown}</div>" for room, shown in rooms.items())}</div>' if rooms else ""


def legend_of(marks: Mapping[str, str]) -> str:
    """Names, each beside a mark of its CSS class."""
    return "".join(f'<span class="mark"><i class="{kind}"></i>{escape(name)}</span> ' for name, kind in marks.items())


def details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text, escaped here; all columns but the first hold numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first, *numbers = (escape(cell) for cell in cells)
        return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="number">{text}</{tag}>' for text in numbers) + "</tr>"

    return f'<div class="scroll"><table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>'
