"""The protocol of a reward, the call that scores images, and the values that a reward may return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, cast, runtime_checkable

from PIL import Image

from milr.errors import MilrError, UsageError
from milr.models.devices import own_numbers
from milr.types import Score, Task, Unscored, order

STOP_AT = 0.9
"""Stop value of a reward that declares none."""

Scored: TypeAlias = "tuple[Image.Image, Score | Unscored]"
"""An image and its score."""
Scores = Callable[[], list[Score | Unscored]]
"""A call that waits for the scores that were begun: one per image, in order."""


class Reward(Protocol):
    """The protocol of a reward: images and tasks to scores, batch in, batch out.

    Any callable ``(images, tasks) -> scores`` is a reward, and numbers in [0, 1] are scores: `make_reward` gives it a
    name and a stop value. A wrong count or type is a `RewardError`, in every method.

    A reward from outside is such a callable, or a class. `milr.load_reward` calls a class with those of these that its
    parameters name: ``argument`` (what follows the name's colon, or None), ``model`` (the model that draws), ``vlm`` (a
    `VlmClient` that all VLM judges share), ``device``, ``dtype``, ``load`` (loads another reward by name), and the
    options that the caller gives. Every other parameter needs a default value.

    It may declare, as attributes of the class or function: ``images`` ("icons" if it reads icons only, default "any"),
    ``needs`` (what each task must have: "include list", "rules", "explanation", "category", "checklist"), ``runs``
    ("device", "cpu", "model" or "server"; default by its parameters). Tasks and models that do not fit are refused
    before anything is drawn. `WaitingReward` and `ComparingReward` are optional methods, `Score.regions` an optional
    field.
    `milr.testing.contracts.check_reward` checks all of this.
    """

    name: str
    """Name and versions, as in every score: "icons@1/c745efbc" has those of its rules and of its weights."""
    stop_at: float
    """The paper's stop value on the [0, 1] scale. A search uses the stop value of each score, which may differ by task.
    """

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order; `Unscored` if it cannot be scored, never an exception or a zero."""
        ...


RewardFunction: TypeAlias = Callable[[Sequence[Image.Image], Sequence[Task]], Iterable[Score | Unscored | float]]
"""A function that `make_reward` turns into a reward; numbers in [0, 1] are scores."""


@runtime_checkable
class WaitingReward(Protocol):
    """A reward that mostly waits for a server, so that drawing can continue meanwhile."""

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Start scoring; return a call that waits for the end."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A scored image, as `ComparingReward.compare` gets it."""

    image: Image.Image
    """The image, RGB."""
    task: Task
    score: Score


@runtime_checkable
class ComparingReward(Protocol):
    """A reward that can compare two images whose scores are equal."""

    def compare(self, a: Candidate, b: Candidate) -> float:
        """Return a number above 0 if a is better, below 0 if b is better, 0 if neither is.

        It is called only for two images of one task with equal values and equal means of parts (`milr.types.order`):
        the better one becomes the task's best image. Otherwise the earlier image stays the best.
        """
        ...


class RewardError(MilrError):
    """The error of a reward that breaks its contract; the message says what it returned."""


class FunctionReward:
    """A reward made of a plain function. Implements `Reward`."""

    def __init__(self, function: RewardFunction) -> None:
        """Take name and stop value from the function if it has them."""
        self.function = function
        self.name = str(getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))
        self.stop_at = float(getattr(function, "stop_at", STOP_AT))

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return check_scores(self, self.function(images, tasks), len(images))


def make_reward(reward: Reward | RewardFunction) -> Reward:
    """Return a reward unchanged, or a reward made of a plain function.

    Args:
        reward: A function is named by its `__name__` and stops a search above 0.9 (`STOP_AT`), unless it has the
            attributes `name` and `stop_at`.

    Raises:
        UsageError: It cannot be called, or is a class.
    """
    if isinstance(reward, type):
        raise UsageError(f"the reward {reward.__name__} is a class: give an object of it, {reward.__name__}(...)")
    if not callable(reward):
        raise UsageError(
            f"{reward!r} ({type(reward).__name__}) is no reward: give a name, or a function of images and tasks that "
            "returns one score per image"
        )
    if isinstance(getattr(reward, "name", None), str) and isinstance(getattr(reward, "stop_at", None), float | int):
        return cast("Reward", reward)
    return FunctionReward(reward)


def check_scores(reward: Reward, found: object, images: int) -> list[Score | Unscored]:
    """Return a reward's answer as scores: a number becomes a score with the reward's name and stop value.

    Args:
        reward: The reward.
        found: An iterable of `Score`, `Unscored` or numbers in [0, 1], of any library.
        images: Number of images.

    Raises:
        RewardError: The answer is something else or has another length, or a number is NaN or outside [0, 1].
    """
    try:
        each = None if isinstance(found, str | Mapping) else [*cast("Iterable[object]", found)]
    except TypeError:  # a number, None, or a tensor without dimensions
        each = None
    if each is None:
        said = _describe(cast("object", found))
        raise RewardError(f"the reward {reward.name!r} returned {said}: return a list, one score per image")
    scores = [_make_score(reward, one) for one in each]
    if len(scores) != images:
        raise RewardError(
            f"the reward {reward.name!r} returned {len(scores)} scores for {images} images: return one per image, "
            "in order, and Unscored for what cannot be scored"
        )
    return scores


def start_scoring(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
    """Start scoring if the reward waits for a server, else score now. Its networks compute with milr's settings.

    Raises:
        RewardError: It does not return one score per image; a waiting reward raises it when its call is awaited.
    """
    with own_numbers():
        if isinstance(reward, WaitingReward):
            wait = reward.begin(images, tasks)
            return lambda: check_scores(reward, wait(), len(images))
        now = check_scores(reward, reward(images, tasks), len(images))
    return lambda: now


def begin_scoring(reward: Reward, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
    """Start scoring; try unscored images once more, unless their reason is final. Both tries cost.

    Raises:
        RewardError: As `start_scoring`.
    """
    wait = start_scoring(reward, images, tasks)

    def finish() -> list[Score | Unscored]:
        scores = list(wait())
        again = [i for i, score in enumerate(scores) if isinstance(score, Unscored) and not score.final]
        if again:
            with own_numbers():
                retried = reward([images[i] for i in again], [tasks[i] for i in again])
            for i, score in zip(again, check_scores(reward, retried, len(again)), strict=True):
                scores[i] = replace(score, cost=scores[i].cost + score.cost)
        return scores

    return finish


def is_better(reward: Reward, task: Task, new: Scored, best: Scored) -> bool:
    """Return true if an image is better than the best one of its task so far; a reward may decide a tie.

    Raises:
        RewardError: The reward's `compare` does not return a number.
    """
    (image, score), (best_image, best_score) = new, best
    if order(score) != order(best_score):
        return order(score) > order(best_score)
    if not isinstance(reward, ComparingReward) or isinstance(score, Unscored) or isinstance(best_score, Unscored):
        return False
    said = cast("object", reward.compare(Candidate(image, task, score), Candidate(best_image, task, best_score)))
    if not isinstance(said, int | float) or math.isnan(said):
        raise RewardError(
            f"compare of the reward {reward.name!r} returned {_describe(said)}: return a number, above 0 where the "
            "first image is better"
        )
    return said > 0


def _make_score(reward: Reward, found: object) -> Score | Unscored:
    if isinstance(found, Score | Unscored):
        return found
    try:
        value = float(found)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, RuntimeError):  # torch raises it for a tensor with several elements
        value = None
    if value is None or isinstance(found, str | bytes):
        raise RewardError(
            f"the reward {reward.name!r} returned {_describe(found)} for an image: return a number in [0, 1], a "
            "milr.Score, or milr.Unscored with the reason"
        )
    if not 0.0 <= value <= 1.0:
        raise RewardError(
            f"the reward {reward.name!r} returned {value:g} for an image: a score is in [0, 1]; return "
            "milr.Unscored(reason, name) for an image that cannot be scored"
        )
    return Score(value, reward.name, float(reward.stop_at))


def _describe(value: object) -> str:
    """Describe a value and its type in a few words on one line."""
    text = " ".join(repr(value).split())
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return shown if value is None else f"{shown} ({type(value).__name__})"
