"""Schema of a run's files, format 2. The writer fills these models in, the reader checks files against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_json

from milr.runs.names import rename
from milr.settings import Settings
from milr.types import Finished, LatentTrace, Reasoning, Score, StepRecord, Task, Unscored

FORMAT = 2
"""Version of the format. `milr.runs.upgrade` reads format 1."""
NAMES = 2
"""Version of the names of benchmarks and rewards that a run is made with; see `milr.runs.names`."""

Status = Literal["running", "finished", "stopped", "interrupted", "failed"]
"""A killed run stays "running". "stopped" means that a limit of the whole run was reached before all tasks had
finished."""

Words = Annotated[str, Field(max_length=2**16)]
Name = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = tuple[Annotated[int, Field(ge=0, lt=2**31)], ...]
MOST_TASKS = 10**6
"""Most tasks of a run, times images per prompt."""

Usage = dict[str, str | int | float]
"""Usage of VLM judges: url, calls, cached, tokens_in, tokens_out and, if a price is known, cost."""


class Session(BaseModel):
    """One process that worked on the run: the first, and one each time it was resumed."""

    model_config = ConfigDict(frozen=True)

    host: Name
    process: int
    """Process id on that host."""
    started: datetime
    machine: dict[str, str | int]
    """platform, processor, cpus, and facts from the caller (threads, accelerator)."""
    versions: dict[str, str]
    """Versions of milr, python, torch, transformers."""
    status: Status = "running"
    error: Words | None = None
    seconds: Amount = 0.0
    """Wall time; for a killed session, until its last finished task."""
    drawings: Amount = 0
    """All drawings, including those of unfinished tasks; of a killed session since the run was resumed."""
    tokens: Count = 0
    reward_calls: Count = 0
    evaluated: Count = 0
    """Images that the evaluator scored."""
    evaluator_seconds: Amount = 0.0
    """The evaluator's share of the wall time."""
    cost: Amount = 0.0
    """US dollars paid to VLM judges by reward and evaluator."""
    vlm_usage: Usage | None = None
    """None if no VLM judge was asked."""


class Manifest(BaseModel):
    """The manifest, `run.json`."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    format: Literal[2] = FORMAT
    names: Literal[2] = NAMES
    """Version of the names below; those of a manifest without it are renamed when it is read."""
    status: Status = "running"
    error: Words | None = None
    """Reason why the run failed."""
    benchmark: Name | None = None
    """A name of `milr.benchmarks.BENCHMARKS`; None if the prompts were the user's own."""
    data: Name | None = None
    """Folder of the benchmark's prompts; None if they come with the package."""
    places: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] | None = None
    """Each task's index, from 0, in the benchmark's whole list; official layouts number images by it."""
    shard: Name | None = None
    """"2/3": the second of three runs that share the tasks between them."""
    images_per_prompt: int = Field(default=1, ge=1, le=MOST_TASKS)
    """Image n of a prompt is drawn with the seed of the settings + n."""
    model: Name
    model_asked: Name | None = None
    """The name or folder that the user gave, which resuming loads again. `reward_asked` and `evaluator_asked` are
    alike."""
    model_folder: Name | None = None
    device: Name
    dtype: Name | None = None
    """Dtype; None means the model's own."""
    profile: Name | None = None
    """Prompt profile; None means the checkpoint's own."""
    reward: Name
    """Name with version."""
    reward_asked: Name | None = None
    evaluator: Name | None = None
    """The reward that gives the headline numbers, name with version; None if there is none."""
    evaluator_asked: Name | None = None
    panel: tuple[Name, ...] = ()
    panel_asked: tuple[Name, ...] = ()
    """Rewards that were watched but not optimised."""
    vlm_usage: Usage | None = None
    """None if no VLM judge was asked."""
    settings: Settings
    """The method and all settings, the seed among them."""
    deterministic: bool = False
    """If true, a task's images do not depend on its neighbours in the batch, so that resuming changes nothing."""
    tasks: tuple[Task, ...]
    versions: dict[str, str]
    """Versions of milr, python, torch and transformers when the run began."""
    platform: Name
    started: datetime
    finished: datetime | None = None
    sessions: tuple[Session, ...] = ()
    """Oldest first; the fields below are their sums."""
    seconds: Amount = 0.0
    """Wall time of all sessions."""
    tasks_finished: Count = 0
    """Finished images, of `tasks` times `images_per_prompt`."""
    drawings: Amount = 0
    """Drawings of all tasks, including unfinished ones and those lost by a kill."""
    tokens: Count = 0
    """Sampled tokens of all tasks, text and image."""
    reward_calls: Count = 0
    evaluated: Count = 0
    evaluator_seconds: Amount = 0.0
    cost: Amount = 0.0
    """US dollars paid to VLM judges by reward and evaluator."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, manifest: object) -> object:
        """Rename what has another name now."""
        old = isinstance(manifest, dict) and "names" not in manifest
        return rename(cast("dict[str, Any]", manifest)) if old else cast("object", manifest)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse a number of places other than that of tasks, and more tasks than any run has."""
        if self.tasks and self.places is not None:
            if len(self.places) != len(self.tasks):
                raise ValueError(f"it has {len(self.tasks)} tasks and {len(self.places)} places")
            if len(set(self.places)) != len(self.places):
                raise ValueError("a place is there twice")
        if len(self.tasks) * self.images_per_prompt > MOST_TASKS:
            raise ValueError(f"it has more than {MOST_TASKS:,} tasks, times images per prompt")
        return self

    @property
    def method(self) -> str:
        """Return the name of the method."""
        return self.settings.method


class StoredImage(BaseModel):
    """An image that is stored as a file, and its tokens."""

    model_config = ConfigDict(frozen=True)

    tokens: Tokens
    file: str = Field(pattern=r"^steps/[0-9]{2,9}-[0-9]{1,9}\.png$")
    """Path relative to the task's folder; never one that leads out of it."""


class EvaluatedImage(BaseModel):
    """One line of `evaluated.jsonl`: the evaluator's score of one image. Lines are in the order of drawing."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    step: Count
    number: Count
    """Number of the image among the step's images, from 0."""
    score: Score | Unscored


class StoredStep(BaseModel):
    """One line of `records.jsonl`: a `StepRecord`, field by field, with images as files."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    task: Task
    index: Count
    image: Count = 0
    """Number of the image among the prompt's images, from 0; a record has no such field."""
    step: Count
    reasoning: Reasoning
    images: tuple[StoredImage, ...] = Field(max_length=MOST_TASKS)
    scores: tuple[Score | Unscored, ...]
    best: StoredImage
    best_score: Score | Unscored
    best_step: Count
    drawings_spent: Amount
    tokens_spent: Count
    reward_calls: Count
    seconds: Amount
    cost: Amount
    finished: Finished | None
    trace: LatentTrace | None = None
    notes: tuple[Words, ...] = ()
    panel_first: dict[str, Score | Unscored] = {}
    panel_best: dict[str, Score | Unscored] = {}

    @classmethod
    def of(cls, record: StepRecord, files: Sequence[str], best: str, image: int = 0) -> StoredStep:
        """Return the record with files instead of images: one per image, and the best one's."""
        values: dict[str, object] = {field.name: getattr(record, field.name) for field in fields(record)}
        values["image"] = image
        values["images"] = tuple(
            StoredImage(tokens=sample.tokens, file=file) for sample, file in zip(record.images, files, strict=True)
        )
        values["best"] = StoredImage(tokens=record.best.tokens, file=best)
        return cls.model_validate(values)


def dump(model: BaseModel, indent: int | None = None) -> bytes:
    """Return JSON. A reward's evidence may contain anything: arrays become lists, other objects their text."""
    return to_json(model, indent=indent, by_alias=True, fallback=_plain)


class EndMark(BaseModel):
    """The last line of a file of lines: it reveals a lost line or a changed digit before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    end: Count
    """Number of lines before it."""
    hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Hash of the bytes before it: blake2b of eight bytes."""

    @classmethod
    def of(cls, content: bytes) -> EndMark:
        """Return the end mark of that content."""
        return cls(end=content.count(b"\n"), hash=blake2b(content, digest_size=8).hexdigest())


def dump_lines(models: Iterable[BaseModel]) -> bytes:
    """Return one JSON object per line, then their end mark."""
    return end_lines(b"".join(dump(model) + b"\n" for model in models))


def end_lines(content: bytes) -> bytes:
    """Return lines with their end mark."""
    return content + dump(EndMark.of(content)) + b"\n"


def split_lines(content: bytes) -> list[bytes]:
    """Return the lines of a file, without its end mark; older runs have none.

    Raises:
        ValueError: It does not match its end mark.
    """
    lines = content.splitlines()
    if not lines or not lines[-1].startswith(b'{"end"'):
        return lines
    before = content[: content.rstrip(b"\n").rfind(b"\n") + 1]
    try:
        mark = EndMark.model_validate_json(lines[-1])
    except ValidationError:
        raise ValueError("its end mark cannot be read") from None
    if mark != EndMark.of(before):
        raise ValueError(f"it is not what its end mark says, {mark.end} lines")
    return lines[:-1]


def _plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
