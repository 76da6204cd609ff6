"""The protocol of a reward, and how images are given to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from PIL import Image

from milr.types import Score, Task, Unscored

Scores = Callable[[], list[Score | Unscored]]
"""Wait for the scores that were begun: one per image, in order."""


class Reward(Protocol):
    """A function from images and tasks to scores, batch in, batch out."""

    name: str
    """Name and versions, as in every score: "icons@1/c745efbc" has those of its rules and of its weights."""
    stop_at: float
    """The paper's stop value on the [0, 1] scale. A search goes by that of each score, which may differ by task."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order. What cannot be scored is `Unscored`, never an exception or a zero."""
        ...


@runtime_checkable
class WaitingReward(Protocol):
    """A reward that mostly waits for others, so that drawing can go on meanwhile."""

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Start scoring; the call that is returned waits for the end."""
        ...


def start_scoring(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
    """Start scoring if the reward waits for others, else score now."""
    if isinstance(reward, WaitingReward):
        return reward.begin(images, tasks)
    now = reward(images, tasks)
    return lambda: now


def begin_scoring(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
    """Start scoring; what could not be scored is tried once more, unless its reason is final. Both tries cost."""
    wait = start_scoring(reward, images, tasks)

    def finish() -> list[Score | Unscored]:
        scores = list(wait())
        again = [i for i, score in enumerate(scores) if isinstance(score, Unscored) and not score.final]
        if again:
            for i, score in zip(again, reward([images[i] for i in again], [tasks[i] for i in again]), strict=True):
                scores[i] = replace(score, cost=scores[i].cost + score.cost)
        return scores

    return finish
