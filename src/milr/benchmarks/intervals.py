"""The one way in which milr writes an interval beside a number: 95 %, the prompt is the unit, never of width zero.

* A mean of values in [0, 1]: Wilson's interval. For values that are not all 0 or 1 it is wider than need be.
* A mean of paired differences in [-1, 1]: Bonett and Price's adjusted Wald interval ("Adjusted Wald confidence interval
  for a difference of binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37,
  2012, 479-488), which adds two prompts that nobody saw, one all won and one all lost. Written with sums and sums of
  squares it takes differences between -1 and 1 too. Ours has Student's t in place of the normal distribution, since
  theirs covers too seldom below 20 prompts where few pairs are equal; a test tries its coverage from 3 prompts on.
* A weighted mean over tags: the tags' distances added up in squares (Zou and Donner, "Construction of confidence limits
  about effect measures", Statistics in Medicine 27, 2008, 1693-1702: MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964  # of the normal distribution: 95 % lie within
_UNSEEN = 2  # prompts that a paired difference adds


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; all NaN where nothing could be scored, ends NaN where others published none."""

    value: float
    low: float
    high: float
    prompts: int
    """The prompts that have a value."""


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def wilson(mean: float, prompts: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Args:
        mean: The share, in [0, 1].
        prompts: Of how many; at least 1.
    """
    spread = _Z**2 / prompts
    middle = (mean + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(mean * (1 - mean) / prompts + spread / (4 * prompts)) / (1 + spread)
    return max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))


def estimate_mean(values: Sequence[float], prompts: int | None = None) -> Estimate:
    """Return the mean of scores with Wilson's interval.

    Args:
        values: In [0, 1].
        prompts: How many prompts they are of, where some have several values; None for one value a prompt.
    """
    prompts = len(values) if prompts is None else prompts
    if not prompts:
        return NOTHING
    mean = min(1.0, max(0.0, math.fsum(values) / len(values)))
    return Estimate(mean, *wilson(mean, prompts), prompts)


def estimate_difference(values: Sequence[float]) -> Estimate:
    """Return the mean of paired differences with Bonett and Price's interval, widened by Student's t.

    Args:
        values: One a prompt, in [-1, 1].
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
        estimates: Those without a value are left out.
        weights: Of each, 0 or more; those of the estimates that have a value are scaled to add up to 1.
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
    """Return the number as tables print it, so that equal numbers print alike.

    A mean that two orders of adding up leave a little above and below 0.875 would be rounded to two different numbers.
    """
    rounded = round(round(number, 9), digits) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}"


def write_interval(low: float, high: float, digits: int, signed: bool = False) -> str:
    """Return the interval as tables print it: "[0.61, 0.84]"."""
    return f"[{write_number(low, digits, signed)}, {write_number(high, digits, signed)}]"
