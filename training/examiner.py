"""Examinations during training: the share of greedy texts that name what fresh requests ask for.

A model whose texts are never wrong leaves a search over texts nothing to do, and how good its texts are after a number
of steps is a matter of chance (docs/experiments.md). So the last phase of training ends when its texts are as good as a
setting says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, JanusForConditionalGeneration, PreTrainedTokenizerBase

from milr.types import Task
from training.feeder import Feeder
from training.optimiser import Masters
from training.texts import names_what_is_asked
from training.world import World

LONGEST = 72  # tokens of a text
KINDS = ("count", "two", "colors", "relation", "three")
"""Kinds of requests: several of an object, two objects, two in colours, two in a relation, three."""


class Examiner:
    """Ends a phase as soon as the greedy texts are as good as wanted; it examines the weights that would ship."""

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        masters: Masters,
        open_feeder: Callable[[int], Feeder],
        own: dict[str, Any],
    ) -> None:
        self.model, self.masters, self.open_feeder, self.own = model, masters, open_feeder, own
        self.right: dict[str, float] = {}
        """The last examination's shares, by kind."""

    def is_satisfied(self, step: int) -> bool:
        """Examine if it is this step's turn; return True if the mean of the kinds is as high as wanted."""
        every = self.own["examined_every"]
        if not every or step % every:
            return False
        with self.masters.averaged():
            self.right = self.examine(step)
        return sum(self.right.values()) / len(self.right) >= self.own["texts_wanted"]

    def examine(self, step: int) -> dict[str, float]:
        """Return by kind the share of requests whose greedy text names what they ask; they depend on the step alone."""
        feeder = self.open_feeder(step)
        asked = request_each_kind(feeder.world, self.own["examined"])
        questions = [feeder.ask(task) for tasks in asked.values() for task in tasks]
        texts = iter(write_texts(self.model, feeder.tokenizer, questions))
        return {
            kind: sum(names_what_is_asked(next(texts), task) for task in tasks) / len(tasks)
            for kind, tasks in asked.items()
        }


def kind_of(task: Task) -> str | None:
    """Return a request's kind, one of `KINDS`; None if it asks for one object."""
    many = len(task.include)
    if many > 2:
        return "three"
    if any(need.position for need in task.include):
        return "relation"
    if any(need.count > 1 for need in task.include):
        return "count"
    if many == 1:
        return None
    return "colors" if all(need.color for need in task.include) else "two"


def request_each_kind(world: World, number: int) -> dict[str, list[Task]]:
    """Return that many requests of each kind."""
    found: dict[str, list[Task]] = {kind: [] for kind in KINDS}
    while any(len(tasks) < number for tasks in found.values()):
        task = world.request()
        if kind := kind_of(task):
            found[kind].append(task)
    return {kind: tasks[:number] for kind, tasks in found.items()}


@torch.inference_mode()
def write_texts(
    model: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Sequence[int]]
) -> list[str]:
    """Return the greedy text of each question, written in one batch.

    Args:
        model: In training or not.
        tokenizer: The model's tokenizer.
        questions: Token ids of each prompt that asks for a text.
    """
    longest = max(map(len, questions))
    padding: int = tokenizer.pad_token_id  # type: ignore[assignment]
    config = GenerationConfig(
        do_sample=False,
        max_length=longest + LONGEST,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=padding,
    )
    rows = [[padding] * (longest - len(ids)) + list(ids) for ids in questions]  # padded on the left
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in questions]
    written: torch.Tensor = model.generate(  # type: ignore[assignment]
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),  # type: ignore[arg-type]
        generation_config=config,
        generation_mode="text",
    )
    return tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
