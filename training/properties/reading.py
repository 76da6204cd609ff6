"""Texts alone: does the model know whether a text meets a prompt, and does its reasoning solve riddles?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from milr.models.janus import Janus
from milr.types import Task
from training.prompt_lists import read_riddles
from training.properties.shares import share, share_by
from training.properties.studio import ROWS, Studio
from training.text_checks import sample_check, text_question
from training.texts import names_what_is_asked, read_text
from training.world import World

TEXTS = 4  # sampled for each prompt


def check_own_texts(studio: Studio, world: World, number: int, label: str) -> list[dict[str, bool]]:
    """Ask whether sampled texts meet fresh prompts; return the truth and the answer for each text."""
    asked = [world.request() for _ in range(number)]
    tasks = [task for task in asked for _ in range(TEXTS)]
    texts = [text.text for text in studio.write(tasks, label)]
    pairs = list(dict.fromkeys(zip((task.prompt for task in tasks), texts, strict=True)))
    known = {task.prompt: task for task in tasks}
    truths = [names_what_is_asked(text, known[prompt]) for prompt, text in pairs]
    sure = ask_texts(studio.model, [text_question(*pair) for pair in pairs])
    return [{"truth": truth, "answer": yes > 0.5} for truth, yes in zip(truths, sure, strict=True)]


def check_made_texts(studio: Studio, world: World, number: int) -> list[dict[str, bool]]:
    """Ask about pairs as training makes them; return the truth and the answer for each."""
    pairs = [sample_check(world) for _ in range(number)]
    sure = ask_texts(studio.model, [text_question(prompt, text) for prompt, text, _ in pairs])
    return [{"truth": truth, "answer": yes > 0.5} for (_, _, truth), yes in zip(pairs, sure, strict=True)]


def describe_checks(answers: Sequence[dict[str, bool]]) -> dict[str, Any]:
    """Return the share of right answers, all and by truth, and the mean of both: 0.5 for a constant answer."""
    right = [one["truth"] == one["answer"] for one in answers]
    by_truth = share_by([("does not fit", "fits")[one["truth"]] for one in answers], right)
    values = [one["value"] for one in by_truth.values()]
    return {"all": share(right), **by_truth, "mean of both": round(sum(values) / max(1, len(values)), 4)}


@torch.inference_mode()
def ask_texts(model: Any, questions: Sequence[str]) -> list[float]:
    """Return p(yes) / (p(yes) + p(no)) of questions without an image, in the form that training gives them."""
    assert isinstance(model, Janus), "questions without an image are asked of the embedded model alone"
    yes, no = (model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
    sure: list[float] = []
    for start in range(0, len(questions), ROWS):
        asked = questions[start : start + ROWS]
        rows = [model.tokenizer(f"<|User|>: {one}\n\n<|Assistant|>:")["input_ids"] for one in asked]
        prefixes = model.engine.prefill_all(model.vqa.embed(rows))
        logits = model.text_head.logits(torch.stack([prefix.last for prefix in prefixes]))  # (n, V)
        sure += torch.sigmoid(logits[:, yes] - logits[:, no]).tolist()
    return sure


def solve_riddles(studio: Studio) -> list[dict[str, Any]]:
    """Write a greedy text for each riddle; return its split and kind, and True if the text names its object alone."""
    told = read_riddles()
    texts = studio.write([Task(prompt=riddle.text) for riddle in told])
    return [
        {"split": riddle.split, "kind": riddle.kind, "right": _names(text.text) == [riddle.name]}
        for riddle, text in zip(told, texts, strict=True)
    ]


def describe_riddles(solved: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of solved riddles by split, and by split and kind."""
    right = [one["right"] for one in solved]
    return share_by([one["split"] for one in solved], right) | share_by(
        [f"{one['split']}, {one['kind']}" for one in solved], right
    )


def _names(text: str) -> list[str]:
    read = read_text(text)
    return [item.name for item in read.items] if read else []
