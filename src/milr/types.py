"""The nouns: task, reasoning, drawing, score, step record. All frozen; all but the picture plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

Relation = Literal["left of", "right of", "above", "below"]


class Requirement(BaseModel):
    """One entry of a task's include or exclude list, in GenEval's metadata form.

    Source: `evaluation_metadata.jsonl` of djghosh13/geneval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(alias="class")
    """One of GenEval's 80 object names."""
    count: int = Field(default=1, ge=1)
    color: str | None = None
    """One of GenEval's ten colours."""
    position: tuple[Relation, int] | None = None
    """Where this object lies, seen from the object at that index of the include list."""


class Task(BaseModel):
    """A prompt and, where known, what a correct picture must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    tag: str | None = None
    include: tuple[Requirement, ...] = ()
    exclude: tuple[Requirement, ...] = ()
    explanation: str | None = None
    """What the prompt means, for benchmarks that state it (WISE)."""

    @property
    def key(self) -> str:
        """Sixteen hex digits of the task's content: what keys its random streams and names its folder."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reasoning:
    """The text that a model wrote before drawing."""

    text: str
    tokens: tuple[int, ...]
    """Token ids, end-of-sequence left out."""


@dataclass(frozen=True)
class ImageSample:
    """Image tokens and the picture that they decode to."""

    tokens: tuple[int, ...]
    """Image token ids in raster order, rows from the top."""
    picture: Image.Image
    """RGB."""


@dataclass(frozen=True)
class Score:
    """What a reward says of one picture."""

    value: float
    """In [0, 1]; 1 is right."""
    reward: str
    """The reward's name with its version."""
    stop_at: float
    """The paper's stop value for this reward and task: a search stops when value > stop_at."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    explanation: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        """Refuse values outside [0, 1], NaN among them."""
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score lies in [0, 1], but {self.reward} gave {self.value}; return Unscored instead")


@dataclass(frozen=True)
class Unscored:
    """A picture that could not be scored, and why. Never 0, never "correct"."""

    reason: str
    reward: str
    final: bool = False
    """Nothing will be scored any more: a judge's budget is spent, its key is refused. The search ends with its best."""


def rank(score: Score | Unscored) -> float:
    """For choosing the best: a score's value; what could not be scored comes after every score."""
    return score.value if isinstance(score, Score) else -1.0


def is_met(score: Score | Unscored, stop_at: float | None) -> bool:
    """Whether a search may stop with this score.

    Args:
        score: Of the best picture.
        stop_at: A value above it, strictly, is enough; None takes the score's own, its paper's.
    """
    return isinstance(score, Score) and score.value > (score.stop_at if stop_at is None else stop_at)


def find_final(scores: Iterable[Score | Unscored]) -> str | None:
    """Why nothing will be scored any more, where a score says so."""
    return next((score.reason for score in scores if isinstance(score, Unscored) and score.final), None)


@dataclass(frozen=True)
class StepRecord:
    """What one pass of Algorithm 1 did for one task. Step 0 is the first picture, before any update."""

    task: Task
    index: int
    """The task's place in the list given to the search."""
    step: int
    moved: tuple[str, ...]
    """The latents that this step updated: of "text", "image"."""
    reasoning: Reasoning
    drawings: tuple[ImageSample, ...]
    """The step's drawings, M of them (`drawings_per_step`)."""
    scores: tuple[Score | Unscored, ...]
    """One a drawing."""
    best: ImageSample
    """The best picture seen so far; the first of equals."""
    best_score: Score | Unscored
    best_step: int
    text_latents: int
    """How many text positions are latents."""
    image_latents: int
    flipped_text: int
    """Prefix tokens of the text that differ from step 0's."""
    flipped_image: int
    """The same of the first drawing's image prefix."""
    text_shift: float
    """||z - z0|| / ||z0|| of the text latents; 0 where there are none."""
    image_shift: float
    log_probability: float | None
    """log p of the credited tokens before the update that led here; None at step 0."""
    drawings_spent: float
    """Drawings of this task so far; a partial one counts as its share of a whole one's tokens."""
    tokens_spent: int
    """Tokens sampled for this task so far, text and image."""
    reward_calls: int
    """Pictures of this task shown to the reward so far, partial ones too; a second try of an unscored one is free."""
    seconds: float
    """Since the search began."""
    finished: Literal["met", "out of steps", "unscored"] | None
    """Why this is the task's last record; None where it goes on. "unscored": the reward scores nothing any more."""
    notes: tuple[str, ...] = ()
    """What a user should know: a ratio that rounded to zero, an update that was skipped."""
    panel_first: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """What the watched rewards say of the task's first picture, by name; empty without a panel."""
    panel_best: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """The same of `best`."""
