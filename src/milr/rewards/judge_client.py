"""Asks judges over HTTP: many at once, again after faults, never twice the same, never beyond the budget.

One event loop in a thread of its own does the waiting, so the search goes on drawing meanwhile. Whatever happens on the
wire becomes a `Verdict` or a `Failure`; nothing is raised, and no key, header or picture is logged: the loggers of the
libraries underneath, which would write whole requests at level DEBUG, are held to warnings while a client lives.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.errors import UsageError
from milr.rewards.answers import LONGEST, Answer, Unreadable, Verdict, likeliest, quote
from milr.rewards.budget import BudgetSpent, parse_budget, picture_tokens, text_tokens
from milr.rewards.pictures import picture_hash, to_png

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY, OWN_KEY = "OPENAI_API_KEY", "MILR_JUDGE_KEY"
EXTRA = "judges"
MOST_BYTES = 8 * 2**20
"""Of one response's body."""
# A filter holds for its own logger, not for those below it.
_LOUD = (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response", "httpx2", "httpcore2"),
    *(f"httpcore2.{part}" for part in ("http11", "http2", "connection", "proxy", "socks")),
)

T = TypeVar("T")


class JudgeSettings(BaseModel):
    """How judges are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    """Of an OpenAI-compatible server, up to and with /v1; None is OpenAI's."""
    model: str | None = None
    """The judge; None is each protocol's own."""
    budget: str | None = None
    """The cap, as `parse_budget` reads it."""
    concurrency: int = Field(default=8, ge=1)
    """Questions under way at once."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one answer, from the first byte sent to the last one read."""
    attempts: int = Field(default=4, ge=1)
    """Requests a question, the first one among them."""
    first_wait: float = Field(default=0.5, ge=0)
    """Seconds before the second attempt; doubles from there, up to 20."""
    patience: float = Field(default=120.0, ge=0)
    """The longest Retry-After that is waited for, in seconds; a longer one is a failure."""
    cache: Path | None = None
    """Where answers are kept; None is `default_cache()`."""


@dataclass(frozen=True)
class Failure:
    """Why there is no verdict."""

    reason: str
    final: bool = False
    """No further question will fare better: a wrong key, a spent budget."""


@dataclass(frozen=True)
class Question:
    """One picture, and what is asked about it."""

    protocol: str
    """Name and version: part of the cache's key."""
    judge: str
    """The model's name on its server."""
    system: str | None
    user: str
    picture: Image.Image = field(repr=False)
    max_tokens: int
    picture_first: bool = False
    """The picture stands before the text."""
    probabilities: bool = False
    """Ask for the likeliest first tokens."""
    tries: int = 1
    """Unreadable answers before it is given up."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the request's body."""


Settled = tuple[Verdict, Answer] | Failure
Read = Callable[[Answer], Verdict]


class _Lasting(Exception):
    """A fault that another attempt would meet again."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class _Passing(Exception):
    """A fault that another attempt may not meet."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Message(BaseModel):
    content: str | list[Any] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(BaseModel):
    """What is read of a chat completion."""

    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class JudgeClient:
    """Asks questions and settles them. Cheap to make; the first question opens it."""

    def __init__(self, settings: JudgeSettings | None = None) -> None:
        """Check what is given.

        Raises:
            UsageError: A URL that is none or that holds a password, a budget that cannot be read.
        """
        self.settings = settings or JudgeSettings()
        if self.settings.url is not None:
            check_url(self.settings.url, "--judge-url")
        self.budget = parse_budget(self.settings.budget)
        self.cache = AnswerCache(self.settings.cache or default_cache())
        self._wire: _Wire | None = None
        self._limit = asyncio.Semaphore(self.settings.concurrency)
        self._under_way: dict[str, asyncio.Task[Settled]] = {}

    @property
    def url(self) -> str:
        """Where judges are asked."""
        return (self.settings.url or OPENAI_URL).rstrip("/")

    @property
    def host(self) -> str:
        """The server, as people are told."""
        return urlsplit(self.url).netloc

    @property
    def hosted(self) -> bool:
        """Whether judges are OpenAI's own."""
        return urlsplit(self.url).hostname == "api.openai.com"

    def spending(self) -> dict[str, str | int] | None:
        """What judges cost so far, for a run's manifest; None where none was asked."""
        spent = self.budget
        if not spent.calls and not spent.cached:
            return None
        counts = {"calls": spent.calls, "cached": spent.cached}
        return {"url": self.url, **counts, "tokens_in": spent.tokens_in, "tokens_out": spent.tokens_out}

    def check(self, reward: str, *, needs_url: bool = False) -> None:
        """Refuse at once what would fail at the first question.

        Raises:
            UsageError: The extra is not installed, no server is named, or OpenAI's key is missing.
        """
        require_extra(reward)
        if needs_url and self.settings.url is None:
            raise UsageError(
                f"the reward {reward!r} needs a server: serve its model (vllm serve, transformers serve, or "
                f"milr serve-judge) and give --judge-url http://localhost:8000/v1"
            )
        if self.hosted and not os.environ.get(OPENAI_KEY):
            raise UsageError(
                f"the reward {reward!r} asks {self.host} and finds no key: set {OPENAI_KEY}, "
                f"or give --judge-url of a server of your own"
            )

    def ask(self, question: Question, read: Read) -> Future[Settled]:
        """Ask in the background; the future never raises."""
        return self._open().submit(self._settle(question, read))

    def post(self, url: str, body: Mapping[str, object] | None) -> Future[dict[str, Any] | Failure]:
        """Send a JSON object, or GET where there is none, and read one; with the same care. Never raises."""
        return self._open().submit(self._exchange(url, body))

    def close(self) -> None:
        """End what is under way; the client may be used again."""
        if self._wire is not None:
            self._wire.finalize()
            self._wire = None
            self._limit = asyncio.Semaphore(self.settings.concurrency)
            self._under_way = {}

    def _open(self) -> _Wire:
        if self._wire is None:
            self._wire = _Wire()
        return self._wire

    async def _settle(self, question: Question, read: Read) -> Settled:
        try:
            key = _cache_key(self.url, question)
        except (OSError, ValueError) as error:
            return Failure(f"the picture cannot be read: {error}")
        kept = self.cache.get(key)
        if kept is not None:
            try:
                verdict = read(kept)
                self.budget.cached += 1
                return verdict, kept
            except Unreadable:
                pass  # kept by a version that read more than this one: ask again
        if key not in self._under_way:
            self._under_way[key] = asyncio.create_task(self._ask(question, read, key))
            self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(self._under_way[key])

    async def _ask(self, question: Question, read: Read, key: str) -> Settled:
        failure = Failure("")
        async with self._limit:
            for _ in range(question.tries):
                try:
                    answer = await self._retry(lambda: self._complete(question))
                    verdict = read(answer)
                except Unreadable as error:
                    failure = Failure(str(error))
                    continue
                except (_Lasting, _Passing, BudgetSpent) as error:
                    final = isinstance(error, BudgetSpent) or (isinstance(error, _Lasting) and error.final)
                    return Failure(str(error), final=final)
                except Exception as error:  # whatever the libraries underneath raise is no verdict
                    return Failure(f"asking {self.host} failed: {type(error).__name__}")
                self.cache.put(key, answer)
                return verdict, answer
        return failure

    async def _exchange(self, url: str, body: Mapping[str, object] | None) -> dict[str, Any] | Failure:
        async def send() -> dict[str, Any]:
            self.budget.reserve(0)
            try:
                sent = await self._timed(self._wire_http().request("GET" if body is None else "POST", url, json=body))
            finally:
                self.budget.settle(0, 0, 0)
            host = urlsplit(url).netloc
            if sent.status_code >= 300:
                raise _status_fault(sent.status_code, sent.headers, sent.content, host, None, self.settings.patience)
            return _read_object(sent.content, host)

        async with self._limit:
            try:
                return await self._retry(send)
            except (_Lasting, _Passing, BudgetSpent) as error:
                return Failure(str(error), final=isinstance(error, BudgetSpent))
            except Exception as error:
                return Failure(f"asking {urlsplit(url).netloc} failed: {type(error).__name__}")

    async def _retry(self, send: Callable[[], Coroutine[Any, Any, T]]) -> T:
        stamina = import_module("stamina")

        def again(error: Exception) -> bool | float:
            if not isinstance(error, _Passing):
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

    async def _complete(self, question: Question) -> Answer:
        """One request, one answer."""
        most = text_tokens((question.system or "") + question.user) + question.max_tokens
        most += picture_tokens(*question.picture.size)
        self.budget.reserve(most)
        tokens_in = tokens_out = 0
        try:
            chat = self._wire_openai(self.url).chat.completions.with_raw_response
            sent = await self._timed(chat.create(**_body(question)), question.judge)
            body: bytes = sent.http_response.content
            answer = _read_completion(body, self.host, question.probabilities)
            tokens_in, tokens_out = answer.tokens_in, answer.tokens_out
        finally:
            self.budget.settle(most, tokens_in, tokens_out)
        return answer

    async def _timed(self, sending: Coroutine[Any, Any, T], judge: str | None = None) -> T:
        """Await one request; its faults become passing or lasting ones, with the key taken out of what they say."""
        openai, httpx = import_module("openai"), import_module("httpx2")
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await sending
        except (TimeoutError, openai.APITimeoutError, httpx.TimeoutException) as error:
            raise _Passing(f"{self.host} gave no answer within {self.settings.timeout:g} s") from error
        except openai.APIStatusError as error:
            sent = error.response
            raise _status_fault(
                sent.status_code, sent.headers, sent.content, self.host, judge, self.settings.patience
            ) from error
        except (openai.APIConnectionError, httpx.HTTPError) as error:
            cause = error.__cause__ or error
            raise _Passing(f"no connection to {self.host}, or it was cut ({type(cause).__name__})") from error

    def _wire_openai(self, url: str) -> Any:
        assert self._wire is not None
        return self._wire.openai(url, _key(self.hosted), self.settings.timeout)

    def _wire_http(self) -> Any:
        assert self._wire is not None
        return self._wire.http(self.settings.timeout)


class _Wire:
    """A loop in a daemon thread, and the HTTP clients that live in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="milr-judges", daemon=True)
        self._clients: dict[str, Any] = {}
        self._thread.start()
        _hold_loggers()
        self.finalize = weakref.finalize(self, _shut, self._loop, self._thread, self._clients)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def openai(self, url: str, key: str, timeout: float) -> Any:
        if url not in self._clients:
            made = import_module("openai").AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout)
            self._clients[url] = made
        return self._clients[url]

    def http(self, timeout: float) -> Any:
        if "http" not in self._clients:
            self._clients["http"] = import_module("httpx2").AsyncClient(timeout=timeout)
        return self._clients["http"]


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, clients: dict[str, Any]) -> None:
    async def end() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in clients.values():
            await (client.aclose() if hasattr(client, "aclose") else client.close())

    if threading.current_thread() is thread:  # the last reference went in the loop itself
        loop.stop()
        return
    try:
        asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        loop.close()


class AnswerCache:
    """Answers by what was asked: picture, words, judge, protocol. A file each, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Answer | None:
        """The answer, or None where there is none or its file cannot be read."""
        try:
            kept = json.loads(self._file(key).read_bytes())
            kept["first_tokens"] = tuple((str(token), float(value)) for token, value in kept["first_tokens"])
            return Answer(**kept)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; a folder that cannot be written to costs the cache, not the run."""
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as fresh:
                fresh.write(json.dumps(vars(answer)).encode())
            os.replace(fresh.name, file)
        except OSError:
            return

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def default_cache() -> Path:
    """`judges` in $MILR_CACHE, else in the user's cache folder."""
    root = os.environ.get("MILR_CACHE")
    if root:
        return Path(root) / "judges"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milr" / "judges"


def check_url(url: str, what: str) -> None:
    """Refuse what is no http(s) URL, and URLs that hold a name or password: those would end up in run folders."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        secret = bool(parts.username or parts.password)
    except ValueError:
        valid, secret = False, False
    if secret:
        raise UsageError(f"{what} holds a name or password: leave it out and set {OWN_KEY} in the environment")
    if not valid:
        raise UsageError(f"{what} {url!r} is no URL: give for instance http://localhost:8000/v1")


def require_extra(reward: str) -> None:
    """Refuse a reward whose packages are not installed.

    Raises:
        UsageError: With the command that installs them.
    """
    for package in ("openai", "stamina", "httpx2"):
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(
                f"the reward {reward!r} needs the package {package!r}, which is not installed: "
                f'type pip install "milr[{EXTRA}]"'
            ) from error


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a server asks to wait: Retry-After in seconds or as a date, or OpenAI's retry-after-ms."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        given = headers["retry-after"].strip()
    except (KeyError, ValueError):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", given):
        return float(given)
    try:
        when = parsedate_to_datetime(given)
    except (ValueError, TypeError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def redact(text: str) -> str:
    """A server's words without keys and without pictures, on one line."""
    for name in (OPENAI_KEY, OWN_KEY):
        key = os.environ.get(name)
        if key:
            text = text.replace(key, "[key]")
    text = re.sub(r"(?i)\bsk-[\w*-]{6,}|\bbearer\s+\S+", "[key]", text)
    return re.sub(r"[A-Za-z0-9+/=_-]{80,}", "[data]", text)


def _key(hosted: bool) -> str:
    """OpenAI's key goes to OpenAI alone; other servers get the user's key for them, or a placeholder."""
    return os.environ.get(OPENAI_KEY if hosted else OWN_KEY) or "none"


def _cache_key(url: str, question: Question) -> str:
    asked = {
        "url": url,
        "protocol": question.protocol,
        "judge": question.judge,
        "system": question.system,
        "user": question.user,
        "picture": picture_hash(question.picture),
        "max_tokens": question.max_tokens,
        "extra": dict(question.extra),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _body(question: Question) -> dict[str, Any]:
    """The request: OpenAI's chat format, the picture as a PNG data URL, temperature 0."""
    data = base64.b64encode(to_png(question.picture)).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    text = {"type": "text", "text": question.user}
    content = [picture, text] if question.picture_first else [text, picture]
    system = [{"role": "system", "content": question.system}] if question.system else []
    body: dict[str, Any] = {
        "model": question.judge,
        "messages": [*system, {"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": question.max_tokens,
    }
    if question.probabilities:
        body |= {"logprobs": True, "top_logprobs": 20}
    if question.extra:
        body["extra_body"] = dict(question.extra)
    return body


def _read_completion(body: bytes, host: str, probabilities: bool) -> Answer:
    if len(body) > MOST_BYTES:
        raise _Lasting(f"{host} answered {len(body):,} bytes, more than any verdict has")
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        # A body that was cut off on its way is not JSON; another attempt may get it whole.
        raise _Passing(f"{host} answered something that is no chat completion: {_excerpt(body)}") from error
    choice = completion.choices[0]
    if choice.message.refusal:
        raise Unreadable(f"the judge refuses: {quote(redact(choice.message.refusal))}")
    if choice.finish_reason == "content_filter":
        raise Unreadable("the server's content filter withheld the answer")
    text = _text_of(choice.message.content)
    if len(text) > LONGEST:  # before data is taken out of it, which would make it short
        raise Unreadable(f"the answer has {len(text):,} characters, and a verdict is short")
    usage = completion.usage or _Usage()
    return Answer(
        text=redact(text),
        model=completion.model[:200],
        cut=choice.finish_reason == "length",
        first_tokens=_first_tokens(choice.logprobs) if probabilities else (),
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
    )


def _text_of(content: str | list[Any] | None) -> str:
    """The text of a message; some servers send it as a list of parts."""
    if isinstance(content, list):
        parts = [cast("dict[str, object]", part).get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content or ""


def _first_tokens(logprobs: dict[str, Any] | None) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens of the first place that is not mere space."""
    try:
        places: Sequence[Any] = (logprobs or {})["content"]
        place = next(place for place in places if str(place["token"]).strip())
        return likeliest([(str(entry["token"]), float(entry["logprob"])) for entry in place["top_logprobs"]])
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError):
        return ()


def _read_object(body: bytes, host: str) -> dict[str, Any]:
    if len(body) > MOST_BYTES:
        raise _Lasting(f"{host} answered {len(body):,} bytes, more than any scores have")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Passing(f"{host} answered something that is no JSON: {_excerpt(body)}") from error
    if not isinstance(found, dict):
        raise _Lasting(f"{host} answered JSON that is no object: {_excerpt(body)}")
    return found  # pyright: ignore[reportUnknownVariableType]


def _status_fault(
    status: int, headers: Mapping[str, str], body: bytes, host: str, judge: str | None, patience: float
) -> _Passing | _Lasting:
    said = f"HTTP {status} from {host}: {_excerpt(body)}"
    if status in (401, 403):
        name = OPENAI_KEY if host == urlsplit(OPENAI_URL).netloc else OWN_KEY
        return _Lasting(f"{said}; check the key in {name}", final=True)
    if status == 404:
        return _Lasting(f"{said}; check the URL" + (f" and that it serves {judge!r}" if judge else ""), final=True)
    if status == 429 and b"insufficient_quota" in body:
        return _Lasting(f"{said}; the account has no credit left", final=True)
    if status in (408, 409, 425, 429) or status >= 500:
        wait = retry_after(headers, datetime.now(UTC))
        if wait is not None and wait > patience:
            return _Lasting(f"{said}; it asks to wait {wait:.0f} s, longer than the {patience:g} s allowed")
        return _Passing(said, wait)
    return _Lasting(said)


def _excerpt(body: bytes) -> str:
    return quote(redact(body[:2000].decode(errors="replace")))


def _hold_loggers() -> None:
    """Keep the libraries underneath from writing requests down, whatever level an application sets."""
    for name in _LOUD:
        logger = logging.getLogger(name)
        if _warnings_only not in logger.filters:
            logger.addFilter(_warnings_only)
    # Its warnings say that an attempt is repeated; what comes of it is in the score.
    stamina = logging.getLogger("stamina")
    if _errors_only not in stamina.filters:
        stamina.addFilter(_errors_only)


def _warnings_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
