"""Inline SVG of numbers over the steps: lines, and layers on top of each other. Each carries its numbers, which the page's script says under the
pointer."""

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from visual_rft.tracking._curves import Points, thinned
from visual_rft.tracking._format import number
from visual_rft.tracking._page import legend_of

CURVE_WIDTH, CURVE_HEIGHT, SIDE, MARGIN = 320, 130, 4, 22
STACK_WIDTH, STACK_HEIGHT = 420, 190
COLOURS, DASHES = 8, 3  # the classes a0 … and d0 … of the page's style
LEAST_GAP = 4  # bars narrower than so many units have no gap between them


def colour(index: int) -> str:
    """The CSS classes of the line, layer or arm of this number: no two of the first 24 look alike."""
    return f"a{index % COLOURS} d{index // COLOURS % DASHES}"


def curve_svg(name: str, points: Points) -> str:
    """One series over steps, with its least, greatest and last value and its first and last step. None and NaN break the line."""
    return curves_svg(name, [("", points)])


def curves_svg(name: str, series: Sequence[tuple[str, Points]], said: Sequence[tuple[str, str, Points]] | None = None, *, legend: str = "") -> str:
    """Several series over the same axes, the last on top, each a line of its CSS class. `said` are those whose values are told under the pointer:
    (label, class, points). A `legend`, which is HTML, stands in the place of the name."""
    spans = [(kind, list(span)) for kind, points in series for finite, span in groupby(points, _is_finite) if finite]
    steps, values = [step for _, span in spans for step, _ in span], [value for _, span in spans for _, value in span if value is not None]
    if not values:
        return f"<figure><figcaption>{escape(name)}</figcaption><p>no finite value</p></figure>"
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    left, right, top, bottom = SIDE, CURVE_WIDTH - SIDE, MARGIN, CURVE_HEIGHT - MARGIN
    x_unit, y_unit = (right - left) / ((last - first) or 1), (bottom - top) / ((high - low) or 1)
    places = iter(f"{left + (step - first) * x_unit:.1f},{bottom - (value - low) * y_unit:.1f}" for step, value in zip(steps, values, strict=True))
    drawn = [(kind, [next(places) for _ in span]) for kind, span in spans]
    # A line of length zero with round caps is a dot: a lone point stays visible.
    lines = "".join(f'<polyline class="{kind}" points="{" ".join(span if len(span) > 1 else span * 2)}"/>' for kind, span in drawn)
    head = legend or escape(name) + (f" <b>{number(values[-1], '.4g')}</b>" if len(series) == 1 else "")
    told = _numbers(said or [("", kind, points) for kind, points in series], (left, right))
    return (
        f"<figure><figcaption>{head}</figcaption>"
        f'<svg class="curve" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" aria-label="{escape(name)}" data-chart="{told}">'
        f'<path d="M{left} {top}H{right}M{left} {bottom}H{right}"/>{lines}'
        f'<text x="{left}" y="{top - 6}">{number(high, ".4g")}</text><text x="{left}" y="{bottom + 12}">{number(low, ".4g")}</text>'
        f'<text x="{right}" y="{bottom + 12}" text-anchor="end">step {first} to {last}</text></svg></figure>'
    )


def stacked_svg(name: str, layers: Sequence[tuple[str, Points]]) -> str:
    """A bar a step, of a layer a label from the bottom up, over a legend. All layers have the same steps, and values of at least 0."""
    thin = [(label, thinned(points)) for label, points in layers]
    steps = [step for step, _ in thin[0][1]]
    values_LS = [[value if value is not None and math.isfinite(value) else 0.0 for _, value in points] for _, points in thin]
    high = max(map(sum, zip(*values_LS, strict=True))) or 1.0
    left, right, top, bottom = SIDE, STACK_WIDTH - SIDE, MARGIN, STACK_HEIGHT - MARGIN
    slot, unit = (right - left) / len(steps), (bottom - top) / high
    width = slot - 1 if slot > LEAST_GAP else slot
    floor, bars = [float(bottom)] * len(steps), []
    for index, values in enumerate(values_LS):
        tops = [y - value * unit for y, value in zip(floor, values, strict=True)]
        d = "".join(f"M{left + i * slot:.1f} {tops[i]:.2f}h{width:.1f}V{floor[i]:.2f}h{-width:.1f}z" for i, value in enumerate(values) if value > 0)
        bars.append(f'<path class="bar a{index % COLOURS}" d="{d}"/>')
        floor = tops
    legend = legend_of({label: f"bar a{index % COLOURS}" for index, (label, _) in enumerate(thin)})
    told = _numbers([(label, f"bar a{index % COLOURS}", points) for index, (label, points) in enumerate(thin)], (left + slot / 2, right - slot / 2))
    labels = f'<text x="{left}" y="{top - 6}">{number(high, ".4g")}</text><text x="{left}" y="{bottom + 12}">0</text>'
    return (
        f'<figure class="stack"><figcaption>{escape(name)}</figcaption>'
        f'<svg class="curve" viewBox="0 0 {STACK_WIDTH} {STACK_HEIGHT}" role="img" aria-label="{escape(name)}" data-chart="{told}" data-even="">'
        f'{"".join(bars)}<path d="M{left} {top}H{right}M{left} {bottom}H{right}"/>{labels}'
        f'<text x="{right}" y="{bottom + 12}" text-anchor="end">step {steps[0]} to {steps[-1]}</text></svg>'
        f"<p><small>{legend}</small></p></figure>"
    )


def _numbers(said: Sequence[tuple[str, str, Points]], ends: tuple[float, float]) -> str:
    """For an attribute: the steps, where the first and the last of them stand, and each series' label, class and value at every step (null where it
    has none)."""
    steps = sorted({step for _, _, points in said for step, _ in points})
    found = [(label, kind, dict(points)) for label, kind, points in said]
    series = [[label, kind, [_short(values.get(step)) for step in steps]] for label, kind, values in found]
    return escape(json.dumps({"ends": ends, "steps": steps, "series": series}, separators=(",", ":")))


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _is_finite(point: tuple[int, float | None]) -> bool:
    return point[1] is not None and math.isfinite(point[1])
