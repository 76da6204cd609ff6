"""A reward in a process of its own, for tests of reward workers: brightness, and where it was scored as evidence.

It is started as `milr serve-reward` is: ``python -m tests.support.served_reward --port 0 --attached``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from milr.methods import load_method
from milr.parts import Names, Parts
from milr.rewards import load_reward
from milr.rewards.vlm.client import VlmClient
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Score, Task, Unscored

LOADER = "tests.support.served_reward:load"


class Telling:
    """A reward whose evidence has the process and the GPUs that it may use, beside what the reward says."""

    def __init__(self, reward: Any, who: str) -> None:
        """Take the reward and the name of the process."""
        self._reward, self._who = reward, who
        self.name, self.stop_at = reward.name, reward.stop_at

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image."""
        own = {f"{self._who} gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""), f"{self._who} process": os.getpid()}
        return [
            replace(one, evidence={**one.evidence, **own}) if isinstance(one, Score) else one
            for one in self._reward(images, tasks)
        ]


def load(names: Names, placement: Any, vlm: VlmClient, *_: Any, deterministic: bool = True, **__: Any) -> Parts:
    """Return a worker's parts: a fake model, and the reward at its URLs."""
    model = FakeModel()
    model.deterministic = deterministic
    return Parts(model, Telling(load_reward(names.reward, vlm=vlm), "worker"), None, load_method(names.method))


def main() -> None:
    """Serve."""
    from milr.workers.reward_server import RewardServer, serve

    reward = Telling(FakeReward(brightness, name="icons@1", stop_at=0.99), "reward")
    serve(RewardServer(reward, "127.0.0.1", 0), attached=True)


if __name__ == "__main__":
    main()
