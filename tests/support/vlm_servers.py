"""Real HTTP servers on this machine that give prepared answers, or misbehave on purpose."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class JudgeServer:
    """A server that gives prepared replies in order, the last one for ever, and records requests; a context manager."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.serve(self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else {}
        with self._lock:
            reply = self.replies[min(len(self.asked), len(self.replies) - 1)]
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply(handler, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._at_once -= 1

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Send one complete response."""
    handler.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(
    text: object, *, finish: str = "stop", first: Sequence[tuple[str, float]] = (), **message: object
) -> bytes:
    """Return a chat completion."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in first]
    logprobs = {"content": [{"token": top[0]["token"], "logprob": 0, "top_logprobs": top}]} if top else None
    choice = {"index": 0, "finish_reason": finish, "logprobs": logprobs}
    choice["message"] = {"role": "assistant", "content": text, **message}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted-1",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def say(text: object, **how: Any) -> Reply:
    """Answer with this text."""
    return lambda handler, _: send(handler, completion(text, **how))


def fail(status: int, body: bytes = b"{}", **headers: str) -> Reply:
    """Answer with this status."""
    return lambda handler, _: send(handler, body, status, {k.replace("_", "-"): v for k, v in headers.items()})


def write(body: bytes, promised: int | None = None) -> Reply:
    """Answer with these bytes, announce more of them if asked to, then close the connection."""

    def reply(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        send(handler, body, headers={"Content-Length": str(promised or len(body))})
        handler.close_connection = True

    return reply


def hang_up(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def image_of(body: dict[str, Any]) -> Image.Image:
    """Return the image of a chat request."""
    for part in body["messages"][-1]["content"]:
        if part["type"] == "image_url":
            data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
            return Image.open(io.BytesIO(base64.b64decode(data)))
    raise AssertionError("no image was sent")
