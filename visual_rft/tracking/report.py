"""The report of one run: a single HTML file that needs no network and no script, readable on a phone, in the light and in the dark.

Everything a model or a user wrote passes through `html.escape`; the content policy forbids whatever would slip through.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL.Image import Image

from visual_rft.tracking._format import Row, duration, number
from visual_rft.tracking._svg import boxes_svg, curve_svg, frame, picture_again_svg, picture_svg
from visual_rft.tracking.runfolder import write_atomically
from visual_rft.vocabulary import DetectionAnswer, DetectionTruth, Refusal

ROLLOUTS_SHOWN = 3  # best, and as many worst
HEADLINE = ("task", "model", "metric", "before", "after", "steps", "seconds")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #69727d; --line: #d5dae0; --card: #f5f7f9; --page: #fff; --series: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --faint: #98a2ad; --line: #39414a; --card: #1d2329; --page: #14181c; --series: #56b4e9 }
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
.curve polyline { fill: none; stroke: var(--series); stroke-width: 1.6; stroke-linecap: round; stroke-linejoin: round }
.curve path { stroke: var(--line) } .curve text { font-size: 11px; fill: var(--faint) } .picture { max-height: 24rem }
.picture rect { fill: none; stroke-width: 2 } .picture text { font: bold 13px system-ui; paint-order: stroke; stroke: #000; stroke-width: 3px }
rect.truth { stroke: #00c08b; stroke-dasharray: 5 3 } rect.before { stroke: #e69f00 } rect.after { stroke: #56b4e9 }
text.before { fill: #ffc04d } text.after { fill: #9ad6ff }
i { display: inline-block; width: 1.4rem; border-top: 3px solid; margin: 0 .3rem .25rem .8rem }
i.truth { border-color: #00c08b; border-top-style: dashed } i.before { border-color: #e69f00 } i.after { border-color: #56b4e9 }
"""


@dataclass(frozen=True)
class GalleryItem:
    """One question answered twice. `before_ious` and `after_ious`: each detection's IoU with its truth, or empty when not known."""

    image: Image
    question: str
    truth: DetectionTruth
    before_text: str
    before: DetectionAnswer | Refusal
    after_text: str
    after: DetectionAnswer | Refusal
    before_ious: Sequence[float] = ()
    after_ious: Sequence[float] = ()


@dataclass(frozen=True)
class Report:
    """What a report shows. All but `gallery` reads as the run folder holds it, so that a report can be made again from the files.

    summary: as in `summary.json`; rows: (name, before, after, change); metrics: the lines of `metrics.jsonl`; curves: the metric keys to draw;
    rollouts: lines of `rollouts.jsonl`, of which the last step's are shown.
    """

    summary: Mapping[str, Any]
    config_yaml: str
    rows: Sequence[Row]
    metrics: Sequence[Mapping[str, Any]]
    curves: Sequence[str]
    gallery: Sequence[GalleryItem]
    rollouts: Sequence[Mapping[str, Any]]


def write_report(path: Path, report: Report) -> None:
    """Write the report to `path` as one self-contained file."""
    title = escape(" · ".join(str(report.summary[key]) for key in ("task", "model") if key in report.summary))
    body = "".join(
        [
            f"<h1>{title}</h1>",
            _headline(report.summary),
            _details("Configuration", report.config_yaml),
            _section("Before and after", _results(report.rows)),
            _section("Curves", _curves(report.metrics, report.curves)),
            _section("Answers", _gallery(report.gallery)),
            _section("Refusals", _refusals(report.metrics)),
            _section("Rollouts of the last step", _rollouts(report.rollouts)),
        ]
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
    write_atomically(path, page)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text, escaped here; all columns but the first hold numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first, *numbers = (escape(cell) for cell in cells)
        return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="number">{text}</{tag}>' for text in numbers) + "</tr>"

    return f'<div class="scroll"><table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>'


def _headline(summary: Mapping[str, Any]) -> str:
    metric, before, after = (summary.get(key) for key in ("metric", "before", "after"))
    result = f'<p class="headline">{escape(str(metric))} {number(before)} → <b>{number(after)}</b></p>' if metric else ""
    spent = f"<p>{escape(str(summary['steps']))} steps in {duration(summary['seconds'])}</p>" if "steps" in summary and "seconds" in summary else ""
    rest = " · ".join(f"{key} {value}" for key, value in summary.items() if key not in HEADLINE and not isinstance(value, Mapping))
    return f"{result}{spent}<p><small>{escape(rest)}</small></p>"


def _results(rows: Sequence[Row]) -> str:
    cells = [(name, number(before), number(after), number(change, "+.2f")) for name, before, after, change in rows]
    return _table(("", "before", "after", "change"), cells) if cells else ""


def _curves(metrics: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    figures = [curve_svg(key, [(line["step"], line[key]) for line in metrics if key in line]) for key in keys]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _gallery(items: Sequence[GalleryItem]) -> str:
    legend = '<p><small><i class="truth"></i>truth<i class="before"></i>before<i class="after"></i>after</small></p>'
    articles = "".join(_gallery_item(item, f"picture{index}") for index, item in enumerate(items))
    return f'{legend}<div class="grid gallery">{articles}</div>' if items else ""


def _gallery_item(item: GalleryItem, picture_id: str) -> str:
    def panel(kind: str, answer: DetectionAnswer | Refusal, ious: Sequence[float], draw: Callable[[Image, str, str], str]) -> str:
        width, height = frame(item.image)
        boxes = boxes_svg(item.truth.boxes, [""] * len(item.truth.boxes), kind="truth", width=width, height=height)
        if isinstance(answer, Refusal):
            caption = f"refused: {answer.reason} {answer.detail}"
        else:
            labels = _labels(answer, ious)
            boxes += boxes_svg([item.box for item in answer.detections], labels, kind=kind, width=width, height=height)
            caption = "; ".join(labels) or "No Objects"
        return f"<figure>{draw(item.image, picture_id, boxes)}<figcaption>{kind}: {escape(caption)}</figcaption></figure>"

    before = panel("before", item.before, item.before_ious, picture_svg)
    after = panel("after", item.after, item.after_ious, picture_again_svg)
    texts = _details("Completion before", item.before_text) + _details("Completion after", item.after_text)
    return f'<article><p>{escape(item.question)}</p><div class="pair">{before}{after}</div>{texts}</article>'


def _labels(answer: DetectionAnswer, ious: Sequence[float]) -> list[str]:
    assert len(ious) in (0, len(answer.detections)), "one IoU a detection, or none"
    confidences = [f"{item.confidence:.2f}" for item in answer.detections]
    return [f"{confidence} IoU {iou:.2f}" for confidence, iou in zip(confidences, ious, strict=True)] if ious else confidences


def _refusals(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Steps that do not name a reason had none of it."""
    keys = sorted({key for line in metrics for key in line if key.startswith("refused/")})
    series = {key: [line.get(key) or 0.0 for line in metrics] for key in keys}
    rows = [
        (key.removeprefix("refused/"), *(number(value, ".4g") for value in (values[0], values[-1], sum(values) / len(values))))
        for key, values in series.items()
        if any(values)
    ]
    return _table(("reason", "first step", "last step", "mean of all steps"), rows) if rows else ""


def _rollouts(records: Sequence[Mapping[str, Any]]) -> str:
    last = max((record["step"] for record in records), default=0)
    ranked = sorted((record for record in records if record["step"] == last), key=_reward, reverse=True)
    best, rest = ranked[:ROLLOUTS_SHOWN], ranked[ROLLOUTS_SHOWN:]
    shown = {"Best": best, "Worst": rest[-ROLLOUTS_SHOWN:][::-1]}
    return "".join(f"<h3>{title}</h3>{''.join(map(_rollout, records))}" for title, records in shown.items() if records)


def _reward(record: Mapping[str, Any]) -> float:
    return float("-inf") if record["reward"] is None else float(record["reward"])


def _rollout(record: Mapping[str, Any]) -> str:
    parts = " · ".join(f"{name} {number(value)}" for name, value in record["rewards"].items())
    refused = f" · refused: {record['refused']}" if record["refused"] else ""
    line = f"{record['example']} · {parts}{refused} · advantage {number(record['advantage'], '+.2f')} · {record['tokens']} tokens"
    return f"<article><b>{number(record['reward'])}</b> <small>{escape(line)}</small><pre>{escape(record['completion'])}</pre></article>"
