"""Descriptions of steps for clients, from the lines of the run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from milr.files import PART
from milr.runs import StoredStep
from milr.runs.layout import name_task
from milr.types import LatentTrace, Score, Task, Unscored

Place = tuple[int, int]
"""Index of the search's task, and number of the task's image."""


def find_task(folder: Path, task: Task, place: Place) -> Path:
    """Return the folder of one image of a task; it has another name until the image is finished."""
    whole = folder / "tasks" / name_task(place[0], task, place[1])
    return whole if whole.is_dir() else whole.with_name(whole.name + PART)


def name_place(step: StoredStep) -> str:
    """Return the facts that identify a step within its search."""
    return f"{step.index}/{step.image}/{step.step}"


def find_best(step: StoredStep) -> tuple[int, int]:
    """Return step and number of the best image so far."""
    at, _, number = Path(step.best.file).stem.partition("-")
    return int(at), int(number)


def link_image(search: str, place: Place, step: int, number: int) -> str:
    """Return the path of an image on this server."""
    return f"/v1/searches/{search}/images/{place[0]}/{place[1]}/{step}/{number}"


def describe_step(search: str, step: StoredStep) -> dict[str, Any]:
    """Return a step as plain data."""
    place = step.index, step.image
    best_step, best_number = find_best(step)
    return {
        "task": step.index,
        "image": step.image,
        "step": step.step,
        "prompt": step.task.shown,
        "text": step.reasoning.text,
        "images": [
            {"url": link_image(search, place, step.step, number), **describe_score(score)}
            for number, score in enumerate(step.scores)
        ],
        "best": {
            "step": best_step,
            "number": best_number,
            "url": link_image(search, place, best_step, best_number),
            **describe_score(step.best_score),
        },
        "drawings": step.drawings_spent,
        "tokens": step.tokens_spent,
        "reward_calls": step.reward_calls,
        "seconds": round(step.seconds, 3),
        "finished": step.finished,
        "trace": None if step.trace is None else _describe_trace(step.trace),
        "panel": {
            name: {"first": _value(step.panel_first.get(name)), "best": _value(seen)}
            for name, seen in step.panel_best.items()
        },
        "notes": list(step.notes),
    }


def _describe_trace(trace: LatentTrace) -> dict[str, Any]:
    """Return the latents' changes; numbers that a compacted run no longer has are null."""
    plain = vars(trace) | {"moved": list(trace.moved), "text_shifts": [list(one) for one in trace.text_shifts]}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()
    }


def describe_score(score: Score | Unscored) -> dict[str, Any]:
    """Return a verdict: value, reason, conditions, and boxes of the objects found."""
    if isinstance(score, Unscored):
        return {"reward": None, "explanation": score.reason, "conditions": {}, "boxes": []}
    return {
        "reward": score.value,
        "explanation": score.explanation,
        "conditions": dict(score.parts),
        "boxes": [
            {"name": one.name, "box": list(one.box), "confidence": one.confidence, "color": one.color}
            for one in score.regions
        ],
    }


def _value(score: Score | Unscored | None) -> float | None:
    return score.value if isinstance(score, Score) else None
