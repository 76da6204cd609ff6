"""How well the model plans: its greedy plans of fresh requests, read as scenes and judged by GenEval's rules.

A picture of this model shows its plan, so the plan alone tells whether a drawing will be right. A model that plans
without fault leaves a search nothing to do; how well it shall plan is a setting, and this is its measure
(docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import torch
from transformers import GenerationConfig, JanusForConditionalGeneration, PreTrainedTokenizerBase

from milr.rewards.geneval.rules import Detection, apply_rules
from milr.tasks import COLORS, OBJECT_NAMES
from milr.types import Task
from training.icons import GROUNDS
from training.scenes import PLACES, SIZES, TOKEN, Item, Scene, World, overlap

LONGEST = 64  # tokens of a plan
KINDS = ("count", "two", "colors", "relation", "three")
"""What requests ask: several of an object, two objects, two in colours, two in a relation, three. One alone is none."""


def read_plan(text: str) -> Scene | None:
    """The scene that a plan states (the inverse of `Scene.plan`), or None where it states none."""
    *said, ground = text.strip().removesuffix(" ground").split(", ")
    items = [_read_item(words) for words in said]
    if ground not in GROUNDS or not all(items):
        return None
    return Scene(tuple(item for item in items if item), ground)


def _read_item(words: str) -> Item | None:
    place, words = _take(words, PLACES)
    size, words = _take(words, SIZES)
    color, name = _take(words, COLORS)
    return Item(name, color, place, size) if place and size and name in OBJECT_NAMES else None


def _take(words: str, known: Iterable[str]) -> tuple[str | None, str]:
    """The longest of the known beginnings that is one, and the words behind it."""
    found = max((one for one in known if words.startswith(f"{one} ")), key=len, default=None)
    return found, words.removeprefix(f"{found} ") if found else words


def kind_of(task: Task) -> str | None:
    """One of `KINDS`, or None where one object is asked for."""
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
    """So many requests of each kind."""
    found: dict[str, list[Task]] = {kind: [] for kind in KINDS}
    while any(len(tasks) < number for tasks in found.values()):
        task = world.request()
        if kind := kind_of(task):
            found[kind].append(task)
    return {kind: tasks[:number] for kind, tasks in found.items()}


def fulfils(text: str, task: Task) -> bool:
    """Whether the scene that a plan states is what a task asks for, and has room for all of its objects."""
    scene = read_plan(text)
    if scene is None or any(overlap(a.box, b.box) for a, b in combinations(scene.items, 2)):
        return False
    seen: dict[str, list[Detection]] = {}
    for item in scene.items:
        top, left, bottom, right = (float(TOKEN * side) for side in item.box)
        seen.setdefault(item.name, []).append((left, top, right, bottom, 1.0, item.color))
    return apply_rules(seen, task).correct


@torch.inference_mode()
def write_plans(
    model: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Sequence[int]]
) -> list[str]:
    """The greedy plan of each question, all of them in one batch.

    Args:
        model: In training or not.
        tokenizer: The model's.
        questions: Token ids of each prompt that asks for a plan.
    """
    longest = max(map(len, questions))
    manner = GenerationConfig(
        do_sample=False,
        max_length=longest + LONGEST,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rows = [[manner.pad_token_id] * (longest - len(ids)) + list(ids) for ids in questions]  # padded on the left
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in questions]
    written = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        generation_config=manner,
        generation_mode="text",
    )
    return tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
