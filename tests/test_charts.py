"""The charts of a report: `pytest tests/test_charts.py`."""

import html
import json
import re

import pytest

from visual_rft.tracking._charts import CURVE_HEIGHT, CURVE_WIDTH, MARGIN, SIDE, STACK_HEIGHT, curve_svg, stacked_svg


def test_a_chart_carries_the_numbers_that_it_draws() -> None:
    told = json.loads(html.unescape(re.search('data-chart="([^"]*)"', curve_svg("a", [(1, 3.0), (2, None), (5, 12345.678)]))[1]))
    assert told == {"ends": [SIDE, CURVE_WIDTH - SIDE], "steps": [1, 2, 5], "series": [["", "", [3.0, None, 12350.0]]]}


def test_layers_stand_on_each_other_and_fill_the_height() -> None:
    drawn = stacked_svg("a", [("x", [(1, 1.0), (2, 0.0)]), ("y", [(1, 1.0), (2, 4.0)])])
    first, second = (re.findall(r"M(\S+) (\S+)h\S+V(\S+?)h", d) for d in re.findall(r'<path class="bar a\d" d="([^"]*)"', drawn))
    assert len(first) == 1 and len(second) == 2, "what is 0 is not drawn"
    bottom, top = STACK_HEIGHT - MARGIN, MARGIN
    quarter = (bottom - top) / 4
    assert [float(x) for x in first[0][1:]] == [bottom - quarter, bottom]
    assert [[float(y) for y in bar[1:]] for bar in second] == [[bottom - 2 * quarter, bottom - quarter], [top, bottom]]


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in re.findall(r"(\S+),(\S+)", line)] for line in re.findall(r'points="([^"]*)"', svg)]


def test_a_curve_fills_its_frame_keeps_its_order_and_is_indifferent_to_scale() -> None:
    values = [3.0, 1.0, 2.0, 5.0]
    (drawn,) = points(curve_svg("a", list(enumerate(values, start=1))))
    xs, ys = zip(*drawn, strict=True)
    assert sorted(range(4), key=lambda i: -ys[i]) == sorted(range(4), key=lambda i: values[i]), "up is more"
    assert (min(xs), max(xs), min(ys), max(ys)) == (SIDE, CURVE_WIDTH - SIDE, MARGIN, CURVE_HEIGHT - MARGIN)
    assert points(curve_svg("a", [(10 * step, 4 * value - 7) for step, value in enumerate(values, start=1)])) == [list(drawn)]


@pytest.mark.parametrize("gap", [None, float("nan"), float("inf")])
def test_a_gap_breaks_a_curve_and_lone_or_constant_points_stay_visible(gap: float | None) -> None:
    assert [len(line) for line in points(curve_svg("a", [(1, 1.0), (2, 1.0), (3, gap), (4, 1.0)]))] == [2, 2]
    assert points(curve_svg("a", [(5, 0.3)])) == [[(SIDE, CURVE_HEIGHT - MARGIN)] * 2]
