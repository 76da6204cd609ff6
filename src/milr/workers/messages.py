"""Messages between coordinator and workers. All of it is pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from milr.methods.queue import Turn
from milr.models.base import Capabilities
from milr.models.devices import Placement
from milr.parts import Names
from milr.rewards.vlm.settings import VlmSettings
from milr.runs.schema import EvaluatedImage
from milr.types import Finished, KnownStep, Score, StepRecord, Task, Unscored


@dataclass(frozen=True)
class Spec:
    """Everything that a worker loads before its first task."""

    names: Names
    placement: Placement
    places: int
    """Tasks in progress at once."""
    vlm: VlmSettings = VlmSettings()
    offline: bool = False
    deterministic: bool = True
    threads: int | None = None
    """Threads of the networks; None leaves them as they are."""
    loader: str | None = None
    """Code, ``package.module:function``, that loads the parts in the place of `milr.parts.load_parts`."""


# --- to a worker


@dataclass(frozen=True)
class Do:
    """Run a task."""

    id: int
    """Never used twice: a task that is given out again has another one."""
    task: Task
    key: str
    method: str
    settings: Mapping[str, object]
    """All settings, flat."""
    known: Sequence[KnownStep] = ()
    """The task's first steps, which are repeated."""
    heard: int = 0
    """Number of first steps of which the coordinator has the records: they are not sent again."""
    turn: Turn = ()
    """The task's turn among the worker's."""
    strip: bool = False
    """True if the strip of the task's images is wanted."""


@dataclass(frozen=True)
class Watch:
    """Send unfinished images of these tasks, and of no others."""

    ids: frozenset[int]


@dataclass(frozen=True)
class Cancel:
    """End a task at its next record."""

    id: int
    why: Finished


@dataclass(frozen=True)
class Judge:
    """Score images by the reward or the evaluator, while no task is in progress."""

    id: int
    images: Sequence[Image.Image]
    tasks: Sequence[Task]
    evaluator: bool


@dataclass(frozen=True)
class Heard:
    """A `Step` was taken in. A worker makes no more than `Spec.places` records that were not.

    So total limits hold to two steps of each task in progress, however fast workers are.
    """


@dataclass(frozen=True)
class Stop:
    """End now."""


Command: TypeAlias = Do | Watch | Cancel | Judge | Heard | Stop


# --- from a worker


@dataclass(frozen=True)
class Ready:
    """Everything is loaded; facts for the coordinator."""

    model: str
    folder: Path
    capabilities: Capabilities
    defaults: Mapping[str, object]
    reads_free_prompts: bool
    deterministic: bool
    reward: tuple[str, float]
    """Name and stop value."""
    evaluator: tuple[str, float] | None
    panel: Mapping[str, str]
    """Name as asked -> name with version."""
    machine: Mapping[str, str | int]


@dataclass(frozen=True)
class Begun:
    """A task was given a place: from now on it may be at fault for the worker's end."""

    id: int
    prompt_tokens: int | None
    """Tokens of its prompt, where the model counts them."""


@dataclass(frozen=True)
class Grown:
    """An unfinished image of a task that is watched."""

    id: int
    tokens: int
    image: Image.Image


@dataclass(frozen=True)
class Step:
    """A record of a task. Its index is 0; `best` is an image that the coordinator has if it was there before."""

    id: int
    record: StepRecord
    same_best: bool
    """True if the best image is that of the record before: `record.best` is empty."""
    evaluated: Sequence[EvaluatedImage] = ()
    strip: bytes | None = None
    """With a task's last record, the strip of its images as PNG, if it is wanted."""
    usage: Mapping[str, str | int] | None = None
    """Usage of VLM judges so far, by this worker."""


@dataclass(frozen=True)
class Lost:
    """A task ended without a last record."""

    id: int
    error: str | None
    """None if it was cancelled before it had an image, or while it repeated steps that the coordinator has."""


@dataclass(frozen=True)
class Broken:
    """Drawing or scoring failed: no task is known to be at fault, and all that had begun have ended."""

    error: str


@dataclass(frozen=True)
class Spent:
    """Nothing can be scored any more; the tasks in progress have ended with their best images."""

    reason: str


@dataclass(frozen=True)
class Judged:
    """The scores of a `Judge`."""

    id: int
    scores: Sequence[Score | Unscored]


@dataclass(frozen=True)
class Failed:
    """The worker can do nothing: a part cannot be loaded, or the evaluator scores nothing any more."""

    error: str
    exit_code: int
    final: bool = True
    """True if every other worker would fail in the same way."""


@dataclass(frozen=True)
class Died:
    """The worker is gone; the backend says so in its name."""

    reason: str
    blameless: bool = False
    """True if no task can be at fault: its machine is gone, or was taken away."""


Message: TypeAlias = Ready | Begun | Grown | Step | Lost | Broken | Spent | Judged | Failed | Died
