"""One drawing from the prompt alone, as the model does without test-time compute. The paper's baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milr.config import SearchConfig
from milr.methods.best_of_n import best_of_n
from milr.models.base import Model
from milr.rewards.base import Reward
from milr.types import StepRecord, Task


def one_shot(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """One picture a task, `config.steps` whatever it says; the first that `best_of_n` without a text draws."""
    return best_of_n(tasks, model, reward, config.model_copy(update={"steps": 0}), reason=False)
