"""Lengths of tensors, and tensors to plain Python values, with the types that torch's own stubs leave open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch


def round_up(length: int, grain: int) -> int:
    """Return the smallest multiple of the grain that is not below a length."""
    return -(-length // grain) * grain


def to_integers(tensor: torch.Tensor) -> list[int]:
    """Return a one-dimensional integer tensor as a list."""
    return cast("list[int]", cast("Any", tensor).tolist())


def to_numbers(tensor: torch.Tensor) -> list[float]:
    """Return a one-dimensional float tensor as a list."""
    return cast("list[float]", cast("Any", tensor).tolist())


def to_rows(tensor: torch.Tensor) -> list[list[int]]:
    """Return a two-dimensional integer tensor as lists."""
    return cast("list[list[int]]", cast("Any", tensor).tolist())


def split_rows(tensor: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Split a tensor along its first axis into pieces of these lengths, as views."""
    return list(cast("Any", tensor).split(list(lengths)))
