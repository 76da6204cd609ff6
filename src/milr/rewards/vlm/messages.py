"""Messages to and from a VLM judge: a question as OpenAI's chat request, a response as an `Answer` or a fault."""

from __future__ import annotations

import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, cast
from urllib.parse import quote as quote_url
from urllib.parse import urlsplit

from PIL import Image
from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from milr.rewards.images.convert import to_png
from milr.rewards.vlm.parsers import LONGEST, Answer, Unreadable, likeliest, plain_token, quote
from milr.untrusted import MOST_WORDS, one_line, printable

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY, OWN_KEY = "OPENAI_API_KEY", "MILR_VLM_KEY"
SECRETS = (OPENAI_KEY, OWN_KEY, "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HF_TOKEN")
"""Environment variables whose values no server's words may bring into a run, the cache or the console."""
_LEAST_KEY = 6
"""Least characters of a secret: a shorter value might be part of ordinary words."""
_MOST_TOKENS = 50
MOST_BYTES = 8 * 2**20
"""Most bytes of a response's body."""
MOST_TOLD = 2000
"""Most bytes of a server's error message that are read."""
DISPENSABLE = ("max_tokens", "temperature", "chat_template_kwargs", "repetition_penalty")
"""Optional fields of a request: some models refuse them."""
REASONING_ROOM = 4096
"""Tokens for thinking before the answer, which `max_completion_tokens` includes."""


@dataclass(frozen=True)
class Question:
    """One image and a question about it."""

    protocol: str
    """Name and version, part of the cache's key."""
    model: str
    """The VLM judge's name on its server."""
    system: str | None
    user: str
    image: Image.Image = field(repr=False)
    max_tokens: int
    image_first: bool = False
    """Put the image before the text."""
    probabilities: bool = False
    """Ask for the most probable first tokens."""
    tries: int = 1
    """Questions to ask until an answer can be read."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the request's body."""


class LastingFault(Exception):
    """A fault that another attempt would meet again."""

    def __init__(
        self, reason: str, *, final: bool = False, refuses: bool = False, fields: frozenset[str] = frozenset()
    ) -> None:
        """Take the reason.

        Args:
            reason: In one line.
            final: True if no other question can succeed.
            refuses: True if the server refuses the request itself, not the question.
            fields: The optional fields that it names as the cause.
        """
        super().__init__(reason)
        self.final, self.refuses, self.fields = final, refuses, fields


class PassingFault(Exception):
    """A fault that another attempt may not meet."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def lenient(default: object) -> WrapValidator:
    """Return a reader of an optional field: `default` if the value is not of its type."""

    def read(value: object, rest: ValidatorFunctionWrapHandler) -> object:
        try:
            return rest(value)
        except ValidationError:
            return default

    return WrapValidator(read)


class _Message(BaseModel):
    content: str | list[Any] | None = None
    refusal: Annotated[str | None, lenient(None)] = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Annotated[str | None, lenient(None)] = None
    logprobs: Annotated[dict[str, Any] | None, lenient(None)] = None


class _Usage(BaseModel):
    prompt_tokens: Annotated[int, Field(ge=0), lenient(0)] = 0
    completion_tokens: Annotated[int, Field(ge=0), lenient(0)] = 0


class _Billed(BaseModel):
    """The usage in a chat completion, readable even if the rest is not."""

    usage: Annotated[_Usage | None, lenient(None)] = None


class _Completion(_Billed):
    """The parts of a chat completion that are read: the first choice's text and metadata."""

    model: Annotated[str, lenient("")] = ""
    choices: list[Any] = Field(min_length=1)


def write_body(question: Question, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the request: OpenAI's chat format, the image as a PNG data URL, temperature 0.

    Args:
        question: The question.
        without: The fields of `DISPENSABLE` that the server refuses. `max_completion_tokens` takes the place of
            `max_tokens`, with `REASONING_ROOM`.
    """
    data = b64encode(to_png(question.image)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    text = {"type": "text", "text": question.user}
    content = [image, text] if question.image_first else [text, image]
    system = [{"role": "system", "content": question.system}] if question.system else []
    body: dict[str, Any] = {
        "model": question.model,
        "messages": [*system, {"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": question.max_tokens,
        "max_completion_tokens": question.max_tokens + REASONING_ROOM,
    }
    without = {*without, "max_tokens" if "max_tokens" in without else "max_completion_tokens"}
    body = {name: value for name, value in body.items() if name not in without}
    if question.probabilities:
        body |= {"logprobs": True, "top_logprobs": 20}
    extra = {name: value for name, value in question.extra.items() if name not in without}
    if extra:
        body["extra_body"] = extra
    return body


def read_completion(body: bytes, host: str, probabilities: bool) -> Answer:
    """Read a chat completion's body as an answer.

    Raises:
        Unreadable: The VLM judge refuses, or its answer is far too long.
        PassingFault: It is not a chat completion.
        LastingFault: It is longer than any chat completion.
    """
    if len(body) > MOST_BYTES:
        raise LastingFault(f"{host} answered {len(body):,} bytes, more than any verdict has")
    try:
        completion = _Completion.model_validate_json(body)
        choice = _Choice.model_validate(completion.choices[0])
    except ValidationError as error:
        # a body that was cut off is not JSON; another attempt may get it whole
        raise PassingFault(f"{host} answered something that is no chat completion: {_excerpt(body)}") from error
    if choice.message.refusal:
        raise Unreadable(f"the VLM judge refuses: {quote(redact(choice.message.refusal))}")
    if choice.finish_reason == "content_filter":
        raise Unreadable("the server's content filter withheld the answer")
    text = _text_of(choice.message.content)
    if len(text) > LONGEST:  # before data is removed from it, which would make it short
        raise Unreadable(f"the answer has {len(text):,} characters, and a verdict is short")
    usage = completion.usage or _Usage()
    return Answer(
        text=redact(text),
        model=keep_words(completion.model, 200),
        cut=choice.finish_reason == "length",
        first_tokens=_first_tokens(choice.logprobs) if probabilities else (),
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
    )


def read_usage(body: bytes) -> tuple[int, int]:
    """Return the tokens, in and out, that a chat completion reports; (0, 0) if it reports none."""
    if len(body) > MOST_BYTES:
        return 0, 0
    try:
        usage = _Billed.model_validate_json(body).usage or _Usage()
    except ValidationError:
        return 0, 0
    return usage.prompt_tokens, usage.completion_tokens


def _text_of(content: str | list[Any] | None) -> str:
    """Return the text of a message; some servers send it as a list of parts."""
    if isinstance(content, list):
        parts = [cast("dict[str, object]", part).get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content or ""


def _first_tokens(logprobs: dict[str, Any] | None) -> tuple[tuple[str, float], ...]:
    """Return the most probable tokens of the first position that is not only space."""
    try:
        places: Sequence[Any] = (logprobs or {})["content"]
        place = next(place for place in places if plain_token(str(place["token"])))
        top: Sequence[Any] = place["top_logprobs"][:_MOST_TOKENS]
        return likeliest([(redact(str(entry["token"])[:200]), float(entry["logprob"])) for entry in top])
    except (KeyError, TypeError, ValueError, OverflowError, StopIteration, AttributeError):
        return ()


def read_object(body: bytes, host: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a body as a JSON object.

    Raises:
        PassingFault: It is not JSON.
        LastingFault: It is another kind of value, or too long.
    """
    if len(body) > most:
        raise LastingFault(f"{host} answered {len(body):,} bytes, more than any scores have")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PassingFault(f"{host} answered something that is no JSON: {_excerpt(body)}") from error
    if not isinstance(found, dict):
        raise LastingFault(f"{host} answered JSON that is no object: {_excerpt(body)}")
    return found  # pyright: ignore[reportUnknownVariableType]


def find_fault(
    status: int, headers: Mapping[str, str], body: bytes, host: str, model: str | None, patience: float
) -> PassingFault | LastingFault:
    """Return the fault that an HTTP status means; a Retry-After of more than `patience` seconds is not waited for."""
    said = f"HTTP {status} from {host}: {_excerpt(body)}"
    if 300 <= status < 400:
        where = one_line(redact(headers.get("location", "")), 200)
        return LastingFault(
            f"{host} sends on to {where!r}, which is not followed: it would get the key; give that URL if you trust it",
            final=True,
        )
    if status in (401, 403):
        name = OPENAI_KEY if host == urlsplit(OPENAI_URL).netloc else OWN_KEY
        return LastingFault(f"{said}; check the key in {name}", final=True)
    if status == 404:
        return LastingFault(f"{said}; check the URL" + (f" and that it serves {model!r}" if model else ""), final=True)
    if status == 429 and b"insufficient_quota" in body:
        return LastingFault(f"{said}; the account has no credit left", final=True)
    if status in (408, 409, 425, 429) or status >= 500:
        wait = retry_after(headers, datetime.now(UTC))
        if wait is not None and wait > patience:
            return LastingFault(f"{said}; it asks to wait {wait:.0f} s, longer than the {patience:g} s allowed")
        return PassingFault(said, wait)
    told = body[:MOST_TOLD].decode(errors="replace")
    if re.search(r"content.?(?:filter|policy|management)|ResponsibleAI|moderation|safety system", told, re.IGNORECASE):
        return LastingFault(said)  # the fault is about this question
    fields = frozenset(name for name in DISPENSABLE if re.search(rf"\b{name}\b", told))
    return LastingFault(said, refuses=True, fields=fields)


def _excerpt(body: bytes) -> str:
    """Return the message of an error in OpenAI's form, else the beginning of the body."""
    try:
        message = json.loads(body[: 4 * MOST_TOLD])["error"]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        message = None
    if isinstance(message, str) and message.strip():
        return quote(redact(message), MOST_TOLD // 4)
    return quote(redact(body[:MOST_TOLD].decode(errors="replace")))


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds to wait for a server: Retry-After in seconds or as a date, or OpenAI's retry-after-ms."""
    try:
        if "retry-after-ms" in headers:
            return _check_wait(float(headers["retry-after-ms"]) / 1000)
        given = headers["retry-after"].strip()
    except (KeyError, ValueError):
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", given):
        return float(given)
    try:
        when = parsedate_to_datetime(given[:100])
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _check_wait(seconds: float) -> float | None:
    return max(0.0, seconds) if math.isfinite(seconds) else None


def redact(text: str) -> str:
    """Remove keys and images from foreign text: the user's own keys by their values, others by their form."""
    for name in SECRETS:
        key = os.environ.get(name, "").strip()
        if len(key) >= _LEAST_KEY:
            for written in {key, quote_url(key, safe=""), json.dumps(key)[1:-1], b64encode(key.encode()).decode()}:
                text = text.replace(written, "[key]")
    text = re.sub(r"(?i)\bsk-[\w*-]{6,}|\bbearer\s{1,9}\S+", "[key]", text)
    return re.sub(r"[A-Za-z0-9+/=_-]{80,}", "[data]", text)


def keep_words(text: str, longest: int = MOST_WORDS) -> str:
    """Prepare foreign text for storage in a run: no keys, no control characters, shortened if it is long."""
    return printable(redact(text[: 4 * longest]), longest)
