"""Confidence intervals: 95 %, with the prompt as the unit, and never of width zero.

* A mean of values in [0, 1]: Wilson's interval. For values that are not all 0 or 1 it is wider than necessary.
* A mean of paired differences in [-1, 1]: Bonett and Price's adjusted Wald interval ("Adjusted Wald confidence interval
  for a difference of binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37,
  2012, 479-488), which adds two imaginary prompts, one won and one lost. Written with sums and sums of squares it also
  takes differences between -1 and 1. Ours uses Student's t instead of the normal distribution, because theirs covers
  too seldom below 20 prompts if few pairs are equal; a test checks its coverage from 3 prompts on.
* A weighted mean over tags: the squared distances of the tags are added (Zou and Donner, "Construction of confidence
  limits about effect measures", Statistics in Medicine 27, 2008, 1693-1702: MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964  # of the normal distribution: 95 % are within
_UNSEEN = 2  # prompts that a paired difference adds


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. All are NaN if nothing could be scored; the ends are NaN if none were published."""

    value: float
    low: float
    high: float
    prompts: int
    """Number of prompts that have a value."""


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def wilson(mean: float, prompts: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion.

    Args:
        mean: The proportion, in [0, 1].
        prompts: Number of prompts, at least 1; an effective number may be a fraction.
    """
    spread = _Z**2 / prompts
    middle = (mean + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(mean * (1 - mean) / prompts + spread / (4 * prompts)) / (1 + spread)
    return max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))


def estimate_mean(values: Sequence[float], prompts: int | None = None) -> Estimate:
    """Return the mean of scores with Wilson's interval.

    Args:
        values: Scores in [0, 1].
        prompts: Number of prompts, if some have several values; None for one value per prompt.
    """
    prompts = len(values) if prompts is None else prompts
    if not prompts:
        return NOTHING
    mean = min(1.0, max(0.0, math.fsum(values) / len(values)))
    return Estimate(mean, *wilson(mean, prompts), prompts)


def estimate_difference(values: Sequence[float]) -> Estimate:
    """Return the mean of paired differences with Bonett and Price's interval, widened by Student's t.

    Args:
        values: One per prompt, in [-1, 1].
    """
    if not values:
        return NOTHING
    seen = len(values) + _UNSEEN
    total, squares = math.fsum(values), math.fsum(value**2 for value in values) + _UNSEEN
    middle = total / seen
    half = _student(seen - 1) * math.sqrt((squares / seen - middle**2) / (seen - 1))
    return Estimate(total / len(values), max(-1.0, middle - half), min(1.0, middle + half), len(values))


def _student(degrees: int) -> float:
    """Return the 97.5 % point of Student's t, from 2 degrees of freedom on, by its series in 1 / degrees.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5; 0.8 % too low at 2 degrees, 0.03 % at 4.
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def pool(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Return the weighted mean of estimates of different prompts, with MOVER's interval.

    Args:
        estimates: Estimates; those without a value are left out.
        weights: One weight per estimate, 0 or more; they are scaled to add up to 1 over the estimates with a value.
    """
    kept = [(one, weight) for one, weight in zip(estimates, weights, strict=True) if one.prompts and weight > 0]
    if not kept:
        return NOTHING
    if len(kept) == 1:
        return kept[0][0]
    total = math.fsum(weight for _, weight in kept)
    value = math.fsum(weight * one.value for one, weight in kept) / total
    below = math.hypot(*(weight * (one.value - one.low) for one, weight in kept)) / total
    above = math.hypot(*(weight * (one.high - one.value) for one, weight in kept)) / total
    return Estimate(value, value - below, value + above, sum(one.prompts for one, _ in kept))


def write_number(number: float, digits: int, signed: bool = False) -> str:
    """Round a number for a table, so that equal numbers print alike.

    A mean that two orders of addition leave slightly above and below 0.875 would otherwise print as two different
    numbers.
    """
    rounded = round(round(number, 9), digits) + 0.0  # no minus sign before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}"


def write_interval(low: float, high: float, digits: int, signed: bool = False) -> str:
    """Return the interval as printed: "[0.61, 0.84]"."""
    return f"[{write_number(low, digits, signed)}, {write_number(high, digits, signed)}]"
