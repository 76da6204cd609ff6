"""Intervals: compared with scipy, tested for coverage in a small simulation, and never of width zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from milr.benchmarks.intervals import (
    NOTHING,
    Estimate,
    estimate_difference,
    estimate_mean,
    pool,
    wilson,
    write_interval,
    write_number,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def of_pairs(won: float, lost: float) -> tuple[Draw, float]:
    """Return pairs with these shares won and lost, and the mean difference."""
    return lambda draw, shape: draw.choice([1.0, -1.0, 0.0], shape, p=[won, lost, 1 - won - lost]), won - lost


DIFFERENCES: Mapping[str, tuple[Draw, float]] = {
    "all equal": of_pairs(0, 0),
    "rarely won": of_pairs(0.06, 0),
    "sometimes won": of_pairs(0.25, 0.02),
    "won and lost": of_pairs(0.3, 0.3),
    "none equal": of_pairs(0.7, 0.3),
    "nearly all won": of_pairs(0.9, 0),
    "three seeds each": (lambda d, s: (d.binomial(3, 0.8, s) - d.binomial(3, 0.6, s)) / 3, 0.2),
    "graded": (lambda d, s: d.beta(2, 5, s) - d.beta(0.3, 0.3, s), 2 / 7 - 0.5),
    "graded and skewed": (lambda d, s: d.beta(0.1, 0.5, s), 0.1 / 0.6),
}


@pytest.mark.parametrize("prompts", [3, 10, 50])
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_a_differences_interval_covers_the_truth(kind: str, prompts: int) -> None:
    draw, truth = DIFFERENCES[kind]
    found = [estimate_difference(list(row)) for row in draw(np.random.default_rng(7), (1000, prompts))]
    assert np.mean([one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found]) >= 0.93


@pytest.mark.parametrize("per_tag", [1, 3, 10])
def test_an_overall_differences_interval_covers_the_truth(per_tag: int) -> None:
    tags = (of_pairs(0.5, 0.1), of_pairs(0.05, 0), of_pairs(0.3, 0.3))
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        found = [estimate_difference(list(one(draw, (1, per_tag))[0])) for one, _ in tags]
        overall = pool(found, [1, 1, 1])
        hits += overall.low <= sum(truth for _, truth in tags) / 3 <= overall.high
    assert hits / 1000 >= 0.93


@given(st.floats(-1, 1), st.integers(1, 600))
def test_equal_differences_have_an_interval_of_positive_width_that_contains_them(value: float, prompts: int) -> None:
    found = estimate_difference([value] * prompts)
    assert found.value == pytest.approx(value) and found.prompts == prompts
    assert -1 <= found.low <= value + 1e-9 and value - 1e-9 <= found.high <= 1
    assert found.high - found.low > 2 / (prompts + 2)


@pytest.mark.slow
def test_a_differences_interval_is_the_textbooks_but_for_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    won, lost, equal = 9, 2, 29
    found = estimate_difference([1.0] * won + [-1.0] * lost + [0.0] * equal)
    share, other, seen = (won + 1) / 42, (lost + 1) / 42, 42
    half = stats.t.ppf(0.975, seen - 1) * np.sqrt((share + other - (share - other) ** 2) / (seen - 1))
    assert (found.low, found.high) == pytest.approx((share - other - half, share - other + half), abs=1e-5)
    assert found.value == 7 / 40


def test_three_prompts_prove_nothing() -> None:
    assert estimate_difference([1.0]).low < 0 and estimate_difference([1.0] * 3).low < 0
    assert estimate_mean([1.0, 1.0]).low == pytest.approx(0.342, abs=1e-3)
    third = pool([estimate_difference([1.0]), *[estimate_difference([0.0])] * 2], [1, 1, 1])
    assert third.value == pytest.approx(1 / 3) and third.low < 0 < third.high


@given(st.floats(0, 1), st.integers(1, 2000))
def test_wilsons_interval_contains_its_mean_and_never_has_width_zero(mean: float, prompts: int) -> None:
    low, high = wilson(mean, prompts)
    assert 0 <= low <= mean <= high <= 1
    assert high - low > 0


def test_wilsons_interval_is_the_textbooks() -> None:
    stats = pytest.importorskip("scipy.stats")
    for right, of in ((0, 10), (7, 10), (80, 80), (40, 99)):
        found = stats.binomtest(right, of).proportion_ci(0.95, method="wilson")
        assert wilson(right / of, of) == pytest.approx((found.low, found.high), abs=1e-6)


def test_pooling_weighs_what_is_there_and_leaves_one_tag_as_it_is() -> None:
    one, other = estimate_mean([1.0, 1.0, 1.0, 0.5]), estimate_mean([0.0, 1.0])
    assert pool([one], [1 / 6]) is one  # not 0.87 and 0.88
    assert pool([one, NOTHING], [0.5, 0.5]) is one
    both = pool([one, other], [1 / 6, 1 / 6])
    assert both.value == pytest.approx((0.875 + 0.5) / 2) and both.prompts == 6
    assert both.value - both.low == pytest.approx(np.hypot(0.875 - one.low, 0.5 - other.low) / 2)
    assert pool([], []).prompts == 0 and np.isnan(pool([one], [0]).value)
    assert estimate_mean([]) is NOTHING and estimate_difference([]) is NOTHING
    assert isinstance(NOTHING, Estimate)


def test_nearly_equal_numbers_are_written_the_same() -> None:
    assert write_number(0.875, 2) == write_number(0.875 - 1e-16, 2) == write_number(0.875 + 1e-16, 2) == "0.88"
    assert write_number(-0.001, 2) == "0.00" and write_interval(-0.001, 0.25, 2, signed=True) == "[+0.00, +0.25]"
