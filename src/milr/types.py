"""Data types: task, reasoning, image sample, score, step record. All are frozen; all but the image are plain data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from milr.display import show_image
from milr.png import decode_png, encode_png

Relation = Literal["left of", "right of", "above", "below"]


class Requirement(BaseModel):
    """One entry of a task's include or exclude list, in GenEval's metadata form.

    Source: `evaluation_metadata.jsonl` of djghosh13/geneval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(alias="class")
    """One of GenEval's 80 object names."""
    count: int = Field(default=1, ge=1, le=1000)
    """Least number of objects; in an exclude list, the number from which there are too many."""
    color: str | None = None
    """One of GenEval's ten colours; None asks for none."""
    position: tuple[Relation, int] | None = None
    """Relation of this object to the object at that index of the include list."""


class ChecklistItem(BaseModel):
    """One question of a checklist about a task's image, with the answer that a correct image gets.

    Source of the form: GenEval 2's `vqa_list` and `skills`, T2I-CoReBench's `Checklist`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    """In words, with its question mark."""
    answer: str = "yes"
    """The expected answer, one of `milr.tasks.checklists.ANSWERS`."""
    tags: tuple[str, ...] = ()
    """The question's subject: a skill, a kind of element."""


class Task(BaseModel):
    """A prompt and, where known, what a correct image must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    """The prompt as the model reads it."""
    tag: str | None = None
    """The benchmark's category."""
    include: tuple[Requirement, ...] = ()
    """Objects that a correct image shows, as in GenEval's metadata; empty if unknown."""
    exclude: tuple[Requirement, ...] = ()
    """Objects that a correct image does not show."""
    explanation: str | None = None
    """Meaning of the prompt, for benchmarks that state it (WISE)."""
    checklist: tuple[ChecklistItem, ...] = Field(default=(), exclude_if=lambda questions: not questions)
    """Questions about the image, all different; () if there are none, which is left out where a task is written."""
    typed: str | None = None
    """The prompt as the user typed it, if the model reads a rewritten one; None if both are equal."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the fields that differ from their defaults, for `repr`."""
        return [(name, value) for name, value in super().__repr_args__() if value not in (None, ())]

    @property
    def shown(self) -> str:
        """Return the prompt in the user's own words."""
        return self.typed or self.prompt

    @property
    def key(self) -> str:
        """Return sixteen hex digits of a hash of the task's content, which key its random streams and name its folder.

        Two spellings of one prompt have the same key.
        """
        return hashlib.sha256(self.model_dump_json(by_alias=True, exclude={"typed"}).encode()).hexdigest()[:16]


@dataclass(frozen=True, repr=False)
class Reasoning:
    """The text that a model wrote before drawing."""

    text: str
    """The text, decoded."""
    tokens: tuple[int, ...]
    """Token ids without the end-of-sequence token."""

    def __repr__(self) -> str:
        """Return the text and the number of its tokens."""
        return f"Reasoning({self.text!r}, {len(self.tokens)} tokens)"


@dataclass(frozen=True, repr=False)
class ImageSample:
    """Image tokens and the image that they decode to."""

    tokens: tuple[int, ...]
    """Image token ids in raster order, rows from the top."""
    image: Image.Image
    """The image, RGB."""

    @cached_property
    def png(self) -> bytes:
        """Return the image as PNG without texts; it is encoded once, for all who store or send it."""
        return encode_png(self.image)

    def __reduce__(self) -> tuple[Callable[[tuple[int, ...], bytes], ImageSample], tuple[tuple[int, ...], bytes]]:
        """Pickle the tokens and the PNG, so that another process need not encode it again."""
        return _restore_sample, (self.tokens, self.png)

    if not TYPE_CHECKING:  # else every name would be an attribute

        def __getattr__(self, name: str) -> Image.Image:
            """Decode the image of a sample that came from another process, when it is first looked at."""
            if name != "image" or "png" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            image = self.__dict__["image"] = decode_png(self.png)
            return image

    def __repr__(self) -> str:
        """Return the image's size and the number of its tokens."""
        return f"ImageSample({self.image.width} x {self.image.height} pixels, {len(self.tokens)} tokens)"

    def _repr_html_(self) -> str:
        return show_image(self.image)


def _restore_sample(tokens: tuple[int, ...], png: bytes) -> ImageSample:
    sample = object.__new__(ImageSample)
    sample.__dict__.update(tokens=tokens, png=png)
    return sample


@dataclass(frozen=True)
class Region:
    """One object that a reward found in an image."""

    name: str
    """Class of the object; for a task of icons one of GenEval's 80 object names."""
    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in the image's pixels, x to the right, y down."""
    confidence: float
    """Confidence in [0, 1]."""
    color: str | None = None
    """One of GenEval's ten colours; None if it was not determined."""

    def __post_init__(self) -> None:
        """Refuse a box without four finite numbers, and a confidence outside [0, 1]."""
        if len(self.box) != 4 or not all(map(math.isfinite, self.box)):
            raise ValueError(f"a region's box is four finite numbers, x0, y0, x1, y1, and {self.name!r} has {self.box}")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"a region's confidence is in [0, 1], and {self.name!r} has {self.confidence}")


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
    """Condition -> degree to which it is met, in [0, 1]. Between equal values the higher mean of the parts decides."""
    explanation: str = ""
    """Reason for the value, in words. Methods that rewrite a text read it."""
    evidence: Mapping[str, object] = field(default_factory=dict[str, object])
    """Plain data of the decision: answers, categories. No method reads it."""
    cost: float = 0.0
    """US dollars paid to VLM judges for this score."""
    regions: tuple[Region, ...] = ()
    """The objects that the reward found, for methods that use boxes (`keep-right`); () if it detects none."""

    def __post_init__(self) -> None:
        """Refuse values outside [0, 1] and NaN."""
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score is in [0, 1], but {self.reward} gave {self.value}; return Unscored instead")


@dataclass(frozen=True)
class Unscored:
    """An image that could not be scored, and why. Never 0, never "correct"."""

    reason: str
    """The reason, one line."""
    reward: str
    """The reward's name with its version."""
    final: bool = False
    """True if nothing can be scored any more, because a budget is spent or a key is refused. The search ends with its
    best image."""
    cost: float = 0.0
    """US dollars paid to VLM judges for the attempts."""


def say_score(score: Score | Unscored) -> str:
    """Return a score in a few words: "0.75", or "unscored"."""
    return f"{score.value:.2f}" if isinstance(score, Score) else "unscored"


def say_count(count: float, noun: str) -> str:
    """Return a count with its noun, which gets an "s" unless the count is 1: "1 search", "1,024 images"."""
    return f"{count:,.10g} {noun if count == 1 else pluralise(noun)}"


def say_end(finished: Finished | None, drawings: float) -> str:
    """Return why a task ended and after how many drawings: "met after 1 drawing"."""
    return f"{finished} after {drawings:.4g} {'drawing' if drawings == 1 else 'drawings'}"


def pluralise(noun: str) -> str:
    """Return a noun with an "s", or with "es" after "ch", "s", "sh" and "x"."""
    return f"{noun}es" if noun.endswith(("ch", "s", "sh", "x")) else f"{noun}s"


def rank(score: Score | Unscored) -> float:
    """Return the value that images are ranked by: the score's value, or -1 if the image could not be scored."""
    return score.value if isinstance(score, Score) else -1.0


def order(score: Score | Unscored) -> tuple[float, float]:
    """Return the key that decides between two images: the value, then the mean of the parts.

    With a reward of 0 or 1, two wrong images have the same value; the parts show which one is closer.
    """
    parts = list(score.parts.values()) if isinstance(score, Score) else []
    return rank(score), sum(parts) / len(parts) if parts else 0.0


def is_met(score: Score | Unscored, stop_at: float | None) -> bool:
    """Return true if a search may stop with this score.

    Args:
        score: The best image's score.
        stop_at: A value above it, strictly, is enough; None takes the score's own stop value.
    """
    return isinstance(score, Score) and score.value > (score.stop_at if stop_at is None else stop_at)


def find_final(scores: Iterable[Score | Unscored]) -> str | None:
    """Return the reason why nothing can be scored any more, if a score gives one."""
    return next((score.reason for score in scores if isinstance(score, Unscored) and score.final), None)


@dataclass(frozen=True)
class KnownStep:
    """A step that was made before, in a process that has ended: its images, their scores, and when it was made."""

    images: tuple[ImageSample, ...]
    scores: tuple[Score | Unscored, ...]
    seconds: float = 0.0
    """Seconds from the task's begin to the step's end."""


@dataclass(frozen=True)
class LatentTrace:
    """The changes that a step made to the latents, for methods that have latents."""

    moved: tuple[str, ...]
    """The latents that this step updated: "text", "image"."""
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
    text_shifts: tuple[tuple[str, float], ...] = ()
    """For each text latent, the characters of its token, and ||z_i - z0_i|| / ||z0_i||; () if there are none."""


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
"""Reason why a task ended. "met": its reward is above the stop value. "out of steps": its method has nothing more to
try. "unscored": the reward cannot score any more."""


@dataclass(frozen=True, repr=False)
class StepRecord:
    """The record of one step of a method for one task. Step 0 is the first image, before any update."""

    task: Task
    """The task."""
    index: int
    """The task's place among the tasks given to the runner."""
    step: int
    """Number of the step, from 0."""
    reasoning: Reasoning
    """The text that the step's images follow; empty if they follow the prompt alone."""
    images: tuple[ImageSample, ...]
    """The step's images, M of them."""
    scores: tuple[Score | Unscored, ...]
    """One per image."""
    best: ImageSample
    """The best image so far by `order`: value first, then parts, then the earlier one."""
    best_score: Score | Unscored
    """Its score."""
    best_step: int
    """The step that drew it."""
    drawings_spent: float
    """Drawings of this task so far; a partial image counts as its share of the image tokens."""
    tokens_spent: int
    """Tokens sampled for this task so far, text and image."""
    reward_calls: int
    """Images of this task scored so far, partial ones included; a second try after a failure is not counted."""
    seconds: float
    """Seconds since the task's first batch began."""
    cost: float
    """US dollars paid so far to VLM judges for this task."""
    finished: Finished | None
    """Reason why this is the task's last record; None if the task continues."""
    trace: LatentTrace | None = None
    """Changes of the latents; None for methods without latents."""
    notes: tuple[str, ...] = ()
    """Notes for the user: a ratio that rounded to zero, an update that was skipped."""
    panel_first: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """Scores of the task's first image by the panel's rewards, by name; empty without a panel."""
    panel_best: Mapping[str, Score | Unscored] = field(default_factory=dict[str, "Score | Unscored"])
    """The same for `best`."""

    def __repr__(self) -> str:
        """Return prompt, step, scores and the best so far, on one line."""
        scores = ", ".join(map(say_score, self.scores)) or "none"
        best = f"best {say_score(self.best_score)} at step {self.best_step}"
        end = f", {self.finished}" if self.finished else ""
        return f"StepRecord({self.task.shown!r}, step {self.step}, scores {scores}, {best}{end})"

    def _repr_html_(self) -> str:
        shown = "".join(show_image(one.image) for one in self.images)
        return f'<div style="display:flex;gap:.5em">{shown}</div>{escape(repr(self))}<br>{escape(self.reasoning.text)}'


def end_early(last: StepRecord, why: Finished) -> StepRecord:
    """Return the record that ends a task after its step `last`, with its best image so far and without a new one."""
    return replace(last, step=last.step + 1, images=(), scores=(), finished=why, trace=None, notes=())
