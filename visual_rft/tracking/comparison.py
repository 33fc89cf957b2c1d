"""Runs side by side: those that differ by chance alone form an arm; what an arm changed, with its 95 % interval; one page with all curves.

Axes: A arms, R runs of one arm.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from scipy import stats

from visual_rft.tracking._charts import colour, curves_svg
from visual_rft.tracking._curves import by_room, curve, curve_keys, mean, thinned
from visual_rft.tracking._first import signs_of_trouble
from visual_rft.tracking._flips import flips_html
from visual_rft.tracking._format import duration, number
from visual_rft.tracking._page import in_rooms, legend_of, page, section, table
from visual_rft.tracking.pictures import Look
from visual_rft.tracking.runfolder import write_atomically
from visual_rft.tracking.runs import Run

FIRST_KEYS = ("task.name", "model.name", "method", "reasoning")  # what best tells two arms apart
WELL_FORMED = "well-formed"  # the score that every task has


@dataclass(frozen=True)
class Arm:
    """The runs of one setting over several seeds, and the keys that tell it from the other arms."""

    label: str
    runs: tuple[Run, ...]

    @property
    def metric(self) -> str:
        """The task's own, the same in all runs."""
        return self.runs[0].metric

    @property
    def seconds(self) -> float:
        return mean_interval([run.seconds for run in self.runs])[0]


@dataclass(frozen=True)
class Change:
    """One score of an arm, in the score's unit: means over the runs, half the 95 % interval of the mean change. NaN where there is no number."""

    before: float
    after: float
    change: float
    half_interval_95: float


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t: the values are one independent run each.

    Both are NaN when a value is not finite or there is none; the interval of a single value is NaN.
    """
    if not values or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    mean = statistics.mean(values)  # exact sums: the order of the runs does not matter, and equal runs have no spread
    if len(values) == 1:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms, in the order of their first run; inside an arm the runs by seed."""
    found: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        found.setdefault(frozenset(run.setting.items()), []).append(run)
    labels = _labels([group[0] for group in found.values()])
    return [Arm(label, tuple(sorted(group, key=lambda run: run.seed))) for label, group in zip(labels, found.values(), strict=True)]


def _labels(runs_A: Sequence[Run]) -> list[str]:
    """A key is named when it tells arms apart that the keys before it do not."""
    if len(runs_A) == 1:
        return [f"{runs_A[0].task}, {runs_A[0].model}"]
    named: list[str] = []

    def told_apart(keys: Sequence[str]) -> int:
        return len({tuple(run.setting.get(key) for key in keys) for run in runs_A})

    for key in dict.fromkeys((*FIRST_KEYS, *(key for run in runs_A for key in run.setting))):
        if told_apart([*named, key]) > told_apart(named):
            named.append(key)
    return [" ".join(f"{key}={run.setting.get(key, '-')}" for key in named) for run in runs_A]


def repeated_seeds(arm: Arm) -> dict[int, list[Run]]:
    """The runs of each seed that an arm holds more than once."""
    by_seed: dict[int, list[Run]] = {}
    for run in arm.runs:
        by_seed.setdefault(run.seed, []).append(run)
    return {seed: runs for seed, runs in by_seed.items() if len(runs) > 1}


def score_names(arm: Arm) -> list[str]:
    """Every score of the arm's runs, the task's metric first."""
    return list(dict.fromkeys([arm.metric, *(name for run in arm.runs for name in run.scores)]))


def categories(arm: Arm) -> list[str]:
    """Every category of the arm's runs."""
    return list(dict.fromkeys(name for run in arm.runs for name in run.categories))


def change(arm: Arm, score: str) -> Change:
    """What became of a score. A run that lacks it leaves the arm without a number: a mean over the others would be of other runs."""
    return _change([run.scores.get(score, (math.nan, math.nan)) for run in arm.runs])


def change_of(arm: Arm, category: str) -> Change:
    """What became of the metric of a category; else as `change`."""
    return _change([run.categories.get(category, (math.nan, math.nan)) for run in arm.runs])


def _change(scores_R: Sequence[tuple[float, float]]) -> Change:
    before_R, after_R = zip(*scores_R, strict=True)
    changes_R = [after - before for before, after in zip(before_R, after_R, strict=True)]
    return Change(mean_interval(before_R)[0], mean_interval(after_R)[0], *mean_interval(changes_R))


def summary_table(arms: Sequence[Arm], *, every_score: bool) -> list[tuple[str, ...]]:
    """Head and rows as text: each arm's metric and how many answers were well-formed, or a row for every score."""
    last = () if every_score else (WELL_FORMED,)
    rows: list[tuple[str, ...]] = [("", "score", "runs", "before", "after", "change", "± 95 %", *last, "seconds")]
    for arm in arms:
        for name in score_names(arm) if every_score else [arm.metric]:
            more = [number(change(arm, score).after) for score in last]
            rows.append((arm.label, name, str(len(arm.runs)), *_numbers(change(arm, name)), *more, number(arm.seconds, ".0f")))
    return rows


def of_a_category(arm: Arm) -> str:
    """What the metric is called of one category: that of the novel ones, `AP novel`, is AP of each."""
    return arm.metric.partition(" ")[0]


def category_table(arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """Head and rows as text: each arm's metric, category by category."""
    rows: list[tuple[str, ...]] = [("", "category", "score", "runs", "before", "after", "change", "± 95 %")]
    for arm in arms:
        rows += [(arm.label, name, of_a_category(arm), str(len(arm.runs)), *_numbers(change_of(arm, name))) for name in categories(arm)]
    return rows


def _numbers(c: Change) -> tuple[str, ...]:
    return number(c.before), number(c.after), number(c.change, "+.2f"), number(c.half_interval_95)


def write_json(path: Path, arms: Sequence[Arm]) -> None:
    """All numbers of the comparison, for programs; null where there is no number."""
    text = json.dumps({"groups": [_plain(arm) for arm in arms]}, indent=1, allow_nan=False)
    write_atomically(path, text + "\n")


def _plain(arm: Arm) -> dict[str, Any]:
    scores = {name: {key: _or_none(value) for key, value in vars(change(arm, name)).items()} for name in score_names(arm)}
    runs = [
        {
            "folder": str(run.folder),
            "seed": run.seed,
            "seconds": _or_none(run.seconds),
            "scores": {name: {"before": _or_none(before), "after": _or_none(after)} for name, (before, after) in run.scores.items()},
            "environment": run.environment,
        }
        for run in arm.runs
    ]
    by_category = {name: {key: _or_none(value) for key, value in vars(change_of(arm, name)).items()} for name in categories(arm)}
    told = {"label": arm.label, "metric": arm.metric, "seeds": [run.seed for run in arm.runs], "seconds": _or_none(arm.seconds)}
    return told | {"scores": scores, "by_category": by_category, "runs": runs}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_page(path: Path, arms: Sequence[Arm], look_at: Callable[[Run, Run], Look] = lambda *_: Look()) -> None:
    """One self-contained HTML page: each score of all arms, the questions that they answer differently, as `look_at` two runs has them, the
    curves of all runs over each other, each run's numbers."""
    title = escape(" · ".join(dict.fromkeys(run.task for arm in arms for run in arm.runs)))
    runs = sum(len(arm.runs) for arm in arms)
    told = f"{runs} runs in {len(arms)} groups that differ by chance alone; ± is half the 95 % interval (Student's t) over the runs"
    body = "".join(
        [
            f"<h1>{title}</h1><p><small>{told}</small></p>",
            _trouble(arms),
            section("Before and after", _scores(arms)),
            section("Question by question", _flips(arms, look_at)),
            section("By category", "".join(f"<h3>{escape(arm.label)}</h3>{_by_category(arm)}" for arm in arms if categories(arm))),
            section("Curves", _curves(arms)),
            section("Runs", "".join(f"<h3>{escape(arm.label)}</h3>{_runs(arm)}" for arm in arms)),
        ]
    )
    write_atomically(path, page(f"{title}: {runs} runs", body))


def _trouble(arms: Sequence[Arm]) -> str:
    """Each run's signs, under its name."""
    found = [(arm, run, signs_of_trouble(run.metrics, can_look=False)) for arm in arms for run in arm.runs]
    return "".join(f"<h3>{escape(arm.label)}, seed {run.seed}</h3>{told}" for arm, run, told in found if told)


def _flips(arms: Sequence[Arm], look_at: Callable[[Run, Run], Look]) -> str:
    """Each further arm beside the first one of its task."""
    first: dict[str, Arm] = {}
    told = ""
    for arm in arms:
        base = first.setdefault(arm.runs[0].task, arm)
        told += flips_html((base.label, arm.label), base.runs, arm.runs, look_at) if arm is not base else ""
    note = "How well boxes fit, extra and missing ones counted, or whether a name is right, 0 to 1; from 0.5 on an answer counts as good."
    legend = legend_of({"truth": "truth", "the first": "before", "the second": "after"}) if "<rect" in told else ""
    return f"<p><small>{note} {legend}</small></p>{told}" if told else ""


def _scores(arms: Sequence[Arm]) -> str:
    names = dict.fromkeys([arm.metric for arm in arms] + [name for arm in arms for name in score_names(arm)])
    return "".join(f"<h3>{escape(name)}</h3>{_score(name, [arm for arm in arms if name in score_names(arm)])}" for name in names)


def _score(name: str, arms: Sequence[Arm]) -> str:
    rows = [(arm.label, str(len(arm.runs)), *_numbers(change(arm, name))) for arm in arms]
    return table(("", "runs", "before", "after", "change", "± 95 %"), rows)


def _by_category(arm: Arm) -> str:
    rows = [(name, *_numbers(change_of(arm, name))) for name in categories(arm)]
    return table((of_a_category(arm), "before", "after", "change", "± 95 %"), rows)


def _runs(arm: Arm) -> str:
    names = score_names(arm)
    rows = []
    for run in arm.runs:
        scores = [run.scores.get(name, (math.nan, math.nan)) for name in names]
        cells = [f"{number(before)} → {number(after)}" for before, after in scores]
        rows.append((f"seed {run.seed}", *cells, duration(run.seconds) if math.isfinite(run.seconds) else "-", str(run.folder)))
    return table(("", *names, "time", "folder"), rows)


def _curves(arms: Sequence[Arm]) -> str:
    rooms = by_room(curve_keys(line for arm in arms for run in arm.runs for line in run.metrics))
    legend = legend_of({arm.label: colour(index) for index, arm in enumerate(arms)})
    drawn = in_rooms({room: f'<div class="grid">{"".join(_figure(arms, key) for key in keys)}</div>' for room, keys in rooms.items()})
    return f"<p>{legend} <small>(thick: mean of the runs, thin: each)</small></p>{drawn}" if drawn else ""


def _figure(arms: Sequence[Arm], key: str) -> str:
    """Each run of each arm, thin, and over them the mean of each arm, which is told under the pointer."""
    curves = [[_curve(run.metrics, key) for run in arm.runs] for arm in arms]
    thin = [(f"{colour(index)} run", thinned(list(one.items()))) for index, curves_R in enumerate(curves) for one in curves_R if len(curves_R) > 1]
    means = [(colour(index), thinned(list(mean_curve(curves_R).items()))) for index, curves_R in enumerate(curves)]
    said = [(arm.label, kind, points) for arm, (kind, points) in zip(arms, means, strict=True)]
    return curves_svg(key, [*thin, *means], said)


def _curve(metrics: Sequence[Mapping[str, float]], key: str) -> dict[int, float]:
    return {step: math.nan if value is None else value for step, value in curve(metrics, key)}


def mean_curve(curves_R: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """At each step the mean of the runs that have a finite number there; NaN where none has."""
    steps = sorted({step for one in curves_R for step in one})
    return {step: mean([one.get(step) for one in curves_R]) for step in steps}
