"""A reward whose name contains the device on which it must compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from PIL import Image

from milr.rewards import REWARDS
from milr.rewards.needs import RewardEntry
from milr.types import Score, Task, Unscored


class Placed:
    """A reward that has networks and loads none of them."""

    stop_at = 0.9

    def __init__(self, *, device: str = "cpu", dtype: str | None = None, self_test: bool = True) -> None:
        self.name = f"placed@1/{device}/{dtype}"

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        return [Score(0.5, self.name, self.stop_at) for _ in images]


def add_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `placed` as a reward's name."""
    entry = RewardEntry(f"{__name__}:Placed", "says where it computes")
    monkeypatch.setitem(cast("dict[str, RewardEntry]", REWARDS), "placed", entry)
