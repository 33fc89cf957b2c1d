"""The first screen of a report: how much better the model became, what that cost, what looks like trouble, and how to do it again."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from visual_rft.tracking._charts import colour, curves_svg
from visual_rft.tracking._curves import curve, thinned
from visual_rft.tracking._format import difference, duration, number
from visual_rft.tracking._page import legend_of
from visual_rft.tracking.signs import Sign, signs

SHOWN_ELSEWHERE = ("task", "model", "metric", "before", "after", "value", "steps", "seconds")
CHEATING = ("hacking", "more_boxes", "empty_answers", "form_alone", "thinking_gone")  # signs that reward is had otherwise than it is meant
Evaluations = Mapping[str, Mapping[str, Any]]  # by name; each as `evaluation.Evaluation.plain`


def headline(evaluations: Evaluations, *, is_sure: bool = True) -> str:
    """The task's own metric, which is an evaluation's first score, and its change where there are two: as good or bad news unless it is not sure."""
    for name, values in shared(evaluations)[:1]:
        *earlier, last = map(number, values)
        change = difference(*values) if len(values) == 2 else None
        mood = "" if not change or not is_sure else "good" if change > 0 else "bad"
        told = "" if change is None else f' <small class="{mood}">({number(change, "+.2f")})</small>'
        return f'<p class="headline"><small>{escape(name)}</small> {"".join(f"{value} → " for value in earlier)}<b>{last}</b>{told}</p>'
    return ""


def is_sure(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the change of the metric is to be believed: nothing looks like cheating, and what one answer is worth changes to the same side, by more
    than chance."""
    worth = summary.get("one_answer")
    if any(sign.name in CHEATING for sign in signs(metrics)):
        return False
    if not worth or worth["half_interval_95"] is None:
        return True
    change = worth["after"] - worth["before"]
    return bool(abs(change) > worth["half_interval_95"] and change * (summary["after"] - summary["before"]) > 0)


def interval(summary: Mapping[str, Any]) -> str:
    """What one answer is worth, before and after, and how sure the change is over the images of the test."""
    worth = summary.get("one_answer")
    if not worth:
        return ""
    before, after, half = worth["before"], worth["after"], worth["half_interval_95"]
    change, sure = number(after - before, "+.2f"), ""
    if half is not None:
        change, sure = f"{change} ± {number(half)}", " <small>(95 %, over the images)</small>"
    said = "what one answer is worth, 0 to 100 <small>(how well its boxes fit, extra and missing ones counted, or whether its name is right)</small>"
    return f"<p>{said}: {number(before)} → {number(after)}, <b>{change}</b>{sure}</p>"


def shared(evaluations: Evaluations) -> list[tuple[str, list[float | None]]]:
    """(name, its value in each evaluation) of the numbers that all evaluations hold, in the order of the first."""
    columns = list(evaluations.values())
    names = [name for name, value in columns[0].items() if not isinstance(value, Mapping)] if columns else []
    return [(name, [column[name] for column in columns]) for name in names if all(name in column for column in columns)]


def cost(summary: Mapping[str, Any], environment: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], completions: int) -> str:
    """Steps, time, completions, memory, the device; what else the summary says; where the code stood."""
    peak = max((line.get("memory/peak_gb") or 0.0 for line in metrics), default=0.0)
    git = environment.get("git") or {}
    facts = {
        "steps": summary.get("steps"),
        "time": duration(summary["seconds"]) if "seconds" in summary else None,
        "completions": f"{completions:,}" if completions else None,
        "peak memory": f"{peak:.1f} GB" if peak else None,
        "device": environment.get("device_name"),
    }
    facts |= {key: value for key, value in summary.items() if key not in SHOWN_ELSEWHERE and not isinstance(value, Mapping)}
    skipped = max((line.get("policy/skipped_steps") or 0.0 for line in metrics), default=0.0)  # it counts from the beginning of the run
    facts["skipped steps"] = f"{skipped:.0f}, in skipped/" if skipped else None
    facts["code"] = f"{git['revision'][:10]}{' with changes' if git['dirty'] else ''}" if git else None
    told = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in facts.items() if value is not None)
    return f'<dl class="facts">{told}</dl>' if told else ""


def signs_of_trouble(metrics: Sequence[Mapping[str, Any]], *, can_look: bool) -> str:
    """Each sign that the lines of a run's `metrics.jsonl` hold, with the curves that show it and its remedy, those of cheating first, since they make
    the score untrue; and the way to the rollouts of its step, where the page has some."""
    ordered = sorted(signs(metrics), key=lambda sign: (sign.name not in CHEATING, sign.step))
    look = ' <a href="#explorer" data-step="{}">its rollouts</a>' if can_look else ""
    return "".join(_sign(sign, look.format(sign.step), _evidence(sign, metrics)) for sign in ordered)


def _sign(sign: Sign, look: str, evidence: str) -> str:
    name, text, remedy = escape(sign.name.replace("_", " ")), escape(sign.text), escape(sign.remedy)
    told = f"<p><b>{name}</b> <small>since step {sign.step}</small>{look}<br>{text}<br><small>{remedy}</small></p>"
    return f'<div class="sign">{told}{evidence}</div>'


def _evidence(sign: Sign, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Its curves over each other, named where there are several."""
    curves = {key: thinned(points) for key in sign.keys if (points := curve(metrics, key))}
    said = [(key, colour(index), points) for index, (key, points) in enumerate(curves.items())]
    legend = legend_of({key: kind for key, kind, _ in said}) if len(said) > 1 else ""
    return curves_svg(" · ".join(curves), [(kind, points) for _, kind, points in said], said, legend=legend) if said else ""


def again(command: str | None) -> str:
    """The command that makes this again."""
    return f'<p><small>To reproduce:</small></p><pre class="command">{escape(command)}</pre>' if command else ""
