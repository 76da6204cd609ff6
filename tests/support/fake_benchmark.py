"""`milr` with a fake model and fake rewards: ``python -m tests.support.fake_benchmark benchmark icons ...``.

It is a separate program, so that tests can kill it.
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
    """A reward that differs from brightness and depends on the image only."""
    return float(sum(read_tokens(image)) % 2)


def fakes(rewards: Mapping[str, Reward] | None = None) -> Any:
    """Replace the runner's loaders by fakes with these rewards; a context manager."""

    def load_reward(name: str, **options: object) -> Reward:
        if rewards and name in rewards:
            return rewards[name]
        return FakeReward(parity if name == "icons" else brightness, name=f"{name}@1", stop_at=0.9)

    def load_model(*names: str, deterministic: bool = False, **options: object) -> FakeModel:
        model = FakeModel()
        model.deterministic = deterministic
        return model

    return patch.multiple("milr.parts", load_model=load_model, load_reward=load_reward)


if __name__ == "__main__":
    with fakes():
        sys.exit(main())
