"""First image tokens: the rest is redrawn after the beginning of a right and of a wrong drawing of the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milr.types import Reasoning, Task
from training.properties.pools import Pool
from training.properties.shares import difference, share
from training.properties.studio import Studio
from training.texts import names_what_is_asked
from training.world import World

REDRAWS = 4
_FRESH = (2, 2)  # drawings at once of a fresh text until one is right and one is wrong

Mixed = dict[str, Any]
"""prompt, text, and the tokens of a right and of a wrong drawing: ``right`` and ``wrong``."""


def take_mixed(pools: Sequence[Pool], tasks: Sequence[Task]) -> list[Mixed]:
    """Return the texts whose first drawings were right and wrong."""
    return [
        {"task": task.model_dump_json(by_alias=True), "text": pool.texts[0], "right": right, "wrong": wrong}
        for pool, task in zip(pools, tasks, strict=True)
        if pool.mixed
        for right, wrong in [(pool.right_tokens, pool.wrong_tokens)]
    ]


def draw_mixed(studio: Studio, world: World, number: int, label: str) -> list[Mixed]:
    """Draw from the model's own sampled texts of fresh prompts; return those with a right and a wrong drawing.

    Args:
        studio: The model with both detectors.
        world: The source of prompts.
        number: Number of prompts; texts that do not name what is asked are left out.
        label: Name of the random streams.
    """
    asked = [world.request() for _ in range(number)]
    written = studio.write(asked, label)
    named = [(t, w) for t, w in zip(asked, written, strict=True) if names_what_is_asked(w.text, t)]
    found: list[dict[bool, list[int]]] = [{} for _ in named]
    for turn, many in enumerate(_FRESH):
        rows = [row for row, seen in enumerate(found) if len(seen) < 2 for _ in range(many)]
        drawn = studio.draw([named[r][0] for r in rows], [named[r][1] for r in rows], f"{label} {turn}")
        for row, drawing in zip(rows, drawn, strict=True):
            found[row].setdefault(drawing.right, list(drawing.tokens))
    return [
        {"task": task.model_dump_json(by_alias=True), "text": text.text, "right": seen[True], "wrong": seen[False]}
        for (task, text), seen in zip(named, found, strict=True)
        if len(seen) == 2
    ]


def redraw(studio: Studio, mixed: Sequence[Mixed], kept: int, label: str) -> list[dict[str, list[bool]]]:
    """Redraw each text `REDRAWS` times after the first tokens of its right drawing and of its wrong one.

    Both sides have the same random numbers. Returns the verdicts by the drawing whose beginning was kept.
    """
    tasks = [Task.model_validate_json(one["task"]) for one in mixed for _ in range(REDRAWS)]
    texts = [Reasoning(one["text"], ()) for one in mixed for _ in range(REDRAWS)]
    verdicts: dict[str, list[bool]] = {}
    for side in ("right", "wrong"):
        starts = [one[side][:kept] for one in mixed for _ in range(REDRAWS)]
        verdicts[side] = [one.right for one in studio.draw(tasks, texts, label, starts=starts)]
    return [
        {side: right[start : start + REDRAWS] for side, right in verdicts.items()}
        for start in range(0, len(tasks), REDRAWS)
    ]


def describe_beginnings(redrawn: Sequence[dict[str, list[bool]]]) -> dict[str, Any]:
    """Return the share of right redrawings on both sides and their difference, with the text as the unit."""
    means = {side: [sum(one[side]) / len(one[side]) for one in redrawn] for side in ("right", "wrong")}
    return {
        "after the beginning of a right drawing": share(means["right"]),
        "after the beginning of a wrong drawing": share(means["wrong"]),
        "difference": difference([a - b for a, b in zip(means["right"], means["wrong"], strict=True)]),
        "redraws a side": REDRAWS,
    }
