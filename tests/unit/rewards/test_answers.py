"""Rewards in all allowed forms, their allowed results, and the errors for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from milr.errors import UsageError
from milr.rewards.base import RewardError, Scores, begin_scoring, check_scores, make_reward, start_scoring
from milr.testing import FakeReward
from milr.types import Score, Task, Unscored

FAKE = FakeReward(stop_at=0.75)
IMAGES, TASKS = [Image.new("RGB", (4, 4))] * 2, [Task(prompt="a dog")] * 2
HALF = Score(0.5, FAKE.name, 0.75)
KEPT, LOST = Score(0.5, "other", 0.1), Unscored("fog", "other")


def two_halves() -> Iterator[float]:
    yield from (0.5, 0.5)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([0.5, HALF], [HALF, HALF]),
        ((KEPT, LOST), [KEPT, LOST]),
        (two_halves(), [HALF, HALF]),
        (np.array([0.5, 0.5], dtype=np.float32), [HALF, HALF]),
        (torch.tensor([0.5, 0.5]), [HALF, HALF]),
        ([torch.tensor([0.5]), np.float16(0.5)], [HALF, HALF]),
        ([True, 0], [Score(1.0, FAKE.name, 0.75), Score(0.0, FAKE.name, 0.75)]),
    ],
    ids=["numbers", "scores", "iterator", "numpy", "torch", "elements", "booleans"],
)
def test_numbers_are_scores(found: object, expected: list[Score | Unscored]) -> None:
    assert check_scores(FAKE, found, 2) == expected


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "returned None: return a list, one score per image"),
        (0.5, "returned 0.5 (float): return a list"),
        (torch.tensor(0.5), "returned tensor(0.5000) (Tensor): return a list"),
        ("0.5", "returned '0.5' (str): return a list"),
        ({"a": 0.5, "b": 0.5}, "(dict): return a list"),
        ([0.5], "returned 1 scores for 2 images: return one per image"),
        ([0.5] * 3, "returned 3 scores for 2 images"),
        ([], "returned 0 scores for 2 images"),
        ([None, 0.5], "returned None for an image: return a number in [0, 1]"),
        (["0.5", 0.5], "returned '0.5' (str) for an image"),
        ([[0.5, 0.5], 0.5], "returned [0.5, 0.5] (list) for an image"),
        ([torch.ones(2), 0.5], "returned tensor([1., 1.]) (Tensor) for an image"),
        ([math.nan, 0.5], "returned nan for an image: a score is in [0, 1]; return milr.Unscored(reason, name)"),
        ([7.5, 0.5], "returned 7.5 for an image: a score is in [0, 1]"),
        ([-0.1, 0.5], "returned -0.1 for an image"),
        ([math.inf, 0.5], "returned inf for an image"),
    ],
)
def test_everything_else_is_refused_in_one_line(found: object, said: str) -> None:
    with pytest.raises(RewardError) as caught:
        check_scores(FAKE, found, 2)
    assert str(caught.value).startswith(f"the reward {FAKE.name!r} returned ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


class Waiting(FakeReward):
    """A reward that waits and then returns prepared results."""

    def __init__(self, answers: list[list[object]]) -> None:
        super().__init__()
        self.answers = answers

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        return self.begin(images, tasks)()

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        return lambda: self.answers.pop(0)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("begin", [start_scoring, begin_scoring])
def test_rewards_that_wait_keep_the_same_contract(begin: Callable[..., Scores]) -> None:
    wait = begin(Waiting([[0.5]]), IMAGES, TASKS)
    with pytest.raises(RewardError, match="returned 1 scores for 2 images"):
        wait()
    assert [one.value for one in begin(Waiting([[0.5, 1.0]]), IMAGES, TASKS)() if isinstance(one, Score)] == [0.5, 1.0]


def test_a_second_try_must_pass_the_same_checks() -> None:
    with pytest.raises(RewardError, match="returned 2 scores for 1 images"):
        begin_scoring(Waiting([[0.5, LOST], [0.5, 0.5]]), IMAGES, TASKS)()


def brightness(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
    return [0.25 for _ in images]


def test_a_function_is_a_reward_of_its_name() -> None:
    reward = make_reward(brightness)
    assert (reward.name, reward.stop_at) == ("brightness", 0.9)
    assert reward(IMAGES, TASKS) == [Score(0.25, "brightness", 0.9)] * 2
    assert make_reward(FAKE) is FAKE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FakeReward, "the reward FakeReward is a class: give an object of it, FakeReward(...)"),
        (0.5, "0.5 (float) is no reward: give a name, or a function of images and tasks"),
        (None, "None (NoneType) is no reward"),
    ],
)
def test_objects_that_are_not_rewards_are_refused(given: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_reward(given)  # pyright: ignore[reportArgumentType]
    assert str(caught.value).startswith(said)
