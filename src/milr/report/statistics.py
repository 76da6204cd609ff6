"""Answers at a budget of drawings, and what may be said of them: means, paired differences, areas, with intervals.

Shapes: T searches, P prompts, N drawings, B columns (budgets, or whatever a caller puts side by side). NaN stands for
"no value", as `Unscored` does elsewhere: it is left out, never counted as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OVERALL = "overall"
REPEATS = 10_000
LEVEL = 0.95
_AT_ONCE = 1_000  # resamples held in memory together
_ROUNDING = 1e-9  # sums of fractions of drawings end a little beside whole numbers


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval; all NaN where nothing could be scored."""

    value: float
    low: float
    high: float
    prompts: int
    """How many prompts have a value."""

    @property
    def clear_of_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def answers(spent: Floats, reward: Floats, evaluator: Floats, budgets: Sequence[float]) -> Floats:
    """Return the evaluator's score of the image that the reward ranks best among those that a budget paid for.

    The first of equals is the best, as in a search; an image that the reward could not score is ranked below all that
    it could. A search that ended early keeps its answer.

    Args:
        spent: (T, N) what each image's search had spent when it was made, rising along a row; inf past the row's end.
        reward: (T, N) what the search saw; NaN for unscored.
        evaluator: (T, N) in [0, 1]; NaN for unscored.
        budgets: B of them, in the unit of `spent`.

    Returns:
        (T, B); NaN where a budget paid for no image, or the evaluator could not score the answer.
    """
    made = np.isfinite(spent)
    rank = np.where(made, np.where(np.isnan(reward), -1.0, reward), -np.inf)  # (T, N)
    highest = np.maximum.accumulate(rank, axis=1)
    record = np.concatenate([np.ones_like(made[:, :1]), highest[:, 1:] > highest[:, :-1]], axis=1)
    places: NDArray[np.intp] = np.arange(spent.shape[1], dtype=np.intp)
    best = np.maximum.accumulate(np.where(record, places, 0), axis=1)  # (T, N) place of the best so far
    paid = (spent[:, None, :] <= np.asarray(budgets, dtype=float)[:, None] + _ROUNDING).sum(axis=2)  # (T, B) images
    place = np.take_along_axis(best, np.maximum(paid - 1, 0), axis=1)
    return np.where(paid > 0, np.take_along_axis(evaluator, place, axis=1), np.nan)


def expected_best(reward: Floats, evaluator: Floats, sizes: Sequence[int]) -> Floats:
    """Best of n, cut from a pool of N drawings: the mean of the answer over all subsets of n, without bias.

    For pools whose drawings can change places: independent draws from one text, none left out by an early stop. The
    chance that a subset's best lies at rank i (from 0) of the pool is C(N-1-i, n-1) / C(N, n); drawings of equal
    reward share their chances, as the first of equals in a random order does. The estimator is that of "pass@k"
    (arXiv 2107.03374, section 2.1), with a reward choosing and an evaluator scoring.

    Args:
        reward: (T, N); NaN for unscored, ranked last.
        evaluator: (T, N); NaN for unscored, left out of its group of equals.
        sizes: B of them, each in [1, N].

    Returns:
        (T, B); NaN where a size exceeds N, or a group that may win has no score.
    """
    searches, many = reward.shape
    rank = np.where(np.isnan(reward), -1.0, reward)
    order = np.argsort(-rank, axis=1, kind="stable")
    rank, evaluator = np.take_along_axis(rank, order, axis=1), np.take_along_axis(evaluator, order, axis=1)
    scores = np.empty((searches, many))
    for row in range(searches):
        _, group = np.unique(-rank[row], return_inverse=True)
        scored = ~np.isnan(evaluator[row])
        counts = np.bincount(group, scored)
        sums = np.bincount(group, np.where(scored, evaluator[row], 0.0))
        scores[row] = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)[group]
    chances = np.array([[_chance_of_best(i, size, many) for size in sizes] for i in range(many)])  # (N, B)
    found = np.where(np.isnan(scores), 0.0, scores) @ chances
    unknown = np.isnan(scores).astype(float) @ chances
    possible = np.array([1 <= size <= many for size in sizes])
    return np.where((unknown == 0) & possible, found, np.nan)


def _chance_of_best(rank: int, size: int, many: int) -> float:
    """The chance that a subset of that size has its best drawing at that rank of the pool."""
    return math.comb(many - 1 - rank, size - 1) / math.comb(many, size) if 1 <= size <= many else 0.0


def mean_by_prompt(values: Floats, prompts: Sequence[str], names: Sequence[str]) -> Floats:
    """One row a prompt: the mean over its searches (several seeds, several images), so that each prompt counts once.

    Args:
        values: (T, B).
        prompts: T names.
        names: P different names, the rows of the result; values of other prompts are left out.

    Returns:
        (P, B); NaN where no search of the prompt has a value.
    """
    places = {name: place for place, name in enumerate(names)}
    rows = np.array([places.get(prompt, -1) for prompt in prompts], dtype=int)
    values, rows = values[rows >= 0], rows[rows >= 0]
    known = ~np.isnan(values)
    sums, counts = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(sums, rows, np.where(known, values, 0.0))
    np.add.at(counts, rows, known.astype(float))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def bootstrap(
    values: Floats,
    tags: Sequence[str],
    weights: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
) -> dict[str, list[Estimate]]:
    """Means and percentile intervals (95 %) by tag and overall; prompts are resampled within their tag.

    A prompt's several searches must be one row (`mean_by_prompt`), so that the resampled unit is the prompt. All
    columns share the resampled prompts. A tag whose prompts all have the same value has an interval of width zero: the
    bootstrap knows nothing of what the prompts did not show.

    Args:
        values: (P, B).
        tags: P of them.
        weights: How much each tag's mean counts in the overall mean, as the benchmark pools them; tags without values
            are left out and the other weights scaled up. None weighs a tag by its prompts: the plain mean.
        seed: Of the resampling.
        repeats: Resamples.

    Returns:
        B estimates for each tag, in order of appearance, and for `OVERALL`.
    """
    draw = np.random.default_rng(seed)
    strata = list(dict.fromkeys(tags))
    columns = values.shape[1]
    points, spreads = np.empty((len(strata), columns)), np.empty((len(strata), repeats, columns))
    counts = np.zeros((len(strata), columns))
    for place, tag in enumerate(strata):
        mine = values[[index for index, other in enumerate(tags) if other == tag]]  # (p, B)
        known = ~np.isnan(mine)
        counts[place] = known.sum(axis=0)
        filled = np.where(known, mine, 0.0)
        points[place] = _ratio(filled.sum(axis=0), counts[place])
        for start in range(0, repeats, _AT_ONCE):
            now = min(_AT_ONCE, repeats - start)
            times = draw.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=now).astype(float)  # (R, p)
            spreads[place, start : start + now] = _ratio(times @ filled, times @ known.astype(float))
    shares = counts if weights is None else np.array([[weights.get(tag, 0.0)] * columns for tag in strata])
    found = {tag: _estimates(points[i], spreads[i], counts[i]) for i, tag in enumerate(strata)}
    found[OVERALL] = _estimates(_pool(points, shares), _pool(spreads, shares[:, None]), counts.sum(axis=0))
    return found


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _pool(means: Floats, shares: Floats) -> Floats:
    """The weighted mean over the first axis, of those that have a value."""
    shares = np.where(np.isnan(means), 0.0, shares)
    return _ratio((np.where(np.isnan(means), 0.0, means) * shares).sum(axis=0), shares.sum(axis=0))


def _estimates(points: Floats, spread: Floats, counts: Floats) -> list[Estimate]:
    ends = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    found: list[Estimate] = []
    for column, (point, count) in enumerate(zip(points, counts, strict=True)):
        known = spread[:, column][~np.isnan(spread[:, column])]
        low, high = np.percentile(known, ends) if len(known) and not np.isnan(point) else (np.nan, np.nan)
        found.append(Estimate(float(point), float(low), float(high), int(count)))
    return found


def area(values: Floats) -> Floats:
    """The area under curves over log2 of the drawings spent, 1 to N, divided by its width log2 N.

    So it is a mean score, in the scores' own unit, in which each doubling of the budget counts the same. Between whole
    numbers of drawings the curve is a straight line on that axis.

    Args:
        values: (..., N) the value after 1, 2, ... N drawings, N at least 2.

    Returns:
        (...); NaN where a value is missing.
    """
    axis: Floats = np.log2(np.arange(1, values.shape[-1] + 1, dtype=float))
    return np.asarray(np.trapezoid(values, axis, axis=-1) / axis[-1], dtype=float)
