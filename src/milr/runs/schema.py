"""What stands in a run's files. The writer fills these in, the reader checks what it finds against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class Session(BaseModel):
    """One process that worked on the run: the first, and one each time it was resumed."""

    model_config = ConfigDict(frozen=True)

    host: str
    process: int
    """Its number on that host."""
    started: datetime
    machine: dict[str, str | int]
    """platform, processor, cpus, and what else whoever ran it told (threads, accelerator)."""
    versions: dict[str, str]
    """Of milr, python, torch, transformers."""
    status: Status = "running"
    """What a killed session says for ever is "running"."""
    error: str | None = None
    seconds: float = 0.0
    """Wall time, until the last task that finished where the session was killed."""
    drawings: float = 0
    """All that were made, those of tasks that did not finish too."""
    tokens: int = 0
    reward_calls: int = 0
    judged: int = 0
    """Pictures that the judge was shown."""
    judge_seconds: float = 0.0
    """Of the wall time, what the judge took."""
    judges: dict[str, str | int] | None = None
    """What judges behind an API cost: url, calls, cached, tokens_in, tokens_out; None where none was asked."""


class Manifest(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    format: Literal[1] = FORMAT
    status: Status = "running"
    """What a killed run says for ever is "running"."""
    error: str | None = None
    """Why the run failed."""
    method: str = "milr"
    """A name of `milr.methods.METHODS`."""
    benchmark: str | None = None
    """A name of `milr.benchmarks.BENCHMARKS`; None where the prompts were somebody's own."""
    data: str | None = None
    """The folder that the benchmark's prompts were read from; None where they come with the package."""
    places: tuple[int, ...] | None = None
    """Each task's place, from 0, in the benchmark's whole list; what official layouts number pictures by."""
    shard: str | None = None
    """"2/3": the second of three runs that share the tasks between them."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Image n of a prompt is what the seed `config.seed` + n gives."""
    model: str
    model_asked: str | None = None
    """The name or folder that was asked for: what resuming loads again. The same of reward and judge."""
    model_folder: str | None = None
    device: str
    dtype: str | None = None
    """None: the model's own."""
    profile: str | None = None
    """How the model was spoken to; None: as its checkpoint says."""
    reward: str
    """Name with version."""
    reward_asked: str | None = None
    judge: str | None = None
    """The reward that gives the headline numbers, name with version; None where none was asked to."""
    judge_asked: str | None = None
    panel: tuple[str, ...] = ()
    """The rewards that were only watched."""
    judges: dict[str, str | int] | None = None
    """What judges behind an API cost: url, calls, cached, tokens_in, tokens_out; None where none was asked."""
    config: SearchConfig
    """The seed stands here."""
    deterministic: bool = False
    """Whether a task's pictures do not hang on its neighbours in the batch, so that resuming changes nothing."""
    tasks: tuple[Task, ...]
    versions: dict[str, str]
    """Of milr, python, torch, transformers, when the run began."""
    platform: str
    started: datetime
    finished: datetime | None = None
    sessions: tuple[Session, ...] = ()
    """Oldest first; the sums of what they spent stand below."""
    seconds: float = 0.0
    """Wall time of all sessions."""
    tasks_finished: int = 0
    """Of `tasks` times `images_per_prompt`."""
    drawings: float = 0
    """Of all tasks, unfinished ones and those that a kill lost too."""
    tokens: int = 0
    """Sampled, text and image, of all tasks."""
    reward_calls: int = 0
    judged: int = 0
    judge_seconds: float = 0.0


class StoredImage(BaseModel):
    """A drawing whose picture is a file."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    tokens: tuple[int, ...]
    picture: str
    """Path from the task's folder."""


class EvaluatedImage(BaseModel):
    """One line of `judged.jsonl`: what the judge says of one drawing. A line a picture, in the order of drawing."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    step: int
    number: int
    """Of the step's drawings, from 0."""
    score: Score | Unscored


class StoredStep(BaseModel):
    """One line of `records.jsonl`: a `StepRecord`, field by field, with pictures as paths."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    task: Task
    index: int
    image: int = 0
    """Which of the prompt's images this is part of, from 0; the one field that a record does not have."""
    step: int
    moved: tuple[str, ...]
    reasoning: Reasoning
    drawings: tuple[StoredImage, ...]
    scores: tuple[Score | Unscored, ...]
    best: StoredImage
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
    reward_calls: int = Field(default_factory=lambda before: int(before["drawings_spent"]))
    """Runs of before this was counted asked once a drawing."""
    seconds: float
    finished: Literal["met", "out of steps", "unscored"] | None
    notes: tuple[str, ...] = ()
    panel_first: dict[str, Score | Unscored] = {}
    panel_best: dict[str, Score | Unscored] = {}

    @classmethod
    def of(cls, record: StepRecord, pictures: Sequence[str], best: str, image: int = 0) -> StoredStep:
        """The record with its pictures' paths in their place: one a drawing, and the best one's."""
        values: dict[str, object] = {field.name: getattr(record, field.name) for field in fields(record)}
        values["image"] = image
        values["drawings"] = tuple(
            StoredImage(tokens=drawing.tokens, picture=picture)
            for drawing, picture in zip(record.drawings, pictures, strict=True)
        )
        values["best"] = StoredImage(tokens=record.best.tokens, picture=best)
        return cls.model_validate(values)


def dump(model: BaseModel, indent: int | None = None) -> bytes:
    """JSON. A reward's evidence may hold anything: arrays become lists, the rest its text."""
    return to_json(model, indent=indent, by_alias=True, fallback=_plain)


def dump_lines(models: Iterable[BaseModel]) -> bytes:
    """One JSON object a line."""
    return b"".join(dump(model) + b"\n" for model in models)


def _plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
