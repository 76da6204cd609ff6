"""Client of VLM judges over HTTP: many questions at once, retries, a cache, a budget.

One event loop in its own thread does the waiting, so the search continues to draw meanwhile. Every outcome becomes a
`Reply` or a `Failure`; nothing is raised, and no key, header or image is logged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from milr.errors import UsageError
from milr.rewards.vlm.budget import PRICES, BudgetSpent, Price, count_image_tokens, count_text_tokens, parse_budget
from milr.rewards.vlm.cache import AnswerCache, cache_key, default_cache
from milr.rewards.vlm.faults import await_reply
from milr.rewards.vlm.habits import Habits
from milr.rewards.vlm.messages import (
    OPENAI_KEY,
    OPENAI_URL,
    REASONING_ROOM,
    LastingFault,
    PassingFault,
    Question,
    find_fault,
    read_completion,
    read_object,
    read_usage,
    write_body,
)
from milr.rewards.vlm.parsers import Answer, Unreadable, Verdict
from milr.rewards.vlm.settings import VlmSettings, check_url, find_key, require_extra
from milr.rewards.vlm.transport import Wire

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A VLM judge's readable answer."""

    verdict: Verdict
    answer: Answer
    cost: float = 0.0
    """US dollars that the question cost, including earlier unreadable answers; 0 from the cache."""


@dataclass(frozen=True)
class Failure:
    """The reason why there is no answer."""

    reason: str
    final: bool = False
    """True if no further question can succeed: a wrong key, a spent budget."""
    cost: float = 0.0
    """US dollars that the attempts cost."""


Settled = Reply | Failure
Read = Callable[[Answer], Verdict]


@dataclass
class _Usage:
    """Tokens that one question has used so far."""

    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, price: Price) -> float:
        """Return US dollars."""
        return (self.tokens_in * price[0] + self.tokens_out * price[1]) / 1e6


class VlmClient:
    """A client that asks questions and accounts for them. It is cheap to make; the first question opens it."""

    def __init__(self, settings: VlmSettings | None = None) -> None:
        """Check the settings.

        Raises:
            UsageError: The URL is malformed or contains a password, or the budget cannot be read.
        """
        self.settings = settings or VlmSettings()
        if self.settings.url is not None:
            check_url(self.settings.url, "--vlm-url")
        self.budget = parse_budget(self.settings.budget)
        self._wire: Wire | None = None
        self._limit = asyncio.Semaphore(self.settings.concurrency)
        self._under_way: dict[str, asyncio.Task[Settled]] = {}
        self._habits: dict[str, Habits] = {}  # by model, or by method and URL

    @cached_property
    def cache(self) -> AnswerCache:
        """Return the cache's folder, which is looked up at the first question."""
        return AnswerCache(self.settings.cache or default_cache())

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return (self.settings.url or OPENAI_URL).rstrip("/")

    @property
    def host(self) -> str:
        """Return the server's name for messages."""
        return urlsplit(self.url).netloc

    @property
    def hosted(self) -> bool:
        """True if the server is OpenAI's."""
        return urlsplit(self.url).hostname == "api.openai.com"

    def price_of(self, model: str) -> Price:
        """Return the price of a model's tokens on this server: as given, else as listed for OpenAI's models, else 0."""
        if self.settings.price is not None:
            return self.settings.price
        return PRICES.get(model, (0.0, 0.0)) if self.hosted else (0.0, 0.0)

    def usage(self) -> dict[str, str | int] | None:
        """Return calls and tokens so far, for a run's manifest; None if no VLM judge was asked."""
        spent = self.budget
        if not spent.calls and not spent.cached:
            return None
        counts = {"calls": spent.calls, "cached": spent.cached}
        tokens = {"tokens_in": spent.tokens_in, "tokens_out": spent.tokens_out}
        left = {f"{model} asked without": ", ".join(fields) for model, fields in self.left_out().items()}
        return {"url": self.url, **counts, **tokens, **left}

    def check(self, asker: str, *, needs_url: bool = False, kind: str = "reward") -> None:
        """Refuse settings with which the first question would fail.

        Args:
            asker: Name of the reward, or of another part of milr that asks, for errors.
            needs_url: True if OpenAI's service is no default.
            kind: What the name names.

        Raises:
            UsageError: The extra is not installed, no server is named, or OpenAI's key is missing.
        """
        require_extra(asker, kind=kind)
        _ = self.cache  # a missing folder for the cache is reported before anything is drawn
        if needs_url and self.settings.url is None:
            raise UsageError(
                f"the {kind} {asker!r} needs a server: serve its model (vllm serve, transformers serve, or "
                f"milr serve-judge) and give --vlm-url http://localhost:8000/v1"
            )
        if self.hosted and not os.environ.get(OPENAI_KEY, "").strip():
            raise UsageError(
                f"the {kind} {asker!r} asks {self.host} and finds no key: set {OPENAI_KEY}, "
                f"or give {'--vlm-url' if kind == 'reward' else 'the url'} of a server of your own"
            )

    def ask(self, question: Question, read: Read) -> Future[Settled]:
        """Ask in the background; the future never raises."""
        return self._open().submit(self._settle(question, read))

    def post(
        self, url: str, body: Mapping[str, object] | None, *, keyed: bool = False
    ) -> Future[dict[str, Any] | Failure]:
        """Send a JSON object, or GET if there is none, and read one, with the same care. Never raises.

        Args:
            url: The whole URL.
            body: The object.
            keyed: Send the key of the settings' server, as questions do.
        """
        return self._open().submit(self._exchange(url, body, keyed))

    def close(self) -> None:
        """End questions in progress; the client may be used again."""
        if self._wire is not None:
            self._wire.finalize()
            self._wire = None
            self._limit = asyncio.Semaphore(self.settings.concurrency)
            self._under_way = {}
            self._habits = {}

    def left_out(self) -> dict[str, tuple[str, ...]]:
        """Return the fields that a model refused and that requests leave out: model -> fields."""
        return {model: tuple(sorted(one.without)) for model, one in self._habits.items() if one.without}

    def _open(self) -> Wire:
        if self._wire is None:
            self._wire = Wire(self.settings.most_bytes)
        return self._wire

    async def _settle(self, question: Question, read: Read) -> Settled:
        try:
            key = cache_key(self.url, question)
        except (OSError, ValueError) as error:
            return Failure(f"the image cannot be read: {error}")
        kept = self.cache.get(key)
        if kept is not None:
            try:
                verdict = read(kept)
                self.budget.cached += 1
                return Reply(verdict, kept)
            except Unreadable:
                pass  # stored by a version that read more than this one: ask again
        if key in self._under_way:  # the same question is in progress: its first asker pays
            return replace(await asyncio.shield(self._under_way[key]), cost=0.0)
        self._under_way[key] = asyncio.create_task(self._ask(question, read, key))
        self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(self._under_way[key])

    async def _ask(self, question: Question, read: Read, key: str) -> Settled:
        used = _Usage()
        settled = await self._try(question, read, key, used)
        return replace(settled, cost=used.cost(self.price_of(question.model)))

    async def _try(self, question: Question, read: Read, key: str, used: _Usage) -> Settled:
        failure = Failure("")
        habits = self._habits.setdefault(question.model, Habits())
        async with self._limit:
            for _ in range(question.tries):
                if habits.given_up is not None:
                    return Failure(habits.given_up, final=True)
                try:
                    answer = await self._retry(lambda: self._complete(question, used, habits))
                    habits.answer()
                    verdict = read(answer)
                except Unreadable as error:
                    habits.answer()
                    failure = Failure(str(error))
                    continue
                except LastingFault as error:
                    return Failure(habits.meet(error), final=habits.given_up is not None)
                except PassingFault as error:
                    return Failure(habits.miss(error, self.settings.most_faults), final=habits.given_up is not None)
                except BudgetSpent as error:
                    return Failure(str(error), final=True)
                except Exception as error:  # any other error of the libraries underneath is not an answer
                    return Failure(f"asking {self.host} failed: {type(error).__name__}")
                self.cache.put(key, answer)
                return Reply(verdict, answer)
        return failure

    async def _exchange(self, url: str, body: Mapping[str, object] | None, keyed: bool) -> dict[str, Any] | Failure:
        host = urlsplit(url).netloc
        headers = {"Authorization": f"Bearer {find_key(self.hosted)}"} if keyed else {}

        async def send() -> dict[str, Any]:
            self.budget.reserve(0)
            try:
                asked = self._wire_http().request("GET" if body is None else "POST", url, json=body, headers=headers)
                sent = await await_reply(asked, host, self.settings)
            finally:
                self.budget.settle(0, 0, 0)
            if sent.status_code >= 300:
                raise find_fault(sent.status_code, sent.headers, sent.content, host, None, self.settings.patience)
            return read_object(sent.content, host, self.settings.most_bytes)

        habits = self._habits.setdefault(f"{'GET' if body is None else 'POST'} {url}", Habits())
        async with self._limit:
            if habits.given_up is not None:
                return Failure(habits.given_up, final=True)
            try:
                found = await self._retry(send)
                habits.answer()
                return found
            except LastingFault as error:
                return Failure(habits.meet(error), final=habits.given_up is not None)
            except PassingFault as error:
                return Failure(habits.miss(error, self.settings.most_faults), final=habits.given_up is not None)
            except BudgetSpent as error:
                return Failure(str(error), final=True)
            except Exception as error:
                return Failure(f"asking {host} failed: {type(error).__name__}")

    async def _retry(self, send: Callable[[], Coroutine[Any, Any, T]]) -> T:
        stamina = import_module("stamina")

        def again(error: Exception) -> bool | float:
            if not isinstance(error, PassingFault):
                return False
            return True if error.wait is None else error.wait

        wait = self.settings.first_wait
        attempts = stamina.retry_context(
            on=again, attempts=self.settings.attempts, timeout=None, wait_initial=wait, wait_max=20, wait_jitter=wait
        )
        async for attempt in attempts:
            with attempt:
                return await send()
        raise AssertionError("stamina ends with a result or an exception")

    async def _complete(self, question: Question, used: _Usage, habits: Habits) -> Answer:
        """Ask until the server takes the request, each time without the fields that it has just refused."""
        without = habits.without
        while True:
            try:
                answer = await self._send(question, used, without)
            except LastingFault as fault:
                if fault.fields <= without:
                    raise
                without |= fault.fields
            else:
                habits.without |= without
                return answer

    async def _send(self, question: Question, used: _Usage, without: frozenset[str]) -> Answer:
        """Send one request and read one answer; count its tokens even if it cannot be read."""
        most = count_text_tokens((question.system or "") + question.user) + question.max_tokens
        most += count_image_tokens(*question.image.size) + ("max_tokens" in without) * REASONING_ROOM
        self.budget.reserve(most)
        tokens_in = tokens_out = 0
        try:
            chat = self._wire_openai(self.url).chat.completions.with_raw_response
            sent = await await_reply(
                chat.create(**write_body(question, without)), self.host, self.settings, question.model
            )
            body: bytes = sent.http_response.content
            tokens_in, tokens_out = read_usage(body)
            return read_completion(body, self.host, question.probabilities)
        finally:
            used.tokens_in += tokens_in
            used.tokens_out += tokens_out
            self.budget.settle(most, tokens_in, tokens_out)

    def _wire_openai(self, url: str) -> Any:
        assert self._wire is not None
        return self._wire.openai(url, find_key(self.hosted), self.settings.timeout, hosted=self.hosted)

    def _wire_http(self) -> Any:
        assert self._wire is not None
        return self._wire.http(self.settings.timeout)
