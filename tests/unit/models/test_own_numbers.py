"""A search computes with milr's torch settings and leaves the caller's as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from milr.models.devices import own_numbers

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
