"""Statistics: answers at a budget of drawings, and their means, paired differences and areas, with intervals.

Shapes: T searches, P prompts, N drawings, B columns (budgets, or others). NaN means "no value", as `Unscored` does
elsewhere: it is left out, never counted as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from milr.benchmarks.intervals import Estimate, estimate_difference, estimate_mean, pool

Floats = NDArray[np.float64]

OVERALL = "overall"
_ROUNDING = 1e-9  # sums of fractions of drawings may be slightly off whole numbers


def answers(spent: Floats, rank: Floats, evaluator: Floats, budgets: Sequence[float]) -> Floats:
    """Return the evaluator's score of the image that the reward ranks best among those within a budget.

    The first one of equal rank is the best; an unscored image ranks below all scored ones. A search that
    ended early keeps its answer.

    Args:
        spent: (T, N) drawings spent when each image was made, increasing along a row; inf beyond the row's end.
        rank: (T, N) the images' ranks by the reward, at least 0, the higher the better; NaN for unscored.
        evaluator: (T, N) in [0, 1]; NaN for unscored.
        budgets: B of them, in the unit of `spent`.

    Returns:
        (T, B); NaN if a budget is too small for an image, or the answer is unscored.
    """
    made = np.isfinite(spent)
    ranks = np.where(made, np.where(np.isnan(rank), -1.0, rank), -np.inf)  # (T, N)
    highest = np.maximum.accumulate(ranks, axis=1)
    record = np.concatenate([np.ones_like(made[:, :1]), highest[:, 1:] > highest[:, :-1]], axis=1)
    places: NDArray[np.intp] = np.arange(spent.shape[1], dtype=np.intp)
    best = np.maximum.accumulate(np.where(record, places, 0), axis=1)  # (T, N) index of the best so far
    paid = (spent[:, None, :] <= np.asarray(budgets, dtype=float)[:, None] + _ROUNDING).sum(axis=2)  # (T, B) images
    place = np.take_along_axis(best, np.maximum(paid - 1, 0), axis=1)
    return np.where(paid > 0, np.take_along_axis(evaluator, place, axis=1), np.nan)


def expected_best(reward: Floats, evaluator: Floats, sizes: Sequence[int]) -> Floats:
    """Return best of n from a pool of N drawings: the mean answer over all subsets of n, without bias.

    The pool's drawings must be exchangeable: independent, without early stops. The probability that a subset's best has
    rank i (from 0) in the pool is C(N-1-i, n-1) / C(N, n); drawings with equal rewards share their probabilities, as in
    a random order. The estimator is that of "pass@k" (arXiv 2107.03374, section 2.1), with a reward choosing and an
    evaluator scoring.

    Args:
        reward: (T, N); NaN for unscored, ranked last.
        evaluator: (T, N); NaN for unscored, left out of its group of equals.
        sizes: B of them, each in [1, N].

    Returns:
        (T, B); NaN if a size exceeds N, or a group that may win has no score.
    """
    searches, many = reward.shape
    ranks = np.where(np.isnan(reward), -1.0, reward)
    order = np.argsort(-ranks, axis=1, kind="stable")
    ranks, evaluator = np.take_along_axis(ranks, order, axis=1), np.take_along_axis(evaluator, order, axis=1)
    scores = np.empty((searches, many))
    for row in range(searches):
        _, group = np.unique(-ranks[row], return_inverse=True)
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
    """Return the probability that a subset of that size has its best drawing at that rank of the pool."""
    return math.comb(many - 1 - rank, size - 1) / math.comb(many, size) if 1 <= size <= many else 0.0


def mean_by_prompt(values: Floats, prompts: Sequence[str], names: Sequence[str]) -> Floats:
    """Return one row per prompt: the mean over its searches (seeds, images), so that each prompt counts once.

    Args:
        values: (T, B).
        prompts: T names.
        names: P different names, the rows of the result; values of other prompts are left out.

    Returns:
        (P, B); NaN if no search of the prompt has a value.
    """
    places = {name: place for place, name in enumerate(names)}
    rows = np.array([places.get(prompt, -1) for prompt in prompts], dtype=int)
    values, rows = values[rows >= 0], rows[rows >= 0]
    known = ~np.isnan(values)
    sums, counts = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(sums, rows, np.where(known, values, 0.0))
    np.add.at(counts, rows, known.astype(float))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def estimate(
    values: Floats,
    tags: Sequence[str],
    weights: Mapping[str, float] | None = None,
    *,
    paired: bool = False,
) -> dict[str, list[Estimate]]:
    """Return means and intervals (`milr.benchmarks.intervals`) by tag and overall, as in a benchmark's own table.

    A prompt's several searches must be one row (`mean_by_prompt`): the prompt is the unit.

    Args:
        values: (P, B).
        tags: P of them.
        weights: The benchmark's weights of the tags' means in the overall mean; tags without values are left out and
            the other weights scaled up. None weights a tag by its prompts, which gives the plain mean.
        paired: True if the values are differences in [-1, 1], not scores in [0, 1].

    Returns:
        B estimates for each tag, in order of appearance, and for `OVERALL`.
    """
    one = estimate_difference if paired else estimate_mean
    names = list(dict.fromkeys(tags))
    found: dict[str, list[Estimate]] = {name: [] for name in (*names, OVERALL)}
    for column in values.T:
        known = [(tag, float(value)) for tag, value in zip(tags, column, strict=True) if not math.isnan(value)]
        by_tag = [one([value for tag, value in known if tag == name]) for name in names]
        for name, estimated in zip(names, by_tag, strict=True):
            found[name].append(estimated)
        if weights is None:
            found[OVERALL].append(one([value for _, value in known]))
        else:
            found[OVERALL].append(pool(by_tag, [weights.get(name, 0.0) for name in names]))
    return found


def area(values: Floats) -> Floats:
    """Return the area under curves over log2 of the drawings spent, 1 to N, divided by log2 N.

    So it is a mean score, in the scores' own unit, in which each doubling of the budget counts the same. Between whole
    numbers of drawings the curve is a straight line on that axis.

    Args:
        values: (..., N) the value after 1, 2, ... N drawings, N at least 2.

    Returns:
        (...); NaN if a value is missing.
    """
    axis: Floats = np.log2(np.arange(1, values.shape[-1] + 1, dtype=float))
    return np.asarray(np.trapezoid(values, axis, axis=-1) / axis[-1], dtype=float)
