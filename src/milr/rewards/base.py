"""The protocol of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from milr.types import Score, Task, Unscored


class Reward(Protocol):
    """Scores pictures for tasks, batch in, batch out."""

    name: str
    """Name and version, as it stands in every score, for instance "icons@1"."""
    stop_at: float
    """The paper's stop value on the [0, 1] scale: a search stops when a value is strictly above it."""

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order. What cannot be scored is `Unscored`, never an exception or a zero."""
        ...
