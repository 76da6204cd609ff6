"""Best of N: draw again and again, keep the best. N is K + 1, the drawings of a search of K steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milr.config import SearchConfig
from milr.methods.runner import Row, Script, run_scripts
from milr.models.base import Model
from milr.rewards.base import Reward
from milr.types import StepRecord, Task


def best_of_n(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """Draw up to K + 1 pictures a task, all from one greedy text.

    The first n drawings are the same whatever K is, and the same as those of a search without latents.
    """
    return run_scripts(_one_text, tasks, model, reward, config)


def best_of_n_sampled(
    tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig
) -> Iterator[StepRecord]:
    """Draw up to K + 1 pictures a task, each from a text of its own, sampled at temperature 1."""
    return run_scripts(_own_texts, tasks, model, reward, config)


def _one_text(row: Row) -> Script:
    yield from row.think()
    for _ in range(row.config.steps + 1):
        yield from row.draw()


def _own_texts(row: Row) -> Script:
    for _ in range(row.config.steps + 1):
        yield from row.think(sampled=True)
        yield from row.draw()
