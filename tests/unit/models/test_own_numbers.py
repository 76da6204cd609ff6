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


def choose_older() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")


def choose_newer() -> None:
    conv.fp32_precision = matmul.fp32_precision = "tf32"


def choose_newest() -> None:
    everything: Any = torch.backends
    everything.fp32_precision = "tf32"
    conv.fp32_precision = matmul.fp32_precision = "none"  # as the setting for everything says


@pytest.fixture(params=[choose_older, choose_newer, choose_newest])
def theirs(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, bool]]:
    """Let the calling program choose speed, by one of torch's ways."""
    everything: Any = torch.backends
    request.param()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield settings()
    everything.fp32_precision = matmul.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("highest")


def exact() -> bool:
    """Return true if no convolution and no product is computed in TF32, and cuDNN's attention is not used."""
    return "tf32" not in settings() and not torch.backends.cuda.cudnn_sdp_enabled()


def test_torchs_own_context_of_cudnn_works_inside() -> None:
    """It reads the older settings, which torch refuses if only the newer ones were changed."""
    with own_numbers(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert exact()
    with torch.backends.cudnn.flags(enabled=True):
        pass


def test_cuda_settings_are_milrs_inside_and_the_callers_afterwards(theirs: tuple[str, str, bool]) -> None:
    assert theirs == ("tf32", "tf32", True)
    with pytest.raises(ZeroDivisionError), own_numbers():
        assert exact()
        raise ZeroDivisionError
    assert settings() == theirs


def test_of_several_threads_the_last_one_that_leaves_restores_the_callers(theirs: tuple[str, str, bool]) -> None:
    first, second = own_numbers(), own_numbers()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert exact()
    second.__exit__(None, None, None)
    assert settings() == theirs


def test_a_reward_computes_with_milrs_settings_outside_of_a_search_too(theirs: tuple[str, str, bool]) -> None:
    seen: list[bool] = []

    def reward(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        seen.append(exact())
        return [Unscored("it was busy", "mine") if len(seen) == 1 else Score(1.0, "mine", 0.9) for _ in images]

    (score,) = begin_scoring(make_reward(reward), [Image.new("RGB", (8, 8))], [Task(prompt="two dogs")])()
    assert isinstance(score, Score), "the second try"
    assert seen == [True] * 2
    assert settings() == theirs
