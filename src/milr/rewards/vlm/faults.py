"""Errors of the HTTP libraries as the faults of a server, without keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, cast

from milr.rewards.vlm.messages import LastingFault, PassingFault, find_fault
from milr.rewards.vlm.settings import VlmSettings
from milr.untrusted import UntrustedError

T = TypeVar("T")


async def await_reply(sending: Coroutine[Any, Any, T], host: str, settings: VlmSettings, model: str | None = None) -> T:
    """Await one request and return its reply.

    Args:
        sending: The request.
        host: The server's name for messages.
        settings: Time limits.
        model: Name of the model on the server.

    Raises:
        PassingFault: Another attempt may succeed.
        LastingFault: Another attempt would fail too.
    """
    httpx, openai = import_module("httpx2"), _openai_if_used()
    try:
        async with asyncio.timeout(settings.timeout):
            return await sending
    except UntrustedError as error:
        raise LastingFault(f"{host} answered what is not read: {error}") from error
    except (TimeoutError, *openai.timeouts, httpx.TimeoutException) as error:
        raise PassingFault(f"{host} gave no answer within {settings.timeout:g} s") from error
    except openai.refusals as error:
        sent: Any = cast("Any", error).response
        raise find_fault(sent.status_code, sent.headers, sent.content, host, model, settings.patience) from error
    except (*openai.breaks, httpx.HTTPError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, UntrustedError):
            raise LastingFault(f"{host} answered what is not read: {cause}") from error
        raise PassingFault(
            f"no connection to {host}, or it was cut ({type(cause).__name__}): check that the server runs, and its URL"
        ) from error


@dataclass(frozen=True)
class _OpenAIErrors:
    """Errors of the package `openai`; empty if it is not imported, because then it cannot raise any."""

    timeouts: tuple[type[Exception], ...] = ()
    refusals: tuple[type[Exception], ...] = ()
    breaks: tuple[type[Exception], ...] = ()


def _openai_if_used() -> _OpenAIErrors:
    openai: Any = sys.modules.get("openai")
    if openai is None:
        return _OpenAIErrors()
    return _OpenAIErrors((openai.APITimeoutError,), (openai.APIStatusError,), (openai.APIConnectionError,))
