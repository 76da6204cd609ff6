"""Combinations that no training data shows, beside all others of the same forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from milr.tasks import COLORS, OBJECT_NAMES, Phrase, parse_prompt, write_prompt
from milr.types import Task
from training.prompt_lists import read_held_out
from training.properties.shares import gap, share
from training.properties.studio import SEED, Studio


def ask_combinations(number: int) -> list[tuple[Task, bool, str]]:
    """Return tasks of one phrase, each with True if it is held out, and its form, color or count.

    There are so many of both sides, in equal forms: as many coloured ones as the held-out list has.
    """
    held_out = read_held_out()
    random = np.random.default_rng(SEED + 7)
    colors = [Phrase(name, 1, color) for color in COLORS for name in OBJECT_NAMES]
    counts = [Phrase(name, count, None) for count in (2, 3, 4) for name in OBJECT_NAMES]
    colored = round(number * len(held_out.colors) / (len(held_out.colors) + len(held_out.counts)))
    asked: list[tuple[Task, bool, str]] = []
    for unseen in (True, False):
        for form, phrases, many in (("color", colors, colored), ("count", counts, number - colored)):
            chosen = [phrase for phrase in phrases if held_out.holds([phrase]) is unseen]
            rounds = [chosen[i] for _ in range(-(-many // len(chosen))) for i in random.permutation(len(chosen))]
            asked += [(parse_prompt(write_prompt([phrase])), unseen, form) for phrase in rounds[:many]]
    return asked


def draw_combinations(studio: Studio, asked: Sequence[tuple[Task, bool, str]], label: str) -> list[dict[str, Any]]:
    """Draw each task once after its greedy text; return its side, its form and the verdict."""
    tasks = [task for task, _, _ in asked]
    drawn = studio.draw(tasks, studio.write(tasks), label)
    return [
        {"held out": unseen, "form": form, "right": drawing.right}
        for (_, unseen, form), drawing in zip(asked, drawn, strict=True)
    ]


def describe_combinations(drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares of both sides, all and by form, and their difference."""

    def select(unseen: bool, *forms: str) -> list[bool]:
        return [one["right"] for one in drawn if one["held out"] is unseen and one["form"] in forms]

    forms = ("color", "count")
    return {
        "held out minus others": gap(select(True, *forms), select(False, *forms)),
        **{
            title: {"all": share(select(unseen, *forms)), **{form: share(select(unseen, form)) for form in forms}}
            for title, unseen in (("held out", True), ("others", False))
        },
    }
