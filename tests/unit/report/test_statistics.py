"""Answers at a budget, best of n from a pool, estimates by tag, and areas, on hand-made cases."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.benchmarks.intervals import wilson
from milr.report.statistics import OVERALL, answers, area, estimate, expected_best, mean_by_prompt

NAN, INF = float("nan"), float("inf")
unit = st.floats(0, 1, allow_nan=False)
grades = st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN])


def test_the_answer_is_the_evaluators_score_of_the_first_image_that_the_reward_ranks_best() -> None:
    spent = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, INF, INF], [2.0, 4.0, INF, INF]])
    reward = np.array([[0.2, 0.7, 0.7, 0.5], [NAN, 1.0, NAN, NAN], [0.0, 0.1, NAN, NAN]])
    evaluator = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 1.0, NAN, NAN], [NAN, 0.9, NAN, NAN]])
    found = answers(spent, reward, evaluator, [1, 2, 3, 64])
    # Row 0: the second and third image are equal, so the second stays. Row 1: an unscored image is the
    # answer until another comes, and the answer of a search that ended stays. Row 2: nothing for one drawing.
    np.testing.assert_array_equal(found, [[0.1, 0.2, 0.2, 0.2], [0.5, 1.0, 1.0, 1.0], [NAN, NAN, NAN, 0.9]])


@given(st.lists(st.tuples(grades, grades), min_size=1, max_size=6), st.integers(1, 7))
def test_answers_agree_with_a_plain_loop(drawn: list[tuple[float, float]], budget: int) -> None:
    reward, evaluator = (np.array([values]) for values in zip(*drawn, strict=True))
    best, score = -2.0, NAN
    for seen, scored in drawn[:budget]:
        if (-1.0 if np.isnan(seen) else seen) > best:
            best, score = (-1.0 if np.isnan(seen) else seen), scored
    spent = np.arange(1.0, len(drawn) + 1)[None]
    np.testing.assert_array_equal(answers(spent, reward, evaluator, [budget]), [[score]])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), unit), min_size=1, max_size=6), st.data())
def test_best_of_n_from_a_pool_is_the_mean_over_all_subsets(
    drawn: list[tuple[float, float]], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(drawn)))
    means: list[float] = []
    for subset in combinations(drawn, size):
        top = max(reward for reward, _ in subset)
        means.append(
            float(np.mean([evaluator for reward, evaluator in subset if reward == top]))
        )  # any of equals may be first
    reward, evaluator = (np.array([values]) for values in zip(*drawn, strict=True))
    assert expected_best(reward, evaluator, [size])[0, 0] == pytest.approx(np.mean(means))


def test_best_of_n_from_a_pool_equals_values_computed_by_hand() -> None:
    # One correct drawing of four: a pair has it with probability 1/2. More than N drawings give no value.
    pool = np.array([[0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(expected_best(pool, pool, [1, 2, 4, 5]), [[0.25, 0.5, 1.0, NAN]])
    # A missing score that may be needed makes the answer unknown, not zero.
    np.testing.assert_allclose(expected_best(pool, np.array([[0.5, NAN, 0.5, 0.5]]), [1]), [[NAN]])


@given(st.permutations(range(5)))
def test_a_pools_value_is_independent_of_order(order: list[int]) -> None:
    reward = np.array([[0.1, 0.9, 0.9, 0.4, NAN]])
    evaluator = np.array([[0.3, 0.6, 0.2, 0.9, 0.5]])
    plain = expected_best(reward, evaluator, [1, 2, 3, 5])
    np.testing.assert_allclose(expected_best(reward[:, order], evaluator[:, order], [1, 2, 3, 5]), plain)


def test_each_prompt_counts_once_however_often_it_was_searched() -> None:
    values = np.array([[0.0], [1.0], [1.0], [NAN], [0.5]])
    found = mean_by_prompt(values, ["a", "b", "b", "b", "c"], ["b", "a", "d"])
    np.testing.assert_array_equal(found, [[1.0], [0.0], [NAN]])


def test_the_overall_mean_uses_the_given_weights_of_tags() -> None:
    values = np.array([[1.0], [1.0], [0.0], [0.0], [0.5], [NAN]])
    tags = ["x", "x", "x", "x", "y", "z"]
    equal = estimate(values, tags, {"x": 1, "y": 1, "z": 1})
    assert {tag: found[0].value for tag, found in equal.items() if tag != "z"} == {"x": 0.5, "y": 0.5, OVERALL: 0.5}
    assert np.isnan(equal["z"][0].value) and equal["z"][0].prompts == 0
    assert equal[OVERALL][0].prompts == 5
    assert estimate(values, tags, {"x": 3, "y": 1})[OVERALL][0].value == pytest.approx(0.5)
    more = np.array([[1.0], [1.0], [1.0], [0.0], [0.5]])
    assert estimate(more, tags[:5])[OVERALL][0].value == pytest.approx(3.5 / 5)  # the plain mean
    assert estimate(more, tags[:5], {"x": 1, "y": 1})[OVERALL][0].value == pytest.approx(0.625)


def test_scores_have_wilsons_interval_and_differences_their_own() -> None:
    values = np.array([[1.0, NAN], [1.0, 0.5], [1.0, NAN]])
    whole, part = estimate(values, ["x"] * 3)[OVERALL]
    assert (whole.low, whole.high, whole.prompts) == (*wilson(1, 3), 3) and part.prompts == 1
    assert (part.low, part.high) == wilson(0.5, 1)
    difference = estimate(values[:, :1], ["x"] * 3, paired=True)[OVERALL][0]
    assert difference.value == 1 and difference.low < 0


@given(st.lists(st.tuples(unit, st.sampled_from("xy")), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_prompts_changes_no_mean_and_each_interval_contains_its_mean(
    rows: list[tuple[float, str]], chooser
) -> None:  # type: ignore[no-untyped-def]
    def summarise(these: list[tuple[float, str]]):  # type: ignore[no-untyped-def]
        values = np.array([[value] for value, _ in these])
        return estimate(values, [tag for _, tag in these], {"x": 1, "y": 2})

    shuffled = list(rows)
    chooser.shuffle(shuffled)
    plain, other = summarise(rows), summarise(shuffled)
    for tag, (found,) in plain.items():
        assert other[tag][0].value == pytest.approx(found.value)
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
        assert found.low >= 0 and found.high <= 1


def test_areas_equal_values_computed_by_hand() -> None:
    # 0 after one drawing, 1 after two: a straight line. A constant curve has its own value. 1 from the third on:
    # on log2 the axis is 0, 1, 1.585, 2.
    np.testing.assert_allclose(area(np.array([[0.0, 1.0], [0.4, 0.4]])), [0.5, 0.4])
    third = (np.log2(3) - 1) / 2 + (2 - np.log2(3))
    np.testing.assert_allclose(area(np.array([0.0, 0.0, 1.0, 1.0])), third / 2)
    assert np.isnan(area(np.array([0.0, NAN])))
