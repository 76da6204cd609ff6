"""Requests of clients, and orders made from them: every name and number is checked before anything is drawn."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from milr.errors import MilrError, UsageError, unknown_name
from milr.methods import METHODS
from milr.methods.needs import check_able
from milr.rewards import check_scorable
from milr.serve.config import Limits
from milr.serve.errors import ApiError, refuse
from milr.serve.offers import Offer, choose_offer
from milr.settings import Settings, make_settings
from milr.settings.best import take_best
from milr.tasks import check_task, explain, make_task
from milr.types import Requirement, Task

LARGEST_SEED = 2**53 - 1
"""The largest whole number that every JSON reader keeps."""
SERVERS_OWN = ("batch_size", "total_drawings", "total_seconds", "total_reward_calls", "total_cost", "max_cost")
"""Run settings that a server decides on, not its clients."""
LARGEST, SMALLEST = 1e4, 1e-4
"""Bounds of a setting's size, 0 aside: beyond them numbers overflow, which ends the searches beside it too."""
Value = str | int | float | None


class AskedTask(BaseModel):
    """A task with more than a prompt: what a correct image shows, as in GenEval's metadata."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    tag: Annotated[str, Field(max_length=100, pattern="^[^,]*$")] | None = None
    include: tuple[Requirement, ...] = Field(default=(), max_length=16)
    exclude: tuple[Requirement, ...] = Field(default=(), max_length=16)


class SearchRequest(BaseModel):
    """The body of `POST /v1/searches`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    tasks: list[str | AskedTask] = Field(min_length=1)
    """Prompts, or tasks that say what a correct image shows."""
    model: str | None = None
    """A name that `/v1/models` lists; default: the first."""
    method: str | None = None
    """A name that `/v1/schema` lists; default: the model's best measured one."""
    settings: dict[str, Value] = Field(default={})
    """Settings that the method reads, by name: see `/v1/schema`."""
    n: int = Field(default=1, ge=1)
    """Images of each prompt; image i is drawn with the seed + i."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds from now after which each search ends with its best image so far."""
    user: str = Field(default="", max_length=256)
    """Name of the user among those of one key; users are served in turn."""


class Order(BaseModel):
    """A valid search: the stored part of a request."""

    model_config = ConfigDict(frozen=True)

    tasks: tuple[Task, ...]
    model: str
    settings: Settings
    images: int = 1
    """Images of each task."""
    seconds: float
    """Until each search ends with its best so far; counted from 0 when the server starts again."""
    user: str = ""
    notes: tuple[str, ...] = ()
    """Notes for the client: a prompt that was read in other words."""

    @property
    def wanted(self) -> int:
        """Images that are drawn."""
        return len(self.tasks) * self.images

    def seed(self, image: int) -> Settings:
        """Return the settings of one image of each task: its seed is its own."""
        return self.settings.change(seed=self.settings.run.seed + image)


def make_order(asked: SearchRequest, offers: Sequence[Offer], limits: Limits) -> Order:
    """Check a request.

    Args:
        asked: Of the client.
        offers: The models, the default one first.
        limits: Limits and choices of a request.

    Raises:
        ApiError: Anything is not allowed; it names the field.
    """
    try:
        offer = choose_offer(offers, asked.model)
    except UsageError as error:
        raise ApiError(404, "model_not_found", str(error), param="model") from None
    if len(asked.tasks) > limits.tasks:
        raise ApiError(400, "too_many_tasks", f"{len(asked.tasks)} tasks: at most {limits.tasks}", param="tasks")
    if asked.n > limits.images:
        raise ApiError(400, "too_many_images", f"n {asked.n}: at most {limits.images}", param="n")
    tasks = tuple(read_task(task, offer, limits) for task in asked.tasks)
    method, given = check_method(asked.method, asked.settings, offer)
    try:
        check_able(method, given, offer.capabilities)
        settings = make_settings(method, {"seed": secrets.randbelow(2**31), **given}, offer.defaults)
    except UsageError as error:
        raise refuse(error, "settings") from None
    if settings.own.most_drawings > limits.drawings:
        raise ApiError(
            400,
            "too_many_drawings",
            f"{settings.own.most_drawings} drawings for an image: at most {limits.drawings}; give fewer steps",
            param="settings",
        )
    notes = tuple(filter(None, map(explain, tasks)))
    return Order(
        tasks=tasks,
        model=offer.name,
        settings=settings,
        images=asked.n,
        seconds=min(asked.timeout or limits.seconds, limits.seconds),
        user=asked.user,
        notes=notes,
    )


def read_task(asked: str | AskedTask, offer: Offer, limits: Limits) -> Task:
    """Return a task in the form that the model reads.

    Raises:
        ApiError: The prompt is too long, the model does not read it, or the reward cannot score it.
    """
    prompt = asked if isinstance(asked, str) else asked.prompt
    if not prompt.strip():
        raise ApiError(400, "empty_prompt", "a prompt is empty: say what to draw", param="prompt")
    if len(prompt) > limits.prompt_characters:
        message = f"a prompt of {len(prompt)} characters: at most {limits.prompt_characters}"
        raise ApiError(400, "prompt_too_long", message, param="prompt")
    if "\0" in prompt or any("\ud800" <= sign <= "\udfff" for sign in prompt):
        raise ApiError(400, "prompt_not_text", "a prompt holds a sign that no text has", param="prompt")
    try:
        task = make_task(prompt, free=offer.free)
        if isinstance(asked, AskedTask):
            shows = {"include": asked.include or task.include, "exclude": asked.exclude or task.exclude}
            task = task.model_copy(update={"tag": asked.tag, **shows})
            if task.include or task.exclude:
                check_task(task)
        check_scorable(offer.reward, (task,), offer.capabilities)
    except MilrError as error:
        raise refuse(error, "prompt", "prompt_not_understood") from None
    return task


def check_method(name: str | None, given: Mapping[str, Value], offer: Offer) -> tuple[str, dict[str, object]]:
    """Return the method and its given settings; only milr's own methods can be named.

    Raises:
        ApiError: No such method, or a setting that is the server's.
    """
    if name is not None and name not in METHODS:
        raise ApiError(400, "unknown_method", str(unknown_name("method", name[:100], METHODS)), param="method")
    for setting in SERVERS_OWN:
        if setting in given:
            raise ApiError(400, "servers_setting", f"{setting} is the server's to decide: leave it out", param=setting)
    seed = given.get("seed")
    if isinstance(seed, int | float) and not 0 <= seed <= LARGEST_SEED:
        raise ApiError(400, "invalid_value", f"seed {seed}: must be in [0, {LARGEST_SEED}]", param="seed")
    for setting, value in given.items():
        if setting == "seed" or not isinstance(value, int | float) or value == 0:
            continue
        if not SMALLEST <= abs(value) <= LARGEST:
            message = f"{setting} {value}: must be 0, or in [{SMALLEST:g}, {LARGEST:g}]"
            raise ApiError(400, "invalid_value", message, param=setting)
    return take_best(name, {key: value for key, value in given.items() if value is not None}, offer.best)
