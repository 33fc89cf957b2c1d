"""What a notebook shows of a run, drawn as the report draws it: curves, a group of completions, the report itself.

Each is a page of its own within the cell, so that its style touches nothing else there. Axes: G completions of a group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from visual_rft.tracking._charts import curve_svg
from visual_rft.tracking._curves import curve, curve_keys, thinned
from visual_rft.tracking._explorer import answered_boxes
from visual_rft.tracking._format import number
from visual_rft.tracking._page import details, legend_of, page
from visual_rft.tracking._rollouts import Record
from visual_rft.tracking._svg import boxes_svg, frame, picture_again_svg, picture_svg
from visual_rft.vocabulary import Example

HEIGHT = 640  # pixels of a page, until it says how high it is
GROW = "this.style.height = this.contentDocument.documentElement.offsetHeight + 'px'"
NARROW = "grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr))"  # a group of eight in two rows of a notebook's width
KINDS = {"better than its group": "after", "no better": "before"}  # the page's colours of boxes


@dataclass(frozen=True)
class Shown:
    """A page that a notebook shows where it is the value of a cell: as high as it is, or HEIGHT where it `scrolls`."""

    html: str = field(repr=False)
    scrolls: bool = False

    def _repr_html_(self) -> str:
        grow = "" if self.scrolls else f' onload="{GROW}"'
        return f'<iframe srcdoc="{escape(self.html)}" style="width: 100%; height: {HEIGHT}px; border: 0"{grow}></iframe>'


def report(folder: Path) -> Shown:
    """The `report.html` of a run, to scroll in."""
    return Shown((folder / "report.html").read_text(encoding="utf-8"), scrolls=True)


def curves(metrics: Sequence[Mapping[str, Any]], *keys: str) -> Shown:
    """Lines of `metrics.jsonl` as curves over the steps, one for each key; without keys all that the report draws. ValueError for a key that no line
    has."""
    known = sorted({key for line in metrics for key in line} - {"step"})
    for key in keys:
        if key not in known:
            raise ValueError(f"{key}: not in these metrics, which have {', '.join(known) or 'none'}")
    drawn = "".join(curve_svg(key, thinned(curve(metrics, key))) for key in keys or curve_keys(metrics))
    return Shown(page("curves", f'<div class="grid">{drawn}</div>'))


def group(records_G: Sequence[Record], example: Example) -> Shown:
    """The completions to one question, lines of `rollouts.jsonl`, the best paid first: each on the image with the true boxes, what it earned part by
    part, and its text."""
    ranked = sorted(records_G, key=lambda record: -record["reward"])
    draw = [picture_svg, *[picture_again_svg] * (len(ranked) - 1)]  # the pixels once
    pictures = [one(example.image, "picture", _boxes(record, example)) for one, record in zip(draw, ranked, strict=True)]
    cards = "".join(f"<article>{drawn}{_earned(record)}</article>" for drawn, record in zip(pictures, ranked, strict=True))
    truth = f"truth: {example.truth}" if str(example.truth) else ""
    legend = legend_of({"truth": "truth", **KINDS})
    head = f"<p>{escape(example.question)}</p><p>{escape(truth)}</p><p><small>{legend}</small></p>"
    return Shown(page("group", f'{head}<div class="grid" style="{NARROW}">{cards}</div>', moves=False))


def _boxes(record: Record, example: Example) -> str:
    """The true boxes, and over them those of the answer with what it says of them."""
    width, height = frame(example.asked_about.size)
    truth, spoken = example.truth.boxes, example.contract.frame
    found, labels = answered_boxes(record["answer"])
    kind = KINDS["better than its group" if record["advantage"] > 0 else "no better"]
    under = boxes_svg(truth, [""] * len(truth), kind="truth", of=spoken, width=width, height=height)
    return under + boxes_svg(found, labels, kind=kind, of=spoken, width=width, height=height)


def _earned(record: Record) -> str:
    parts = " · ".join(f"{name} {number(value)}" for name, value in record["rewards"].items())
    refused = f' <span class="refused">refused: {escape(record["refused"])}</span>' if record["refused"] else ""
    head = f"<p><b>{number(record['reward'])}</b> advantage {number(record['advantage'], '+.2f')}{refused}</p>"
    return f"{head}<p><small>{escape(parts)}</small></p>{details('Completion', record['completion'])}"
