"""What stands in a run's files. The writer fills these in, the reader checks what it finds against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from milr.config import SearchConfig
from milr.types import Reasoning, Score, StepRecord, Task, Unscored

FORMAT = 1
"""The layout's version; a reader refuses what it does not know."""

Status = Literal["running", "finished", "interrupted", "failed"]


class Manifest(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    format: Literal[1] = FORMAT
    status: Status = "running"
    """What a killed run says for ever is "running"."""
    error: str | None = None
    """Why the run failed."""
    model: str
    model_folder: str | None = None
    device: str
    dtype: str | None = None
    """None: the model's own."""
    reward: str
    """Name with version."""
    panel: tuple[str, ...] = ()
    """The rewards that were only watched."""
    judges: dict[str, str | int] | None = None
    """What judges behind an API cost: url, calls, cached, tokens_in, tokens_out; None where none was asked."""
    config: SearchConfig
    """The seed stands here."""
    tasks: tuple[Task, ...]
    versions: dict[str, str]
    """Of milr, python, torch, transformers."""
    platform: str
    started: datetime
    finished: datetime | None = None
    seconds: float = 0.0
    """Wall time from start to end."""
    tasks_finished: int = 0
    drawings: float = 0
    """Of all tasks, unfinished ones too."""
    tokens: int = 0
    """Sampled, text and image, of all tasks."""


class StoredDrawing(BaseModel):
    """A drawing whose picture is a file."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    tokens: tuple[int, ...]
    picture: str
    """Path from the task's folder."""


class StoredStep(BaseModel):
    """One line of `records.jsonl`: a `StepRecord`, field by field, with pictures as paths."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    task: Task
    index: int
    step: int
    moved: tuple[str, ...]
    reasoning: Reasoning
    drawings: tuple[StoredDrawing, ...]
    scores: tuple[Score | Unscored, ...]
    best: StoredDrawing
    best_score: Score | Unscored
    best_step: int
    text_latents: int
    image_latents: int
    flipped_text: int
    flipped_image: int
    text_shift: float
    image_shift: float
    log_probability: float | None
    drawings_spent: float
    tokens_spent: int
    reward_calls: int = Field(default_factory=lambda before: before["drawings_spent"])
    """Runs of before this was counted asked once a drawing."""
    seconds: float
    finished: Literal["met", "out of steps", "unscored"] | None
    notes: tuple[str, ...] = ()
    panel_first: dict[str, Score | Unscored] = {}
    panel_best: dict[str, Score | Unscored] = {}

    @classmethod
    def of(cls, record: StepRecord, pictures: Sequence[str], best: str) -> StoredStep:
        """The record with its pictures' paths in their place: one a drawing, and the best one's."""
        values: dict[str, object] = {field.name: getattr(record, field.name) for field in fields(record)}
        values["drawings"] = tuple(
            StoredDrawing(tokens=drawing.tokens, picture=picture)
            for drawing, picture in zip(record.drawings, pictures, strict=True)
        )
        values["best"] = StoredDrawing(tokens=record.best.tokens, picture=best)
        return cls.model_validate(values)


def dump(model: BaseModel, indent: int | None = None) -> bytes:
    """JSON. A reward's evidence may hold anything: arrays become lists, the rest its text."""
    return to_json(model, indent=indent, by_alias=True, fallback=_plain)


def _plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
