"""Means, and how sure they are. Run: .venv/bin/python -m pytest tests/test_averages.py"""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visual_rft.metrics.averages import half_interval_95

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=30)


@given(VALUES)
def test_independent_values_have_students_interval(values: list[float]) -> None:
    expected = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert half_interval_95(values, range(len(values))) == pytest.approx(expected, abs=1e-7)


@given(VALUES, st.integers(2, 5))
def test_saying_the_same_again_makes_nothing_surer(values: list[float], times: int) -> None:
    """Of as many questions about each image that all turn out alike, one counts."""
    again = [value for value in values for _ in range(times)]
    images = [image for image in range(len(values)) for _ in range(times)]
    assert half_interval_95(again, images) == pytest.approx(half_interval_95(values, range(len(values))), abs=1e-9)


@given(VALUES, st.randoms(use_true_random=False))
def test_order_and_names_of_groups_mean_nothing(values: list[float], chance: Random) -> None:
    images = [chance.randrange(3) for _ in values]
    order = chance.sample(range(len(values)), len(values))
    expected = half_interval_95(values, images)
    found = half_interval_95([values[i] for i in order], [f"image {images[i]}" for i in order])
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_one_group_says_nothing_of_chance() -> None:
    assert half_interval_95([], []) is None and half_interval_95([0.1, 0.9], ["a", "a"]) is None


def test_it_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Questions about one image that err together: an interval over the questions would be too narrow."""
    chance = np.random.default_rng(0)
    hits, naive = 0, 0
    for _ in range(400):
        shared = chance.normal(0, 1, 30)
        values = [float(value) for image in shared for value in image + chance.normal(0, 0.3, 4)]
        mean, images = float(np.mean(values)), [image for image in range(30) for _ in range(4)]
        hits += abs(mean) <= (half_interval_95(values, images) or math.inf)
        naive += abs(mean) <= (half_interval_95(values, range(len(values))) or math.inf)
    assert 370 <= hits <= 392 and naive < 320
