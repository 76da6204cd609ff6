"""`http://...`: a reward in another process, with its own packages. docs/rewards.md states the protocol."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from threading import Lock
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

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
PLAIN = "plain"
"""The fragment of URLs whose reward keeps its own name: servers that a run has started for itself."""
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
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
    stop_at: Annotated[float | None, Field(ge=0, le=1, strict=True), lenient(None)] = None
    """The stop value for this task; None is the reward's."""
    cost: Annotated[float, Field(ge=0, strict=True), lenient(0.0)] = 0.0
    final: Annotated[bool, Field(strict=True), lenient(False)] = False
    """For an image without a value: nothing can be scored any more."""
    parts: Annotated[dict[Text, Annotated[float, Field(strict=True)]], Field(max_length=100), lenient({})] = {}
    explanation: Annotated[Text, lenient("")] = ""
    evidence: Annotated[dict[str, Any], AfterValidator(_keep_evidence), lenient({})] = {}
    unscored: Text | None = None
    regions: Annotated[tuple[Region, ...], Field(max_length=1000), AfterValidator(_keep_regions), lenient(())] = ()


class Remote:
    """A reward that asks one or several URLs. Implements `milr.rewards.base.Reward`.

    Each request goes to the URL with the fewest in progress. One that does not answer any more gets no others; what it
    was asked is asked of another one.
    """

    def __init__(self, argument: str, vlm: VlmClient) -> None:
        """Ask the URLs, which commas separate, for their description.

        Raises:
            UsageError: One is not a URL, nobody answers, or the replies are not those of one reward.
        """
        self._vlm = vlm
        listed, _, fragment = argument.partition("#")
        self._open = dict.fromkeys((url.strip() for url in listed.split(",")), 0)  # URL -> requests in progress
        self._gone: set[str] = set()  # URLs that answer no more
        self._lock = Lock()
        described = {url: self._describe(url) for url in self._open}
        first = next(iter(described.values()))
        other = next((url for url, one in described.items() if one != first), None)
        if other is not None:
            raise UsageError(
                f"{other} serves {described[other].reward} and {next(iter(described))} {first.reward}: give the URLs "
                "of one reward"
            )
        # a server elsewhere must not pass its numbers off as those of another reward
        own = fragment == PLAIN and all(urlsplit(url).hostname in _THIS_MACHINE for url in self._open)
        self.name = first.reward if own else f"{first.reward} at {listed}"
        self.stop_at = first.stop_at

    def _describe(self, argument: str) -> Description:
        check_url(argument, "the reward's URL")
        require_extra("http", ("stamina", "httpx2"))
        found = self._vlm.post(argument, None).result()
        if isinstance(found, Failure):
            raise UsageError(f"the reward {argument}: {found.reason}; start its server, or check the URL")
        try:
            return Description.model_validate(found)
        except ValidationError as error:
            raise UsageError(
                f"the reward {argument} does not describe itself in the protocol {PROTOCOL} ({first_fault(error)}): "
                f"see docs/rewards.md and examples/reward_server.py"
            ) from error

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
        answer = self._ask({"protocol": PROTOCOL, "items": items}) if items else None

        def wait() -> list[Score | Unscored]:
            scored = iter(self._read(answer(), len(items)) if answer else ())
            return [lost[place] if place in lost else next(scored) for place in range(len(images))]

        return wait

    def _ask(self, body: Mapping[str, object]) -> Callable[[], dict[str, Any] | Failure]:
        """Send a request to the URL with the fewest; return a call that waits for its answer, or for another URL's."""
        asked: list[str] = []
        sent = self._post(body, asked)

        def wait() -> dict[str, Any] | Failure:
            found = sent.result()
            while True:
                with self._lock:
                    self._open[asked[-1]] -= 1
                    if isinstance(found, Failure) and found.final:
                        self._gone.add(asked[-1])
                    others = self._open.keys() - {*asked, *self._gone}
                if not isinstance(found, Failure) or not others:
                    return found
                found = self._post(body, asked).result()

        return wait

    def _post(self, body: Mapping[str, object], asked: list[str]) -> Future[dict[str, Any] | Failure]:
        """Send a request to a URL that was not asked yet, and note the URL."""
        with self._lock:
            able = [url for url in self._open if url not in (*asked, *self._gone)] or [*self._open]
            asked.append(min(able, key=lambda url: self._open[url]))
            self._open[asked[-1]] += 1
        return self._vlm.post(asked[-1], body)

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
            reason = one.unscored or "the server gave no value and no reason"
            return Unscored(reason, self.name, one.final, one.cost)
        stop_at = self.stop_at if one.stop_at is None else one.stop_at
        said = (one.parts, one.explanation, one.evidence, one.cost, one.regions)
        return Score(one.value, self.name, stop_at, *said)


def _as_list(given: object) -> list[object]:
    return cast("list[object]", given) if isinstance(given, list) else []
