"""`/v1/searches`: searches as jobs, their steps as events, their images."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from milr.serve.asked import SearchRequest, make_order
from milr.serve.errors import ApiError
from milr.serve.pictures import FORMS, encode, find_strip, make_gif, read_step
from milr.serve.server import Client, ClientDep, Server, ServerDep
from milr.serve.store import Page, SearchRow
from milr.serve.streams import send_events, stream

router = APIRouter(prefix="/v1/searches")
_MOST_EVENTS = 2**63 - 1  # SQLite's largest integer
Number = Annotated[int, Field(ge=0, le=10**6)]
_MOST_RESULTS = 10_000
_SHORT = {"Cache-Control": "private, no-cache"}
_LONG = {"Cache-Control": "private, max-age=86400, immutable"}


@router.post("", status_code=202, summary="Begin a search")
async def begin(asked: SearchRequest, request: Request, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Accept a search; its events report the progress."""
    order = make_order(asked, server.desk.offers, server.settings.limits)
    search = await run_in_threadpool(server.desk.submit, order, client.owner, client.name)
    return {**describe(await _find(server, client, search)), "notes": list(order.notes)}


@router.get("", summary="List searches")
async def list_searches(
    server: ServerDep,
    client: ClientDep,
    text: Annotated[str, Query(max_length=200)] = "",
    tag: Annotated[str, Query(max_length=100)] = "",
    state: Literal["", "waiting", "running", "finished", "cancelled", "failed"] = "",
    outcome: Literal["", "met", "improved", "failed"] = "",
    sort: Literal["newest", "gain", "best"] = "newest",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> dict[str, Any]:
    """Return searches by words of their prompts, tag, state and outcome."""
    page = Page(client.owner, text, tag, state, outcome, sort, limit, offset)
    rows, total = await run_in_threadpool(server.store.find, page)
    return {"object": "list", "total": total, "data": [describe(row) for row in rows]}


@router.get("/{search}", summary="A search and its results")
async def read_search(search: str, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """Return the request, its state, and each finished image's last step."""
    row = await _find(server, client, search)
    results = await run_in_threadpool(server.store.events, search, 0, _MOST_RESULTS, "image")
    asked: dict[str, Any] = json.loads(row.request) if row.request else {}
    kept = {name: asked[name] for name in ("tasks", "settings", "images", "notes") if name in asked}
    return {**describe(row), **kept, "results": [event.data for event in results]}


@router.get("/{search}/events", summary="A search's events", response_model=None)
async def read_events(
    search: str,
    server: ServerDep,
    client: ClientDep,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    after: Annotated[int, Query(ge=0, le=_MOST_EVENTS)] = 0,
    rows: bool = False,
) -> Response:
    """Stream the events after the one named by `Last-Event-ID`, or by `after`, to the end.

    With `rows`, unfinished images are sent too, in events without an id.
    """
    await _find(server, client, search)
    known = last_event_id or ""
    start = min(int(known), _MOST_EVENTS) if known.isascii() and known.isdigit() else after
    return stream(server, send_events(server, search, start, rows=rows))


@router.delete("/{search}", summary="End a search")
async def end_search(search: str, server: ServerDep, client: ClientDep) -> dict[str, Any]:
    """End a search after the step in progress; it keeps the best images so far."""
    await _find(server, client, search)
    await run_in_threadpool(server.desk.stop, search)
    return describe(await _find(server, client, search))


@router.get("/{search}/images/{task}/{image}/{step}/{number}", summary="An image of a step", response_model=None)
async def read_image(
    search: str,
    task: Number,
    image: Number,
    step: Number,
    number: Number,
    server: ServerDep,
    client: ClientDep,
    form: Literal["png", "jpeg", "webp"] = "png",
) -> Response:
    """Return one image."""
    row = await _find(server, client, search)
    file = read_step(server.settings.data / row.id, task, image, step, number)
    return Response(await run_in_threadpool(encode, file, form), media_type=FORMS[form], headers=_LONG)


@router.get("/{search}/cover", summary="The best image of a search's first task", response_model=None)
async def read_cover(search: str, server: ServerDep, client: ClientDep) -> Response:
    """Return the best image so far of the first task that has one."""
    row = await _find(server, client, search)
    found = await run_in_threadpool(server.store.events, search, 0, 1, "image")
    if not found:
        raise ApiError(404, "not_found", "there is no image yet")
    one = found[0].data
    file = read_step(
        server.settings.data / row.id, one["task"], one["image"], one["best"]["step"], one["best"]["number"]
    )
    return Response(await run_in_threadpool(file.read_bytes), media_type="image/png", headers=_SHORT)


@router.get("/{search}/strip/{task}/{image}", summary="All images of a task, side by side", response_model=None)
async def read_strip(search: str, task: Number, image: Number, server: ServerDep, client: ClientDep) -> Response:
    """Return the strip of a finished task, PNG."""
    row = await _find(server, client, search)
    file = find_strip(server.settings.data / row.id, task, image)
    return Response(await run_in_threadpool(file.read_bytes), media_type="image/png", headers=_LONG)


@router.get("/{search}/gif/{task}/{image}", summary="All images of a task, one after the other", response_model=None)
async def read_gif(search: str, task: Number, image: Number, server: ServerDep, client: ClientDep) -> Response:
    """Return a GIF of the steps."""
    row = await _find(server, client, search)
    folder = server.settings.data / row.id

    def make() -> bytes:
        events = server.store.events(search, 0, _MOST_RESULTS)
        steps = [one.data for one in events if (one.data.get("task"), one.data.get("image")) == (task, image)]
        files = [
            read_step(folder, task, image, step["step"], number)
            for step in steps
            for number in range(len(step["images"]))
        ]
        if not files:
            raise ApiError(404, "not_found", "there is no image yet")
        return make_gif(files[:200])

    return Response(await run_in_threadpool(make), media_type="image/gif")


def describe(row: SearchRow) -> dict[str, Any]:
    """Return a search as plain data."""
    gain = None if row.best is None or row.first is None else round(row.best - row.first, 6)
    return {
        "id": row.id,
        "object": "search",
        "state": row.state,
        "created": row.created,
        "ended": row.ended,
        "model": row.model,
        "method": row.method,
        "title": row.title,
        "tags": [tag for tag in row.tags.split(",") if tag],
        "wanted": row.wanted,
        "done": row.done,
        "met": row.met,
        "first": row.first,
        "best": row.best,
        "gain": gain,
        "error": row.error or None,
        "events": f"/v1/searches/{row.id}/events",
    }


async def _find(server: Server, client: Client, search: str) -> SearchRow:
    row = await run_in_threadpool(server.store.get, search, client.owner)
    if row is None:
        raise ApiError(404, "search_not_found", "there is no such search, or it is another key's")
    return row
