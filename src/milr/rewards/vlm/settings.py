"""Settings of VLM judges, and the checks before the first question."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from milr.errors import UsageError
from milr.proxies import check_proxies
from milr.rewards.vlm.messages import MOST_BYTES, OPENAI_KEY, OWN_KEY

EXTRA = "vlm"
_SECRET = re.compile(r"key|token|secret|passw|auth|sign|sig$|credential", re.IGNORECASE)
"""Words in a URL parameter's name that mark its value as a secret."""


class VlmSettings(BaseModel):
    """Settings of VLM judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    """URL of an OpenAI-compatible server, up to and with /v1; None is OpenAI's."""
    model: str | None = None
    """The VLM judge's name on the server; None is each protocol's own."""
    budget: str | None = None
    """The cap, as `parse_budget` reads it."""
    price: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    """US dollars per million tokens, in and out; None takes `PRICES` for OpenAI's models, and 0 for all others."""
    concurrency: int = Field(default=8, ge=1)
    """Questions in progress at the same time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one answer, from the first byte sent to the last one read."""
    attempts: int = Field(default=4, ge=1)
    """Requests per question, including the first."""
    first_wait: float = Field(default=0.5, ge=0)
    """Seconds before the second attempt; doubles from there, up to 20."""
    most_faults: int = Field(default=8, ge=1)
    """Consecutive questions without an answer after which the server is not asked any more."""
    patience: float = Field(default=120.0, ge=0)
    """Longest Retry-After to wait for, in seconds; a longer one is a failure."""
    most_bytes: int = Field(default=MOST_BYTES, ge=1)
    """Longest reply that is read, in bytes."""
    cache: Path | None = None
    """Folder of stored answers; None is `default_cache()`."""


def check_url(url: str, what: str) -> None:
    """Refuse text that is not an http(s) URL, and URLs with a password or a key, which runs would store."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        queried = {name for name, value in parse_qsl(parts.query) if value and _SECRET.search(name)}
        secret = bool(parts.username or parts.password or queried)
    except ValueError:
        valid, secret = False, False
    if secret:
        raise UsageError(f"{what} holds a name, a password or a key: leave it out and set {OWN_KEY} in the environment")
    if not valid:
        raise UsageError(f"{what} {url!r} is no URL: give for instance http://localhost:8000/v1")


def require_extra(
    reward: str, packages: Sequence[str] = ("openai", "stamina", "httpx2"), *, kind: str = "reward"
) -> None:
    """Refuse a reward whose packages, or those of the proxy in the environment, are not installed.

    Args:
        reward: Its name, for the error.
        packages: Those that it imports; a reward at a URL needs no `openai`.
        kind: What the name names, "reward" for instance.

    Raises:
        UsageError: With the command that installs them.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(
                f"the {kind} {reward!r} needs the package {package!r}, which is not installed: "
                f'type pip install "milr[{EXTRA}]"'
            ) from error
    check_proxies()


def find_key(hosted: bool) -> str:
    """Return the key for a server: OpenAI's goes to OpenAI alone, others get the user's own or a placeholder."""
    return os.environ.get(OPENAI_KEY if hosted else OWN_KEY, "").strip() or "none"  # key files end with a line end
