"""One drawing a task, `config.steps` whatever it says: the paper's two baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milr.config import SearchConfig
from milr.methods.runner import Row, Script, run_scripts
from milr.models.base import Model
from milr.rewards.base import Reward
from milr.types import StepRecord, Task


def one_shot(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """Draw from the prompt alone: what the model does without test-time compute."""
    return run_scripts(_from_prompt, tasks, model, reward, config)


def text_reasoning(tasks: Sequence[Task], model: Model, reward: Reward, config: SearchConfig) -> Iterator[StepRecord]:
    """Draw after the model's greedy text: the paper's "Text Enhanced Reasoning", and where a search begins."""
    return run_scripts(_from_text, tasks, model, reward, config)


def _from_prompt(row: Row) -> Script:
    yield from row.draw()


def _from_text(row: Row) -> Script:
    yield from row.think()
    yield from row.draw()
