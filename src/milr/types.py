"""The nouns: task, reasoning, image sample, score, step record. All frozen; all but the image plain data."""

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
    """How many at least; in an exclude list, how many are too many."""
    color: str | None = None
    """One of GenEval's ten colours; None asks for none."""
    position: tuple[Relation, int] | None = None
    """Where this object lies, seen from the object at that index of the include list."""


class Task(BaseModel):
    """A prompt and, where known, what a correct image must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    """The words that the model is given."""
    tag: str | None = None
    """The benchmark's group that the task counts for."""
    include: tuple[Requirement, ...] = ()
    """What a correct image shows, as in GenEval's metadata; empty where nobody says."""
    exclude: tuple[Requirement, ...] = ()
    """What a correct image does not show."""
    explanation: str | None = None
    """What the prompt means, for benchmarks that state it (WISE)."""
    typed: str | None = None
    """What the user typed, where a model that reads a grammar is given `prompt` in its place; None where both agree."""

    @property
    def shown(self) -> str:
        """The prompt in the user's own words."""
        return self.typed or self.prompt

    @property
    def key(self) -> str:
        """Sixteen hex digits of the task's content: what keys its random streams and names its folder.

        Two spellings of one prompt have one key.
        """
        return hashlib.sha256(self.model_dump_json(by_alias=True, exclude={"typed"}).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reasoning:
    """The text that a model wrote before drawing."""

    text: str
    """In words."""
    tokens: tuple[int, ...]
    """Token ids, end-of-sequence left out."""


@dataclass(frozen=True)
class ImageSample:
    """Image tokens and the image that they decode to."""

    tokens: tuple[int, ...]
    """Image token ids in raster order, rows from the top."""
    image: Image.Image
    """RGB."""


@dataclass(frozen=True)
class Score:
    """A reward's verdict on one image."""

    value: float
    """In [0, 1]; 1 is right."""
    reward: str
    """The reward's name with its version."""
    stop_at: float
    """The paper's stop value for this reward and task: a search stops when value > stop_at."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Condition -> how far it is met, in [0, 1]; among equal values the better parts win."""
    explanation: str = ""
    """Why, in words: methods that rewrite a text read it."""
    evidence: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the verdict was made of, as plain data: detections, answers."""
    cost: float = 0.0
    """US dollars that this score cost at paid VLM judges."""

    def __post_init__(self) -> None:
        """Refuse values outside [0, 1], NaN among them."""
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score lies in [0, 1], but {self.reward} gave {self.value}; return Unscored instead")


@dataclass(frozen=True)
class Unscored:
    """An image that could not be scored, and why. Never 0, never "correct"."""

    reason: str
    """In words, one line."""
    reward: str
    """The reward's name with its version."""
    final: bool = False
    """Nothing will be scored any more: a judge's budget is spent, its key is refused. The search ends with its best."""
    cost: float = 0.0
    """US dollars that the attempts cost at paid VLM judges."""


def rank(score: Score | Unscored) -> float:
    """Return what images are ranked by: the score's value; what could not be scored comes after every score."""
    return score.value if isinstance(score, Score) else -1.0


def order(score: Score | Unscored) -> tuple[float, float]:
    """Return what decides which of two images is better: the value, then the mean of the parts.

    A reward of 0 or 1 says nothing on which of two wrong images is nearer; its parts, the conditions that are met, do.
    """
    parts = list(score.parts.values()) if isinstance(score, Score) else []
    return rank(score), sum(parts) / len(parts) if parts else 0.0


def is_met(score: Score | Unscored, stop_at: float | None) -> bool:
    """Return whether a search may stop with this score.

    Args:
        score: Of the best image.
        stop_at: A value above it, strictly, is enough; None takes the score's own, its paper's.
    """
    return isinstance(score, Score) and score.value > (score.stop_at if stop_at is None else stop_at)


def find_final(scores: Iterable[Score | Unscored]) -> str | None:
    """Return why nothing will be scored any more, where a score says so."""
    return next((score.reason for score in scores if isinstance(score, Unscored) and score.final), None)


@dataclass(frozen=True)
class LatentTrace:
    """The changes that a step made to the latents, for methods that have latents."""

    moved: tuple[str, ...]
    """The latents that this step updated: of "text", "image"."""
    text_latents: int
    """Number of text positions that are latents."""
    image_latents: int
    """Number of image positions that are latents."""
    flipped_text: int
    """Prefix tokens of the text that differ from those of step 0."""
    flipped_image: int
    """Prefix tokens of the step's first image that differ from those of step 0."""
    text_shift: float
    """||z - z0|| / ||z0|| of the text latents; 0 if there are none."""
    image_shift: float
    """The same of the image latents."""
    log_probability: float | None
    """log p of the credited tokens before the update that led here; None at step 0 and where nothing was updated."""


Finished = Literal[
    "met",
    "out of steps",
    "out of drawings",
    "out of time",
    "out of reward calls",
    "out of money",
    "cancelled",
    "unscored",
]
"""Why a task ended. "met": its reward is above the stop value; "out of steps": its method has nothing more to try;
"unscored": the reward scores nothing any more."""


@dataclass(frozen=True)
class StepRecord:
    """The record of one step of a method for one task. Step 0 is the first image, before any update."""

    task: Task
    """What is drawn."""
    index: int
    """The task's place among the tasks given to the runner."""
    step: int
    """From 0."""
    reasoning: Reasoning
    """The text that the step's images follow; empty if they follow the prompt alone."""
    images: tuple[ImageSample, ...]
    """The step's images, M of them."""
    scores: tuple[Score | Unscored, ...]
    """One per image."""
    best: ImageSample
    """The best image seen so far by `order`: equal rewards are decided by their parts; then the first of equals."""
    best_score: Score | Unscored
    """Its score."""
    best_step: int
    """The step that drew it."""
    drawings_spent: float
    """Drawings of this task so far; a partial one counts as its share of the image tokens."""
    tokens_spent: int
    """Tokens sampled for this task so far, text and image."""
    reward_calls: int
    """Images of this task scored so far, partial ones too; a second try of an unscored one is free."""
    seconds: float
    """Seconds since the task's first batch began."""
    cost: float
    """US dollars that scoring this task has cost so far at paid VLM judges."""
    finished: Finished | None
    """Why this is the task's last record; None if the task goes on."""
    trace: LatentTrace | None = None
    """What happened to the latents; None for methods without latents."""
    notes: tuple[str, ...] = ()
    """What a user should know: a ratio that rounded to zero, an update that was skipped."""
    panel_first: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """What the watched rewards say of the task's first image, by name; empty without a panel."""
    panel_best: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """The same of `best`."""
