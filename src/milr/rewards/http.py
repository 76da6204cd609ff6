"""`http://...`: a reward in another process, with its own packages. docs/rewards.md states the protocol."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from milr.errors import UsageError
from milr.rewards.base import Scores
from milr.rewards.images.convert import to_png
from milr.rewards.vlm.client import Failure, VlmClient
from milr.rewards.vlm.messages import keep_words, lenient, redact
from milr.rewards.vlm.parsers import quote
from milr.rewards.vlm.settings import check_url, require_extra
from milr.types import Region, Score, Task, Unscored
from milr.untrusted import first_fault, keep_plain, one_line

PROTOCOL = "milr-reward/1"
_AT_ONCE = 8  # images per request: one fault costs no more than these


def _keep_evidence(found: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", keep_plain(found, keep_words))


def _keep_regions(found: tuple[Region, ...]) -> tuple[Region, ...]:
    return tuple(replace(one, name=keep_words(one.name), color=one.color and keep_words(one.color)) for one in found)


class Description(BaseModel):
    """The reply to GET."""

    model_config = ConfigDict(frozen=True)

    protocol: Literal["milr-reward/1"]
    reward: Annotated[str, AfterValidator(lambda name: one_line(redact(name), 200))] = Field(min_length=1)
    """Name and version."""
    stop_at: float = Field(default=0.9, ge=0, le=1, strict=True)


Text = Annotated[str, AfterValidator(keep_words)]


class RemoteScore(BaseModel):
    """One of the scores in the reply to POST: a value, or the reason why there is none.

    A value is a number: neither `true` nor "1" is one. Other fields that are too long, too deep or of another type are
    dropped, because no score needs them.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    value: float | None = Field(default=None, ge=0, le=1, strict=True)
    parts: Annotated[dict[Text, Annotated[float, Field(strict=True)]], Field(max_length=100), lenient({})] = {}
    explanation: Annotated[Text, lenient("")] = ""
    evidence: Annotated[dict[str, Any], AfterValidator(_keep_evidence), lenient({})] = {}
    unscored: Text | None = None
    regions: Annotated[tuple[Region, ...], Field(max_length=1000), AfterValidator(_keep_regions), lenient(())] = ()


class Remote:
    """A reward that asks a URL. Implements `milr.rewards.base.Reward`."""

    def __init__(self, argument: str, vlm: VlmClient) -> None:
        """Ask the URL for its description.

        Raises:
            UsageError: It is not a URL, nobody answers, or the reply is not that of a reward.
        """
        check_url(argument, "the reward's URL")
        require_extra("http", ("stamina", "httpx2"))
        self._url = argument
        self._vlm = vlm
        found = vlm.post(argument, None).result()
        if isinstance(found, Failure):
            raise UsageError(f"the reward {argument}: {found.reason}; start its server, or check the URL")
        try:
            described = Description.model_validate(found)
        except ValidationError as error:
            raise UsageError(
                f"the reward {argument} does not describe itself in the protocol {PROTOCOL} ({first_fault(error)}): "
                f"see docs/rewards.md and examples/reward_server.py"
            ) from error
        self.name = f"{described.reward} at {argument}"
        self.stop_at = described.stop_at

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return self.begin(images, tasks)()

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Send the images; return a call that waits for the scores."""
        if len(images) != len(tasks):
            raise ValueError(f"{len(images)} images and {len(tasks)} tasks: one task an image is needed")
        waits: list[Callable[[], list[Score | Unscored]]] = []
        for start in range(0, len(images), _AT_ONCE):
            waits.append(self._send(images[start : start + _AT_ONCE], tasks[start : start + _AT_ONCE]))
        return lambda: [score for wait in waits for score in wait()]

    def _send(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Callable[[], list[Score | Unscored]]:
        items: list[dict[str, object]] = []
        lost: dict[int, Unscored] = {}
        for place, (image, task) in enumerate(zip(images, tasks, strict=True)):
            try:
                data = base64.b64encode(to_png(image)).decode()
                items.append({"picture": data, "task": task.model_dump(mode="json", by_alias=True)})
            except (OSError, ValueError) as error:
                lost[place] = Unscored(f"the image cannot be read: {error}", self.name)
        sent: Future[dict[str, Any] | Failure] | None = None
        if items:
            sent = self._vlm.post(self._url, {"protocol": PROTOCOL, "items": items})

        def wait() -> list[Score | Unscored]:
            scored = iter(self._read(sent.result(), len(items)) if sent else ())
            return [lost[place] if place in lost else next(scored) for place in range(len(images))]

        return wait

    def _read(self, found: dict[str, Any] | Failure, count: int) -> list[Score | Unscored]:
        if isinstance(found, Failure):
            return [Unscored(found.reason, self.name, final=found.final)] * count
        scores = _as_list(found.get("scores"))
        if len(scores) != count:
            reason = f"the server gave {len(scores)} scores for {count} images: {quote(redact(str(found)[:400]))}"
            return [Unscored(reason, self.name)] * count
        return [self._read_one(score) for score in scores]

    def _read_one(self, found: object) -> Score | Unscored:
        try:
            one = RemoteScore.model_validate(found)
        except ValidationError as error:
            return Unscored(f"the server gave no score ({first_fault(error)})", self.name)
        if one.value is None or one.unscored is not None:
            return Unscored(one.unscored or "the server gave no value and no reason", self.name)
        return Score(one.value, self.name, self.stop_at, one.parts, one.explanation, one.evidence, regions=one.regions)


def _as_list(given: object) -> list[object]:
    return cast("list[object]", given) if isinstance(given, list) else []
