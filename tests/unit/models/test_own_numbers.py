"""A search computes with milr's torch settings and leaves the caller's as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from milr.models.devices import own_numbers
from milr.rewards.base import begin_scoring, make_reward
from milr.types import Score, Task, Unscored

conv: Any = torch.backends.cudnn.conv
matmul: Any = torch.backends.cuda.matmul


def settings() -> tuple[str, str, bool]:
    """Return the precision of convolutions and of products, and whether cuDNN's attention may be used."""
    return conv.fp32_precision, matmul.fp32_precision, torch.backends.cuda.cudnn_sdp_enabled()


@pytest.fixture
def theirs() -> Iterator[tuple[str, str, bool]]:
    """Let the calling program choose speed."""
    before = settings()
    conv.fp32_precision = matmul.fp32_precision = "tf32"
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield settings()
    conv.fp32_precision, matmul.fp32_precision = before[:2]
    torch.backends.cuda.enable_cudnn_sdp(before[2])


def test_cuda_settings_are_milrs_inside_and_the_callers_afterwards(theirs: tuple[str, str, bool]) -> None:
    assert theirs == ("tf32", "tf32", True)
    with pytest.raises(ZeroDivisionError), own_numbers():
        assert settings() == ("ieee", "ieee", False)
        raise ZeroDivisionError
    assert settings() == theirs


def test_of_several_threads_the_last_one_that_leaves_restores_the_callers(theirs: tuple[str, str, bool]) -> None:
    first, second = own_numbers(), own_numbers()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == ("ieee", "ieee", False)
    second.__exit__(None, None, None)
    assert settings() == theirs


def test_a_reward_computes_with_milrs_settings_outside_of_a_search_too(theirs: tuple[str, str, bool]) -> None:
    seen: list[tuple[str, str, bool]] = []

    def reward(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        seen.append(settings())
        return [Unscored("it was busy", "mine") if len(seen) == 1 else Score(1.0, "mine", 0.9) for _ in images]

    (score,) = begin_scoring(make_reward(reward), [Image.new("RGB", (8, 8))], [Task(prompt="two dogs")])()
    assert isinstance(score, Score), "the second try"
    assert seen == [("ieee", "ieee", False)] * 2
    assert settings() == theirs
