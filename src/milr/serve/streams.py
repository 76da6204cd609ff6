"""Server-sent events of a search, from any event on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from milr.serve.errors import ApiError, busy
from milr.serve.server import Server
from milr.serve.store import Event

KEEP_ALIVE = 15.0
"""Seconds after which a stream without events says that it is still there."""


async def follow(
    server: Server, search: str, after: int = 0, *, tick: float = KEEP_ALIVE, rows: bool = False
) -> AsyncIterator[Event | None]:
    """Yield a search's events after a number as they come, to its end or until the server ends.

    None means that nothing has happened for `tick` seconds. With `rows`, unfinished images are sent too, as events of
    kind "rows" with the number 0; they are not stored.
    """
    shown = 0
    with server.bells.listen(search, rows=rows) as rung:
        while True:
            rung.clear()
            live = server.desk.live(search)  # read first: a search that ends now has all its events
            events = await run_in_threadpool(server.store.events, search, after)
            for event in events:
                after = event.number
                yield event
                if event.kind == "end":
                    return
            if events:
                continue
            if not live or server.desk.draining:
                return
            for one in server.desk.growing(search, shown) if rows else ():
                shown = one.number
                yield Event(0, "rows", dict(one.data))
            try:
                await asyncio.wait_for(rung.wait(), tick)
            except TimeoutError:
                yield None


async def send_events(server: Server, search: str, after: int, *, rows: bool = False) -> AsyncIterator[bytes]:
    """Yield the bytes of an event stream; the reader's place is the event's id."""
    async for event in follow(server, search, after, rows=rows):
        if event is None:
            yield format_sse_event(comment="still here")
        else:
            yield say(event.kind, event.data, str(event.number) if event.number else None)


def say(kind: str, data: Mapping[str, Any], number: str | None = None) -> bytes:
    """Return one event as it is sent."""
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=kind, id=number)


def stream(server: Server, events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """Return a response of events.

    Raises:
        ApiError: The largest number of open streams is reached.
    """
    if server.streams >= server.settings.limits.streams:
        raise busy(f"{server.streams} event streams are open", 5)

    async def counted() -> AsyncIterator[bytes]:
        server.streams += 1
        server.metrics.streams.set(server.streams)
        try:
            async for piece in events:
                yield piece
        except ApiError as error:
            yield say("error", error.body)
        finally:
            server.streams -= 1
            server.metrics.streams.set(server.streams)

    more = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(counted(), media_type="text/event-stream", headers=more)
