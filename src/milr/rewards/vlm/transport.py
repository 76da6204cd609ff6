"""An event loop that waits for VLM judges in its own thread, and its HTTP clients.

A reply is read up to `MOST_BYTES`, also after unpacking, and redirects are not followed, because they would send the
key elsewhere.

No key, header or image is logged: the loggers of the libraries underneath, which would write whole requests at level
DEBUG, are set to warnings.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

from milr.rewards.vlm.messages import MOST_BYTES
from milr.untrusted import UntrustedError, one_line

# a filter applies to its own logger, not to those below it
_LOUD = (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response", "httpx2", "httpcore2"),
    *(f"httpcore2.{part}" for part in ("http11", "http2", "connection", "proxy", "socks")),
)

_PATIENCE = 5.0  # seconds for the loop to end

T = TypeVar("T")


class Wire:
    """A loop in a daemon thread, and its HTTP clients."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        """Start the loop; a reply is read up to `most` bytes."""
        self._most = most
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="milr-vlm", daemon=True)
        self._clients: dict[str, Any] = {}
        self._thread.start()
        _hold_loggers()
        self.finalize = weakref.finalize(self, _shut, self._loop, self._thread, self._clients)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def openai(self, url: str, key: str, timeout: float, *, hosted: bool) -> Any:
        """Return the client of that server; made once.

        Args:
            url: The server's URL.
            key: Key, sent with every request.
            timeout: Seconds.
            hosted: True if it is OpenAI's; the environment's organisation is sent to no other server.
        """
        if url not in self._clients:
            kind = import_module("openai").AsyncOpenAI
            made = kind(api_key=key, base_url=url, max_retries=0, timeout=timeout, http_client=self._make(timeout))
            if not hosted:
                made.organization = made.project = None
            self._clients[url] = made
        return self._clients[url]

    def http(self, timeout: float) -> Any:
        """Return the plain client; made once."""
        if "http" not in self._clients:
            self._clients["http"] = self._make(timeout)
        return self._clients["http"]

    def _make(self, timeout: float) -> Any:
        return import_module("httpx2").AsyncClient(
            timeout=timeout,
            verify=_load_certificates(),
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [partial(_bound, most=self._most)]},
        )


@cache
def _load_certificates() -> Any:
    """Return the certificates that servers are checked with: read once, because this takes longer than a client."""
    return import_module("httpx2").create_ssl_context()


async def _bound(response: Any, most: int) -> None:
    """Limit the size of a response whose head has arrived."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower() or "identity"
    stream_kind: Any = import_module("httpx2").AsyncByteStream

    class Bounded(stream_kind):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __aiter__(self) -> AsyncIterator[bytes]:
            return read_bounded(self._stream, encoding, most)

        async def aclose(self) -> None:
            await self._stream.aclose()

    if "content-encoding" in response.headers:
        del response.headers["content-encoding"]  # the content is already unpacked
    response.stream = Bounded(response.stream)


async def read_bounded(pieces: AsyncIterable[bytes], encoding: str, most: int = MOST_BYTES) -> AsyncIterator[bytes]:
    """Yield a reply's bytes, unpacked piece by piece.

    Args:
        pieces: Packed bytes in any pieces.
        encoding: identity, gzip or deflate.
        most: Most bytes of the unpacked reply.

    Raises:
        UntrustedError: It is longer, has an unknown encoding, or cannot be unpacked.
    """
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise UntrustedError(f"its encoding is {one_line(encoding, 40)!r}, which was not asked for")
    unpack = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    left = most
    async for piece in pieces:
        try:
            found = piece if unpack is None else unpack.decompress(piece, left + 1)
        except zlib.error as error:
            raise UntrustedError(f"it is no {encoding}") from error
        left -= len(found)
        if left < 0:
            raise UntrustedError(f"it has more than {most:,} bytes, more than any verdict has")
        yield found


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, clients: dict[str, Any]) -> None:
    async def end() -> None:
        try:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for client in clients.values():
                with suppress(Exception):  # its server may be gone
                    await (client.aclose() if hasattr(client, "aclose") else client.close())
        finally:
            loop.stop()

    if threading.current_thread() is thread:  # the last reference was dropped in the loop itself
        loop.stop()
        return
    asyncio.run_coroutine_threadsafe(end(), loop)
    thread.join(timeout=_PATIENCE)
    if not thread.is_alive():  # on a busy machine it may still run, and a running loop cannot be closed
        loop.close()


def _hold_loggers() -> None:
    """Prevent the libraries underneath from logging requests at any log level."""
    for name in _LOUD:
        logger = logging.getLogger(name)
        if _warnings_only not in logger.filters:
            logger.addFilter(_warnings_only)
    # its warnings report repeated attempts, whose outcome is in the score
    stamina = logging.getLogger("stamina")
    if _errors_only not in stamina.filters:
        stamina.addFilter(_errors_only)


def _warnings_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
