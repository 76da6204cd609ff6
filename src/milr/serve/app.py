"""The application: routes, errors, and the life of the desk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from milr._version import __version__
from milr.errors import UsageError
from milr.files import hold
from milr.serve import about, chat, front, images, searches
from milr.serve.config import ServeSettings
from milr.serve.desk import Desk
from milr.serve.envelope import Envelope
from milr.serve.errors import handle_errors
from milr.serve.judge import Judge
from milr.serve.keys import KeyRing
from milr.serve.links import Links, read_secret
from milr.serve.metrics import Metrics
from milr.serve.offers import Offer
from milr.serve.server import Gate, Server
from milr.serve.store import Store

_LOCK = "milr.lock"
# To build routes, or their schema, changes the warning filters of the process for a moment, which no request should do
# while other threads run. `include_router` would build these at the first request.
_ROUTES = [route for part in (images, searches, chat, about, front) for route in part.router.routes]


@cache
def _schema() -> dict[str, Any]:
    return get_openapi(
        title="milr",
        version=__version__,
        description="Images that a search over latents has improved until they show what the prompt asked for.",
        routes=_ROUTES,
    )


def make_app(
    offers: Sequence[Offer], settings: ServeSettings, keys: KeyRing | None = None, judge: Judge | None = None
) -> FastAPI:
    """Return the application; its models are loaded once it runs.

    Args:
        offers: The models, the default one first; none of them for a server that only judges.
        settings: How it runs.
        keys: Who may ask; None accepts everyone, which is allowed only for a server on this machine alone.
        judge: What answers questions about images; None refuses them.

    Raises:
        UsageError: The server can be reached from elsewhere and has no keys, a model is larger than the memory, or
            another server has the folder of runs.
    """
    keys = keys or KeyRing()
    if not settings.local and not keys:
        raise UsageError(
            f"--host {settings.host} can be reached from other machines: give --keys FILE, or MILR_API_KEYS"
        )
    for offer in offers:
        if settings.memory is not None and offer.bytes > settings.memory:
            raise UsageError(f"the model {offer.name!r} needs {offer.bytes / 1e9:.1f} GB: give more --memory")
    held = ExitStack()
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        held.enter_context(
            hold(settings.data, lambda: UsageError(f"another server works in {settings.data}: give --data"), name=_LOCK)
        )
        store, links = Store(settings.data), Links(read_secret(settings.data), settings.link_seconds)
    except (OSError, SQLAlchemyError) as error:
        held.close()
        why = (error.strerror if isinstance(error, OSError) else getattr(error, "orig", None)) or error
        raise UsageError(f"--data {settings.data}: {why}; give a folder to write to, or make room there") from error
    metrics = Metrics()
    desk = Desk(offers, settings, store, metrics)
    server = Server(settings, desk, store, keys, links, metrics, Gate(settings.limits), judge)
    desk.on_change, desk.is_watched = server.bells.ring, server.bells.watched

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncGenerator[None]:
        server.bells.attach(asyncio.get_running_loop())
        await run_in_threadpool(desk.start)
        try:
            yield
        finally:
            server.bells.attach(None)
            await run_in_threadpool(desk.close)
            if judge is not None:
                judge.close()
            held.close()

    _schema()
    app = FastAPI(lifespan=live, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", routes=_ROUTES)
    app.openapi = _schema
    app.state.server = server
    handle_errors(app)
    app.add_middleware(Envelope, server=server)
    return app
