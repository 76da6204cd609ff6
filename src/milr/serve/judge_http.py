"""The HTTP side of the judge server: how much it reads, how long it waits, whom it answers."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from milr.untrusted import one_line

MOST_BYTES = 64 * 2**20
"""Most bytes of a request."""
MOST_CONNECTIONS = 64
"""Open at once; one more is closed."""
SECONDS = 60.0
"""For a request to arrive, however slowly it drips, and for an answer to be taken."""
_PIECE = 2**16


class BadRequest(ValueError):
    """A request that this server cannot answer; the message says why."""


class _Late(Exception):
    """A request that did not arrive in time."""


Answer = Callable[[bytes], Mapping[str, Any]]
"""Returns the answer to a chat request's body; raises `BadRequest`."""


class HttpServer(ThreadingHTTPServer):
    """A server on this machine that answers /v1/models and /v1/chat/completions."""

    daemon_threads = True

    def __init__(self, port: int, name: Callable[[], str], answer: Answer, key: str | None) -> None:
        """Take a port.

        Args:
            port: 0 takes any that is free.
            name: Gives the model's name.
            answer: Answers chat requests; called in many threads.
            key: What requests must bring as a bearer; None asks for none.

        Raises:
            OSError: The port is taken.
        """
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(("127.0.0.1", port), _make_handler(name, answer, key))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; close the connection if too many are open."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left."""


def _make_handler(name: Callable[[], str], answer: Answer, key: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            if self._is_at("/v1/models"):
                self._send(200, {"object": "list", "data": [{"id": name(), "object": "model", "owned_by": "milr"}]})

        def do_POST(self) -> None:
            if not self._is_at("/v1/chat/completions"):
                return
            if self.headers.get_content_type() != "application/json":  # which no web page may send here unasked
                return self._refuse(415, "send JSON, with the Content-Type application/json")
            try:
                self._send(200, answer(self._read()))
            except _Late:
                self._refuse(408, f"the request did not arrive within {SECONDS:g} s")
            except (BadRequest, RecursionError) as error:
                self._refuse(400, one_line(str(error) or type(error).__name__))
            except Exception as error:  # the reward's own: the server goes on
                self._refuse(500, f"the reward failed: {one_line(f'{type(error).__name__}: {error}', 300)}")

        def _is_at(self, path: str) -> bool:
            """Return whether the request is for a path, by somebody with the key; refuse it otherwise."""
            if self.path.rstrip("/") != path:
                self._refuse(404, "there are GET /v1/models and POST /v1/chat/completions")
                return False
            given = self.headers.get("Authorization", "")
            if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                self._refuse(401, "this server asks for a key: set MILR_VLM_KEY to the one that it was started with")
                return False
            return True

        def _read(self) -> bytes:
            given = self.headers.get("Content-Length", "0")
            length = int(given) if given.isascii() and given.isdigit() and len(given) < 12 else 0
            if not 0 < length <= MOST_BYTES:
                raise BadRequest(f"the request has a length of {one_line(given, 20)}: it is empty or too long")
            until = time.monotonic() + SECONDS
            pieces: list[bytes] = []
            while length:
                left = until - time.monotonic()
                if left <= 0:
                    raise _Late
                self.connection.settimeout(left)
                try:
                    piece = self.rfile.read1(min(length, _PIECE))  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType]
                except TimeoutError:
                    raise _Late from None
                if not piece:
                    raise BadRequest("the request was cut off")
                pieces.append(piece)  # pyright: ignore[reportUnknownArgumentType]
                length -= len(piece)  # pyright: ignore[reportUnknownArgumentType]
            self.connection.settimeout(SECONDS)
            return b"".join(pieces)

        def _refuse(self, status: int, message: str) -> None:
            kind = "invalid_request_error" if status < 500 else "server_error"
            self._send(status, {"error": {"message": message, "type": kind}})

        def _send(self, status: int, answer: Mapping[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except (TimeoutError, OSError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: requests hold images."""

    return Handler
