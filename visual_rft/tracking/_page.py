"""The frame of every page we write: one HTML file that needs no network and no script, readable on a phone, in the light and in the dark."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #69727d; --line: #d5dae0; --card: #f5f7f9; --page: #fff;
  --a0: #0072b2; --a1: #d55e00; --a2: #009e73; --a3: #cc79a7; --a4: #56b4e9; --a5: #e69f00; --a6: #1b1f24; --a7: #a89a00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --faint: #98a2ad; --line: #39414a; --card: #1d2329; --page: #14181c;
    --a0: #56b4e9; --a4: #2f86c8; --a6: #e6e9ed; --a7: #f0e442 }
}
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page) }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } h3 { font-size: 1rem; margin: 1rem 0 .4rem }
p { margin: .3rem 0 } figure { margin: 0 } small, figcaption { color: var(--faint); font-size: .85rem } figcaption b { color: var(--ink) }
.headline { font-size: 1.35rem } .scroll { overflow-x: auto } summary { cursor: pointer } svg { display: block; width: 100% }
table { border-collapse: collapse } th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
.gallery { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)) } .gallery article { margin: 0 }
.pair { display: grid; gap: .6rem; grid-template-columns: 1fr 1fr }
article { background: var(--card); border-radius: .5rem; padding: .8rem; margin-bottom: 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; background: var(--card); padding: .5rem; margin: .3rem 0 }
article pre { background: var(--page) }
.curve { color: var(--a0) }
.curve polyline { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linecap: round; stroke-linejoin: round }
.curve path { stroke: var(--line) } .curve text { font-size: 11px; fill: var(--faint) } .picture { max-height: 24rem }
.picture rect { fill: none; stroke-width: 2 } .picture text { font: bold 13px system-ui; paint-order: stroke; stroke: #000; stroke-width: 3px }
rect.truth { stroke: #00c08b; stroke-dasharray: 5 3 } rect.before { stroke: #e69f00 } rect.after { stroke: #56b4e9 }
text.before { fill: #ffc04d } text.after { fill: #9ad6ff }
i { display: inline-block; width: 1.4rem; border-top: 3px solid; margin: 0 .3rem .25rem .8rem }
.a0 { color: var(--a0) } .a1 { color: var(--a1) } .a2 { color: var(--a2) } .a3 { color: var(--a3) }
.a4 { color: var(--a4) } .a5 { color: var(--a5) } .a6 { color: var(--a6) } .a7 { color: var(--a7) }
.curve .d1 { stroke-dasharray: 6 4 } .curve .d2 { stroke-dasharray: 1 4 } i.d1 { border-top-style: dashed } i.d2 { border-top-style: dotted }
.curve .run { stroke-width: .8; opacity: .35 }
i.truth { border-color: #00c08b; border-top-style: dashed } i.before { border-color: #e69f00 } i.after { border-color: #56b4e9 }
"""


def page(title: str, body: str) -> str:
    """The whole document. `title` and `body` are HTML: whoever makes them escapes what a model or a user wrote."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text, escaped here; all columns but the first hold numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first, *numbers = (escape(cell) for cell in cells)
        return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="number">{text}</{tag}>' for text in numbers) + "</tr>"

    return f'<div class="scroll"><table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>'
