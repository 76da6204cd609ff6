"""Shares, means and differences with their 95 % intervals, as plain numbers for a JSON file."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from milr.benchmarks.intervals import Estimate, estimate_difference, estimate_mean, pool, wilson

Figure = dict[str, float]
"""A value with the ends of its interval, ``low`` and ``high``, and ``of``: the number of prompts, texts or answers."""


def share(values: Sequence[float]) -> Figure:
    """Return the mean of values in [0, 1] with Wilson's interval."""
    return figure(estimate_mean([float(value) for value in values]))


def difference(values: Sequence[float]) -> Figure:
    """Return the mean of paired differences in [-1, 1] with their interval (`milr.benchmarks.intervals`)."""
    return figure(estimate_difference([float(value) for value in values]))


def figure(estimate: Estimate) -> Figure:
    """Return an estimate as plain numbers; without any value all but ``of`` are NaN."""
    value, low, high = (round(number, 4) for number in (estimate.value, estimate.low, estimate.high))
    return {"value": value, "low": low, "high": high, "of": estimate.prompts}


def share_by(groups: Sequence[Hashable], values: Sequence[float]) -> dict[str, Figure]:
    """Return the share of each group, in the order in which groups come first."""
    together = list(zip(groups, values, strict=True))
    return {str(one): share([value for group, value in together if group == one]) for one in dict.fromkeys(groups)}


def mean_over(groups: Sequence[Hashable], values: Sequence[float]) -> Figure:
    """Return the mean of the groups' shares, as GenEval takes it over its tags."""
    kept = share_by(groups, values).values()
    shares = [Estimate(one["value"], one["low"], one["high"], int(one["of"])) for one in kept]
    return figure(pool(shares, [1] * len(shares)))


def gap(first: Sequence[float], second: Sequence[float]) -> Figure:
    """Return the share of one sample minus the share of another, by Newcombe's interval for unpaired proportions."""
    if not first or not second:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    a, b = (sum(values) / len(values) for values in (first, second))
    (a_low, a_high), (b_low, b_high) = wilson(a, len(first)), wilson(b, len(second))
    low, high = a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)
    return {"value": round(a - b, 4), "low": round(low, 4), "high": round(high, 4), "of": len(first) + len(second)}


def spread(groups: dict[str, Figure], least: int = 20) -> float:
    """Return the largest share minus the smallest one, over groups of at least that many values; NaN without two."""
    known = [one["value"] for one in groups.values() if one["of"] >= least]
    return round(max(known) - min(known), 4) if len(known) > 1 else math.nan
