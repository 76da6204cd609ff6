"""Middleware around every request: an id, a line in the log, safe headers, time limits."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milr.serve.chat import PATH as JUDGED
from milr.serve.errors import ApiError
from milr.serve.server import Server

log = logging.getLogger("milr.serve")
BODY_SECONDS, SEND_SECONDS = 30.0, 60.0
"""Seconds that a request's body may take, and that a reader may pause."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Envelope:
    """ASGI middleware, outermost."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        """Wrap an app."""
        self._app, self._server = app, server
        self._open = 0
        """Requests that are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, also after an unexpected error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})
        began, status, whole, replaced, inside = time.monotonic(), 0, False, False, True
        fault: ApiError | None = None  # of the body: its reader may take it for one of the body's form
        limits, size = self._server.settings.limits, 0
        most = limits.judge_bytes if scope["path"] == JUDGED else limits.body_bytes

        async def read() -> Message:
            nonlocal whole, size, fault
            if whole:
                return await receive()  # waits for the client to leave
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except TimeoutError:
                fault = ApiError(408, "slow_body", f"the body did not come within {BODY_SECONDS:g} s")
                raise fault from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > most:
                fault = _too_long()
                raise fault
            return message

        async def write(message: Message) -> None:
            nonlocal status, replaced
            if replaced:
                return
            if fault is not None and not status:
                replaced = True
                await _answer(write_on, fault)
                return
            await write_on(message)

        async def write_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(raw=message["headers"])
                sent["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
                self._server.metrics.seconds.labels(_route(scope)).observe(time.monotonic() - began)
            async with asyncio.timeout(SEND_SECONDS):  # wait_for's task would let other requests in before leave()
                await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                leave()

        def leave() -> None:
            """Give the place back once; a client that has the whole response may ask again at once."""
            nonlocal inside
            self._open -= inside
            inside = False

        self._open += inside
        try:
            if self._open > limits.requests:
                raise ApiError(
                    503, "too_many_requests", f"{limits.requests} requests are answered already", retry_after=2
                )
            self._check_origin(scope["method"], headers)
            if int(headers.get("content-length", "0")) > most:  # uvicorn lets numbers through alone
                raise _too_long()
            await self._app(scope, read, write)
        except ApiError as error:
            await _answer(write, error)
        except TimeoutError:
            log.info("reader too slow", extra={"facts": {"request": request_id}})
            raise  # ends the connection
        except Exception:
            log.exception("request failed", extra={"facts": {"request": request_id, "route": _route(scope)}})
            if status:
                raise
            await _answer(write, ApiError(500, "internal_error", f"an error of this server: request {request_id}"))
        finally:
            leave()
            route = _route(scope)
            self._server.metrics.requests.labels(scope["method"][:10], route, str(status or 499)).inc()
            facts = {
                "request": request_id,
                "method": scope["method"][:10],
                "route": route,
                "status": status or 499,
                "ms": round((time.monotonic() - began) * 1000),
                "owner": scope["state"].get("owner", ""),
            }
            log.info("request", extra={"facts": facts})

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse requests of other sites' pages, and host names that point a browser here by a trick.

        Raises:
            ApiError: The request comes from another site.
        """
        host = headers.get("host", "")
        if not self._server.keys and (urlsplit(f"//{host}").hostname or "") not in (*_LOCAL_NAMES, self._name):
            raise ApiError(403, "wrong_host", "without API keys this server answers to 127.0.0.1 and localhost alone")
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, "wrong_origin", "pages of other sites may not use this server")

    @property
    def _name(self) -> str:
        return self._server.settings.host


def _route(scope: Scope) -> str:
    """Return the route's pattern, which says nothing of the client."""
    return str(getattr(scope.get("route"), "path", "other"))


def _too_long() -> ApiError:
    return ApiError(413, "body_too_large", "the body has more bytes than this server reads")


def _head(error: ApiError) -> Message:
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    size = str(len(_body(error)["body"])).encode()
    headers += [(b"content-type", b"application/json"), (b"content-length", size)]
    return {"type": "http.response.start", "status": error.status, "headers": headers}


def _body(error: ApiError) -> Message:
    return {"type": "http.response.body", "body": json.dumps(error.body).encode()}


async def _answer(send: Send, error: ApiError) -> None:
    await send(_head(error))
    await send(_body(error))
