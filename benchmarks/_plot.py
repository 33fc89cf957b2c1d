"""A plot as SVG: panels beside each other, both axes logarithmic, a line a side. Readable on a light and a dark page."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 280, 46, 20, 34, 44
COLOURS = {"ours": "#2f7ed8", "peer": "#d9822b"}
GREY = "#808080"


def svg(title: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """Each panel by the name of its x axis, each line by its side; what is drawn is `title`. All panels share the y axis."""
    values = [y for lines in panels.values() for points in lines.values() for _, y in points]
    low, high = min(values), max(values)
    drawn = "".join(_panel(name, lines, low, high, WIDTH * i) for i, (name, lines) in enumerate(panels.items()))
    width = WIDTH * len(panels)
    legend = "".join(_text(width - 110 + 56 * i, 16, side, COLOURS[side]) for i, side in enumerate(COLOURS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f"{_text(LEFT, 16, title, GREY)}{legend}{drawn}</svg>\n"
    )


def _panel(name: str, lines: Mapping[str, Points], low: float, high: float, offset: float) -> str:
    marks = sorted({x for points in lines.values() for x, _ in points})
    right, bottom = offset + WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(x: float) -> float:
        return offset + LEFT + _share(x, marks[0], marks[-1]) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return bottom - _share(y, low, high) * (bottom - TOP)

    parts = [f'<path d="M{offset + LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="{GREY}"/>']
    parts += [_text(x_of(x), bottom + 16, f"{x:g}", GREY, "middle") for x in marks]
    parts += [_text(offset + LEFT - 6, y_of(y) + 4, f"{y:g}", GREY, "end") for y in _ticks(low, high)]
    parts += [f'<path d="M{offset + LEFT} {y_of(y):.1f}H{right}" stroke="{GREY}" stroke-opacity="0.25"/>' for y in _ticks(low, high)]
    parts.append(_text((offset + LEFT + right) / 2, HEIGHT - 8, name, GREY, "middle"))
    for side, points in lines.items():
        places = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{COLOURS[side]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{COLOURS[side]}"/>' for x, y in points]
    return "".join(parts)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / (math.log(high / low) or 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
