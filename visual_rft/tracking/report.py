"""The report of one run: a single HTML file that needs no network and no script, readable on a phone, in the light and in the dark.

It knows no task: it shows whatever scores, curves, answers and reward parts there are. Everything a model or a user wrote passes through
`html.escape`; the content policy forbids whatever would slip through.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from visual_rft.tracking._curves import curve, curve_keys
from visual_rft.tracking._format import difference, duration, number
from visual_rft.tracking._gallery import gallery
from visual_rft.tracking._page import details, page, section, table
from visual_rft.tracking._svg import curve_svg
from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.runfolder import write_atomically

ROLLOUTS_SHOWN = 2  # best, and as many worst, of a step
SHOWN_ELSEWHERE = ("task", "model", "metric", "before", "after", "value", "steps", "seconds")
BY_CATEGORY, REFUSED, CONFUSION = "by category", "refused", "confusion"  # what an evaluation holds beside its scores
CONFUSIONS_SHOWN = 12


@dataclass(frozen=True)
class Report:
    """What a report shows.

    summary: as in `summary.json`, each `evaluation…` of it a column; metrics: the lines of `metrics.jsonl`; rollouts: those of `rollouts.jsonl`
    by step, of the first and the last step.
    """

    summary: Mapping[str, Any]
    config_yaml: str
    metrics: Sequence[Mapping[str, Any]]
    rollouts: Mapping[int, Sequence[Mapping[str, Any]]]
    pictures: Sequence[Picture]

    @classmethod
    def of(cls, folder: Path, summary: Mapping[str, Any], pictures: Sequence[Picture]) -> "Report":
        """The report of the run in `folder`; of an evaluation, which has neither metrics nor rollouts, as well."""
        config = folder / "config.yaml"
        return cls(
            summary=summary,
            config_yaml=config.read_text(encoding="utf-8") if config.exists() else "",
            metrics=list(_lines(folder / "metrics.jsonl")),
            rollouts=_first_and_last(_lines(folder / "rollouts.jsonl")),
            pictures=pictures,
        )

    @property
    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """Each evaluation by its name: before, after; or `evaluation` where there is but one."""
        found = {key: value for key, value in self.summary.items() if key.startswith("evaluation")}
        return {key.removeprefix("evaluation_"): value for key, value in found.items()}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _first_and_last(records: Iterator[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The records of the first and of the last step, by step; never more than two steps in memory."""
    kept: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        if record["step"] not in kept and len(kept) == 2:
            kept.popitem()
        kept.setdefault(record["step"], []).append(record)
    return kept


def write_report(path: Path, report: Report) -> None:
    """Write the report to `path` as one self-contained file."""
    title = escape(" · ".join(str(report.summary[key]) for key in ("task", "model") if key in report.summary))
    evaluations = report.evaluations
    body = "".join(
        [
            f"<h1>{title}</h1>{_headline(report.summary, evaluations)}{_skipped(report.metrics)}",
            section("Scores", _scores(evaluations)),
            section("Scores by category", _scores({name: evaluation.get(BY_CATEGORY, {}) for name, evaluation in evaluations.items()})),
            section("Taken for another", _confusions(evaluations)),
            section("Curves", _curves(report.metrics)),
            section("Answers to test questions", gallery(report.pictures)),
            section("Best and worst rollouts", _rollouts(report.rollouts)),
            section("Refusals", _refused_in_training(report.metrics) + _refused_at_the_test(evaluations)),
            section("Configuration", details("config.yaml", report.config_yaml) if report.config_yaml else ""),
        ]
    )
    write_atomically(path, page(title, body))


def _headline(summary: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """The task's own metric, which is an evaluation's first score; what it cost; what else the summary says."""
    result = ""
    for name, values in _shared(evaluations)[:1]:
        *earlier, last = map(number, values)
        result = f'<p class="headline">{escape(name)} {"".join(f"{value} → " for value in earlier)}<b>{last}</b></p>'
    steps = f"{summary['steps']} steps " if "steps" in summary else ""
    cost = f"<p>{escape(steps)}in {duration(summary['seconds'])}</p>" if "seconds" in summary else ""
    rest = " · ".join(f"{key} {value}" for key, value in summary.items() if key not in SHOWN_ELSEWHERE and not isinstance(value, Mapping))
    return f"{result}{cost}<p><small>{escape(rest)}</small></p>"


def _skipped(metrics: Sequence[Mapping[str, Any]]) -> str:
    """`policy/skipped_steps` counts from the beginning of the run."""
    skipped = max((line.get("policy/skipped_steps") or 0 for line in metrics), default=0)
    steps = f"{skipped:.0f} step{'s' if skipped > 1 else ''}"
    return f"<p><b>{steps} skipped</b>: a loss or gradient was not finite; the batches are in skipped/</p>" if skipped else ""


def _shared(evaluations: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[float | None]]]:
    """(name, its value in each evaluation) of the numbers that all evaluations hold, in the order of the first."""
    columns = list(evaluations.values())
    names = [name for name, value in columns[0].items() if not isinstance(value, Mapping)] if columns else []
    return [(name, [column[name] for column in columns]) for name in names if all(name in column for column in columns)]


def _scores(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each number, with its change where there are two evaluations."""
    pair = len(evaluations) == 2
    rows = [(name, *map(number, values), *([number(difference(*values), "+.2f")] if pair else [])) for name, values in _shared(evaluations)]
    return table(("", *evaluations, *(["change"] if pair else [])), rows) if rows else ""


def _confusions(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """What was said most often for something else, in the last evaluation and then in those before it."""
    counts = [
        Counter({(true, said): times for true, row in evaluation.get(CONFUSION, {}).items() for said, times in row.items() if said != true})
        for evaluation in evaluations.values()
    ]
    ranked = sorted({pair for count in counts for pair in count}, key=lambda pair: ([-count[pair] for count in reversed(counts)], pair))
    rows = [(" → ".join(pair), *(number(count[pair], ".0f") for count in counts)) for pair in ranked[:CONFUSIONS_SHOWN]]
    return table(("shown → answered", *evaluations), rows) if rows else ""


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Not of the scores: two points are in their table."""
    figures = [curve_svg(key, curve(metrics, key)) for key in curve_keys(metrics) if not key.startswith("eval/")]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _refused_in_training(metrics: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in curve_keys(metrics) if key.startswith("refused/")]
    shares = {key.removeprefix("refused/"): [100 * (value or 0.0) for _, value in curve(metrics, key)] for key in keys}
    rows = [(reason, *(number(value) for value in (values[0], values[-1], sum(values) / len(values)))) for reason, values in shares.items()]
    return table(("% of the rollouts", "first step", "last step", "mean of all steps"), rows) if rows else ""


def _refused_at_the_test(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    counts = [evaluation.get(REFUSED, {}) for evaluation in evaluations.values()]
    rows = [(reason, *(number(count.get(reason, 0), ".0f") for count in counts)) for reason in dict.fromkeys(r for count in counts for r in count)]
    return table(("test answers", *evaluations), rows) if rows else ""


def _rollouts(by_step: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """What was rewarded at the beginning beside what is at the end."""
    ranked = {step: sorted(records, key=_reward, reverse=True) for step, records in by_step.items()}
    shown = {f"Best of step {step}": records[:ROLLOUTS_SHOWN] for step, records in ranked.items()}
    shown |= {f"Worst of step {step}": records[ROLLOUTS_SHOWN:][-ROLLOUTS_SHOWN:][::-1] for step, records in ranked.items()}
    cells = [f'<div><h3>{title}</h3><div class="grid">{"".join(map(_rollout, records))}</div></div>' for title, records in shown.items() if records]
    return f'<div class="grid gallery">{"".join(cells)}</div>' if cells else ""


def _reward(record: Mapping[str, Any]) -> float:
    return float("-inf") if record["reward"] is None else float(record["reward"])


def _rollout(record: Mapping[str, Any]) -> str:
    parts = " · ".join(f"{name} {number(value)}" for name, value in record["rewards"].items())
    refused = f" · refused: {record['refused']}" if record["refused"] else ""
    line = f"{record['example']} · {parts}{refused} · advantage {number(record['advantage'], '+.2f')} · {record['tokens']} tokens"
    return f"<article><b>{number(record['reward'])}</b> <small>{escape(line)}</small><pre>{escape(record['completion'])}</pre></article>"
