"""Parts for workers in tests: a fake model, and rewards that kill their worker or break on some prompts."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from milr.methods import load_method
from milr.parts import Names, Parts
from milr.rewards.base import Reward
from milr.testing import FakeModel, FakeReward, brightness, read_tokens
from milr.types import Score, Task, Unscored

LOADER = "tests.support.worker_parts:load"


def parity(image: Image.Image, task: Task) -> float:
    """Another value than brightness, of the image alone."""
    return float(sum(read_tokens(image)) % 2)


class Perilous:
    """Brightness; but a prompt with "poison" kills the process, one with "fault" raises an error.

    A prompt with "once FILE" kills the process that scores its second image, unless the file is there already.
    """

    name, stop_at = "perilous@1", 0.99

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image."""
        for image, task in zip(images, tasks, strict=True):
            if "poison" in task.prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if "fault" in task.prompt:
                raise RuntimeError("a fault in the reward")
            if "once" in task.prompt:
                self._die_once(image, Path(task.prompt.split()[-1]))
        return FakeReward(brightness, name=self.name, stop_at=self.stop_at)(images, tasks)

    def _die_once(self, image: Image.Image, there: Path) -> None:
        seen = there.with_suffix(".seen")
        if there.exists():
            return
        if not seen.exists():
            seen.write_bytes(image.tobytes())
        elif seen.read_bytes() != image.tobytes():
            there.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def load(names: Names, *_: Any, deterministic: bool = True, **__: Any) -> Parts:
    """Return the parts; every name of a reward but that of `Perilous` is a fake one's."""
    model = FakeModel()
    model.deterministic = deterministic

    def make(name: str) -> Reward:
        if name.endswith(":Perilous"):
            return Perilous()
        return FakeReward(parity if name == "icons-judge" else brightness, name=f"{name}@1", stop_at=0.99)

    evaluator = None if names.evaluator is None else make(names.evaluator)
    panel = {name: make(name) for name in names.panel}
    return Parts(model, make(names.reward), evaluator, load_method(names.method), panel)
