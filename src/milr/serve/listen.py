"""Listening: the app under uvicorn, with an end that loses nothing."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType

import uvicorn
from fastapi import FastAPI

from milr.errors import UsageError
from milr.serve.config import ServeSettings
from milr.serve.server import Server

_LOOK = 0.5  # seconds between looks whether the server still runs
_SPARE = 400  # connections beside those whose requests are answered, which are told why they are not


class Listener(uvicorn.Server):
    """uvicorn's server; at a signal it first ends event streams, which would delay it."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        """Prepare to listen."""
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_keep_alive=75,  # longer than clients and proxies keep a connection, so that they close it first
                backlog=4096,
                limit_concurrency=settings.limits.requests + _SPARE,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
            )
        )
        self._server: Server = app.state.server
        self.listening = Event()
        """Set once requests are answered, or never will be."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to listen."""
        await super().startup(sockets)  # pyright: ignore[reportArgumentType]
        self.listening.set()

    def end(self) -> None:
        """End, from any thread."""
        self._server.desk.drain()  # event streams end, which would hold up the end
        self.should_exit = True

    @property
    def url(self) -> str:
        """The address that it listens at."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def listening(app: FastAPI, settings: ServeSettings) -> Generator[Listener]:
    """Serve during the block, in another thread.

    Raises:
        UsageError: The port is taken.
    """
    listener = Listener(app, settings)

    def run() -> None:
        try:
            listener.run()
        except SystemExit:
            pass
        finally:
            listener.listening.set()

    thread = Thread(target=run, name="milr-http", daemon=True)
    thread.start()
    listener.listening.wait()
    if not listener.started:
        thread.join()
        raise UsageError(f"--port {settings.port}: it is taken, or may not be used; give another one")
    try:
        yield listener
    finally:
        listener.end()
        thread.join()


def wait_for_end(listener: Listener) -> None:
    """Wait until a signal ends the process, or the server ends by itself."""
    told = Event()

    def end(number: int, frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not told.wait(_LOOK) and not listener.should_exit:
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
