"""State that the routes share: the desk, the keys, the listeners."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from milr.serve.config import Limits, ServeSettings
from milr.serve.desk import Desk
from milr.serve.errors import ApiError, busy
from milr.serve.judge import Judge
from milr.serve.keys import KeyRing
from milr.serve.links import Links
from milr.serve.metrics import Metrics
from milr.serve.store import Store

_MANY = 10_000  # clients whose requests are counted


class Gate:
    """Counts each client's requests: as many at once as in a minute, then evenly."""

    def __init__(self, limits: Limits) -> None:
        """Start without known clients."""
        self._most = limits.per_minute
        self._left: dict[str, tuple[float, float]] = {}  # client -> requests left, when

    def enter(self, client: str) -> None:
        """Count a request.

        Raises:
            ApiError: The client has had its share.
        """
        at = time.monotonic()
        left, before = self._left.pop(client, (float(self._most), at))
        left = min(float(self._most), left + (at - before) * self._most / 60)
        if left < 1:
            self._left[client] = left, at
            raise busy(f"more than {self._most} requests a minute", 1 + int((1 - left) * 60 / self._most))
        self._left[client] = left - 1, at
        while len(self._left) > _MANY:
            del self._left[next(iter(self._left))]  # the client with the oldest request


class Bells:
    """Wakes coroutines that wait for a search's events, from any thread."""

    def __init__(self) -> None:
        """Begin without a loop: `attach` one."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._watching: Counter[str] = Counter()

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take the loop whose coroutines listen; None once it ends."""
        self._loop = loop

    def ring(self, search: str) -> None:
        """Wake all listeners of a search."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, search)

    @contextmanager
    def listen(self, search: str, *, rows: bool = False) -> Generator[asyncio.Event]:
        """Give an event that is set whenever something happens to a search; with `rows`, that its images grow too."""
        rung = asyncio.Event()
        self._waiting[search].add(rung)
        self._watching[search] += rows
        try:
            yield rung
        finally:
            self._watching[search] -= rows
            if not self._watching[search]:
                del self._watching[search]
            self._waiting[search].discard(rung)
            if not self._waiting[search]:
                del self._waiting[search]

    def watched(self, search: str) -> bool:
        """Return true if a client watches the growing images of a search; from any thread."""
        return self._watching[search] > 0

    def _wake(self, search: str) -> None:
        for rung in self._waiting.get(search, ()):
            rung.set()


@dataclass
class Server:
    """A server's parts."""

    settings: ServeSettings
    desk: Desk
    store: Store
    keys: KeyRing
    links: Links
    metrics: Metrics
    gate: Gate
    judge: Judge | None = None
    """The judge of images; None without one."""
    bells: Bells = field(default_factory=Bells)
    streams: int = 0
    """Open event streams."""


@dataclass(frozen=True)
class Client:
    """The client of a request."""

    owner: str
    """The short name of the key; empty without keys."""
    name: str
    """The client that limits count: its key, or its address without keys."""


def get_server(request: Request) -> Server:
    """Return the server of a request."""
    server: Server = request.app.state.server
    return server


ServerDep = Annotated[Server, Depends(get_server)]


async def find_client(request: Request, server: ServerDep) -> Client:
    """Return who asks.

    Raises:
        ApiError: No key, a wrong one, or too many requests.
    """
    address = request.client.host if request.client else "nobody"
    if not server.keys:
        server.gate.enter(address)
        return Client("", address)
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    owner = server.keys.find(key.strip()) if kind.lower() == "bearer" else None
    if owner is None:
        server.gate.enter(f"stranger {address}")
        message = "no API key: send Authorization: Bearer KEY" if not key else "this API key is not known"
        raise ApiError(401, "invalid_api_key", message)
    server.gate.enter(owner)
    request.state.owner = owner
    return Client(owner, owner)


ClientDep = Annotated[Client, Depends(find_client)]
