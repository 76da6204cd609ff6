"""`milr` with a fake model and fake rewards: ``python -m tests.support.fake_benchmark benchmark icons ...``.

A program of its own, so that tests can kill it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from PIL import Image

from milr.cli.main import main
from milr.rewards.base import Reward
from milr.testing import FakeModel, FakeReward, brightness, read_tokens
from milr.types import Task


def parity(image: Image.Image, task: Task) -> float:
    """Another value than brightness, of the image alone."""
    return float(sum(read_tokens(image)) % 2)


def fakes(rewards: Mapping[str, Reward] | None = None) -> Any:
    """Put fakes in the place of the runner's loaders, and these rewards of theirs; a context manager."""

    def load_reward(name: str, **options: object) -> Reward:
        if rewards and name in rewards:
            return rewards[name]
        return FakeReward(parity if name == "icons" else brightness, name=f"{name}@1", stop_at=0.9)

    def load_model(*names: str, deterministic: bool = False, **options: object) -> FakeModel:
        model = FakeModel()
        model.deterministic = deterministic
        return model

    return patch.multiple("milr.jobs", load_model=load_model, load_reward=load_reward)


if __name__ == "__main__":
    with fakes():
        sys.exit(main())
