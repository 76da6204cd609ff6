"""The contents of a run's files, format 2. The writer fills these in, the reader checks what it finds against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from milr.settings import Settings
from milr.types import Finished, LatentTrace, Reasoning, Score, StepRecord, Task, Unscored

FORMAT = 2
"""The layout's version. `milr.runs.upgrade` reads format 1."""

Status = Literal["running", "finished", "stopped", "interrupted", "failed"]
"""A killed run stays "running". "stopped": a limit of the whole run was reached before all tasks had finished."""

Usage = dict[str, str | int | float]
"""What VLM judges cost: url, calls, cached, tokens_in, tokens_out and, where a price is known, cost."""


class Session(BaseModel):
    """One process that worked on the run: the first, and one each time it was resumed."""

    model_config = ConfigDict(frozen=True)

    host: str
    process: int
    """The process id on that host."""
    started: datetime
    machine: dict[str, str | int]
    """platform, processor, cpus, and what the caller added (threads, accelerator)."""
    versions: dict[str, str]
    """Of milr, python, torch, transformers."""
    status: Status = "running"
    error: str | None = None
    seconds: float = 0.0
    """Wall time; of a killed session, until its last task that finished."""
    drawings: float = 0
    """All that were made, those of tasks that did not finish too."""
    tokens: int = 0
    reward_calls: int = 0
    evaluated: int = 0
    """Images that the evaluator was shown."""
    evaluator_seconds: float = 0.0
    """The evaluator's share of the wall time."""
    cost: float = 0.0
    """US dollars that reward and evaluator cost at paid VLM judges."""
    vlm_usage: Usage | None = None
    """None if no VLM judge was asked."""


class Manifest(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    format: Literal[2] = FORMAT
    status: Status = "running"
    error: str | None = None
    """Why the run failed."""
    benchmark: str | None = None
    """A name of `milr.benchmarks.BENCHMARKS`; None if the prompts were the user's own."""
    data: str | None = None
    """The folder that the benchmark's prompts were read from; None if they come with the package."""
    places: tuple[int, ...] | None = None
    """Each task's place, from 0, in the benchmark's whole list; official layouts number images by it."""
    shard: str | None = None
    """"2/3": the second of three runs that share the tasks between them."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Image n of a prompt is drawn with the seed of the settings + n."""
    model: str
    model_asked: str | None = None
    """The name or folder that was asked for: what resuming loads again. The same of reward and evaluator."""
    model_folder: str | None = None
    device: str
    dtype: str | None = None
    """None: the model's own."""
    profile: str | None = None
    """The prompt profile; None: the checkpoint's own."""
    reward: str
    """Name with version."""
    reward_asked: str | None = None
    evaluator: str | None = None
    """The reward that gives the headline numbers, name with version; None if there is none."""
    evaluator_asked: str | None = None
    panel: tuple[str, ...] = ()
    """The rewards that were only watched."""
    vlm_usage: Usage | None = None
    """None if no VLM judge was asked."""
    settings: Settings
    """The method and all settings, the seed among them."""
    deterministic: bool = False
    """If true, a task's images do not depend on its neighbours in the batch, so that resuming changes nothing."""
    tasks: tuple[Task, ...]
    versions: dict[str, str]
    """Of milr, python, torch, transformers, when the run began."""
    platform: str
    started: datetime
    finished: datetime | None = None
    sessions: tuple[Session, ...] = ()
    """Oldest first; the fields below are their sums."""
    seconds: float = 0.0
    """Wall time of all sessions."""
    tasks_finished: int = 0
    """Of `tasks` times `images_per_prompt`."""
    drawings: float = 0
    """Of all tasks, unfinished ones and those that a kill lost too."""
    tokens: int = 0
    """Sampled, text and image, of all tasks."""
    reward_calls: int = 0
    evaluated: int = 0
    evaluator_seconds: float = 0.0
    cost: float = 0.0
    """US dollars that reward and evaluator cost at paid VLM judges."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.settings.method


class StoredImage(BaseModel):
    """An image that is stored as a file, and its tokens."""

    model_config = ConfigDict(frozen=True)

    tokens: tuple[int, ...]
    file: str = Field(pattern=r"^steps/[0-9]+-[0-9]+\.png$")
    """Path from the task's folder; never one that leads out of it."""


class EvaluatedImage(BaseModel):
    """One line of `evaluated.jsonl`: the evaluator's score of one image. Lines are in the order of drawing."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    step: int
    number: int
    """Of the step's images, from 0."""
    score: Score | Unscored


class StoredStep(BaseModel):
    """One line of `records.jsonl`: a `StepRecord`, field by field, with images as files."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    task: Task
    index: int
    image: int = 0
    """Which of the prompt's images this is part of, from 0; the one field that a record does not have."""
    step: int
    reasoning: Reasoning
    images: tuple[StoredImage, ...]
    scores: tuple[Score | Unscored, ...]
    best: StoredImage
    best_score: Score | Unscored
    best_step: int
    drawings_spent: float
    tokens_spent: int
    reward_calls: int
    seconds: float
    cost: float
    finished: Finished | None
    trace: LatentTrace | None = None
    notes: tuple[str, ...] = ()
    panel_first: dict[str, Score | Unscored] = {}
    panel_best: dict[str, Score | Unscored] = {}

    @classmethod
    def of(cls, record: StepRecord, files: Sequence[str], best: str, image: int = 0) -> StoredStep:
        """Return the record with files in the place of its images: one per image, and the best one's."""
        values: dict[str, object] = {field.name: getattr(record, field.name) for field in fields(record)}
        values["image"] = image
        values["images"] = tuple(
            StoredImage(tokens=sample.tokens, file=file) for sample, file in zip(record.images, files, strict=True)
        )
        values["best"] = StoredImage(tokens=record.best.tokens, file=best)
        return cls.model_validate(values)


def dump(model: BaseModel, indent: int | None = None) -> bytes:
    """Return JSON. A reward's evidence may hold anything: arrays become lists, the rest its text."""
    return to_json(model, indent=indent, by_alias=True, fallback=_plain)


def dump_lines(models: Iterable[BaseModel]) -> bytes:
    """Return one JSON object per line."""
    return b"".join(dump(model) + b"\n" for model in models)


def _plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
