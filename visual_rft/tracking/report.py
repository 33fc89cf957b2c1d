"""The report of one run: a single HTML file that needs no network, readable on a phone, in the light and in the dark.

It knows no task: it shows whatever scores, curves, answers and reward parts there are. Everything a model or a user wrote passes through
`html.escape`, or is JSON that the page's script shows as text; the content policy forbids whatever would slip through.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from visual_rft.tracking._charts import curve_svg, stacked_svg
from visual_rft.tracking._curves import by_room, curve, curve_keys, keys_under, mean, stages, thinned
from visual_rft.tracking._explorer import explorer
from visual_rft.tracking._first import again, cost, headline, interval, is_sure, shared, signs_of_trouble
from visual_rft.tracking._format import difference, number
from visual_rft.tracking._gallery import gallery
from visual_rft.tracking._page import details, in_rooms, page, section, table
from visual_rft.tracking._rollouts import Rollouts, read_rollouts
from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.runfolder import write_atomically
from visual_rft.tracking.signs import signs
from visual_rft.vocabulary import Example

BY_CATEGORY, REFUSED, CONFUSION = "by category", "refused", "confusion"  # what an evaluation holds beside its scores
CONFUSIONS_SHOWN = 12
REWARD = "reward/mean"  # drawn beside the scores: whether the one moves with the other


@dataclass(frozen=True)
class Report:
    """What a report shows.

    summary: as in `summary.json`, each `evaluation…` of it a column; environment: `environment.json`; metrics: the lines of `metrics.jsonl`;
    rollouts: some of those of `rollouts.jsonl`; examples: what was trained on, by id.
    """

    summary: Mapping[str, Any]
    config_yaml: str
    metrics: Sequence[Mapping[str, Any]]
    rollouts: Rollouts
    pictures: Sequence[Picture]
    examples: Mapping[str, Example] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, summary: Mapping[str, Any], pictures: Sequence[Picture], examples: Sequence[Example] = ()) -> "Report":
        """The report of the run in `folder`; of an evaluation, which has neither metrics nor rollouts, as well."""
        config, environment = folder / "config.yaml", folder / "environment.json"
        metrics = list(_lines(folder / "metrics.jsonl"))
        return cls(
            summary=summary,
            config_yaml=config.read_text(encoding="utf-8") if config.exists() else "",
            metrics=metrics,
            rollouts=read_rollouts(folder / "rollouts.jsonl", {sign.step for sign in signs(metrics)}),
            pictures=pictures,
            examples={example.id: example for example in examples},
            environment=json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
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


def write_report(path: Path, report: Report) -> None:
    """Write the report to `path` as one self-contained file."""
    title = escape(" · ".join(str(report.summary[key]) for key in ("task", "model") if key in report.summary))
    evaluations = report.evaluations
    rollouts = explorer(report.rollouts, report.examples)
    body = "".join(
        [
            f"<h1>{title}</h1>{headline(evaluations, is_sure=is_sure(report.summary, report.metrics))}{interval(report.summary)}",
            cost(report.summary, report.environment, report.metrics, report.rollouts.completions),
            signs_of_trouble(report.metrics, can_look=bool(rollouts)),
            again(report.environment.get("command")),
            section("Scores", _beside(_scores(evaluations), _figure(report.metrics, REWARD))),
            section("Answers to test questions", gallery(report.pictures)),
            section("Curves", _curves(report.metrics)),
            section("Rollouts", rollouts),
            section("Scores by category", _scores({name: evaluation.get(BY_CATEGORY, {}) for name, evaluation in evaluations.items()})),
            section("Taken for another", _confusions(evaluations)),
            section("Refusals", _refused_in_training(report.metrics) + _refused_at_the_test(evaluations)),
            section("Where the time goes", _time(report.metrics)),
            section("Configuration", details("config.yaml", report.config_yaml) if report.config_yaml else ""),
        ]
    )
    write_atomically(path, page(title, body))


def _beside(left: str, right: str) -> str:
    return f'<div class="grid wide"><div>{left}</div>{right}</div>' if left and right else left


def _scores(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each number, with its change where there are two evaluations."""
    pair = len(evaluations) == 2
    rows = [(name, *map(number, values), *([number(difference(*values), "+.2f")] if pair else [])) for name, values in shared(evaluations)]
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
    """Room by room. Not of the scores: two points are in their table; nor of what has a place of its own."""
    rooms = by_room(key for key in curve_keys(metrics) if key != REWARD and not key.startswith(("eval/", "refused/")))
    return in_rooms({room: _drawn(metrics, keys) for room, keys in rooms.items()})


def _drawn(metrics: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    figures = "".join(_figure(metrics, key) for key in keys)
    return f'<div class="grid">{figures}</div>' if figures else ""


def _figure(metrics: Sequence[Mapping[str, Any]], key: str) -> str:
    points = curve(metrics, key)
    return curve_svg(key, thinned(points)) if points else ""


def _refused_in_training(metrics: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in curve_keys(metrics) if key.startswith("refused/")]
    if not keys:
        return ""
    shares = {key.removeprefix("refused/"): [(step, 100 * (value or 0.0)) for step, value in curve(metrics, key)] for key in keys}
    rows = [(reason, *map(number, (points[0][1], points[-1][1], mean([value for _, value in points])))) for reason, points in shares.items()]
    told = table(("% of the rollouts", "first step", "last step", "mean of all steps"), rows)
    return f'<div class="grid wide">{stacked_svg("% of the rollouts, by reason", list(shares.items()))}{told}</div>'


def _time(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of each step by stage, what share of all steps each is; speed and memory."""
    layers = stages(metrics)
    further = _drawn(metrics, keys_under(metrics, "throughput", "memory"))
    if not layers:
        return further
    seconds = {stage: sum(value or 0.0 for _, value in points) for stage, points in layers.items()}
    steps, every = len(next(iter(layers.values()))), sum(seconds.values()) or 1.0
    rows = [(stage, number(spent / steps, ".3f"), number(100 * spent / every, ".1f")) for stage, spent in seconds.items()]
    told = table(("stage", "seconds a step", "% of the step"), rows)
    return f'<div class="grid wide">{stacked_svg("seconds a step, by stage", list(layers.items()))}{told}</div>{further}'


def _refused_at_the_test(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    counts = [evaluation.get(REFUSED, {}) for evaluation in evaluations.values()]
    rows = [(reason, *(number(count.get(reason, 0), ".0f") for count in counts)) for reason in dict.fromkeys(r for count in counts for r in count)]
    return table(("test answers", *evaluations), rows) if rows else ""
