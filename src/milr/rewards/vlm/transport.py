"""An event loop that waits for VLM judges, in a thread of its own, and the HTTP clients that live in it.

No key, header or image is logged: the loggers of the libraries underneath, which would write whole requests at level
DEBUG, are held to warnings.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from importlib import import_module
from typing import Any, TypeVar

# A filter holds for its own logger, not for those below it.
_LOUD = (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response", "httpx2", "httpcore2"),
    *(f"httpcore2.{part}" for part in ("http11", "http2", "connection", "proxy", "socks")),
)

T = TypeVar("T")


class Wire:
    """A loop in a daemon thread, and the HTTP clients that live in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="milr-vlm", daemon=True)
        self._clients: dict[str, Any] = {}
        self._thread.start()
        _hold_loggers()
        self.finalize = weakref.finalize(self, _shut, self._loop, self._thread, self._clients)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def openai(self, url: str, key: str, timeout: float) -> Any:
        """The client of that server; made once."""
        if url not in self._clients:
            made = import_module("openai").AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout)
            self._clients[url] = made
        return self._clients[url]

    def http(self, timeout: float) -> Any:
        """The plain client; made once."""
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
