"""A reward as a service: an HTTP server in the protocol of `milr.rewards.http`, and servers that end with their run.

The server needs nothing but milr and what its reward needs, so it may run in a virtual environment of its own.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_jsonable_python

from milr.errors import UsageError
from milr.rewards.base import Reward, start_scoring
from milr.rewards.http import PLAIN, PROTOCOL
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.types import Score, Task, Unscored
from milr.untrusted import first_fault, one_line

MOST_BYTES = 256 * 2**20
"""Most bytes of a request."""
_TOGETHER = 2**26
"""Most pixels that are scored together: 64 images of 1024 x 1024. Small files may have sixty times as many in all."""
_SECONDS = 120.0  # for a request to arrive, and for an answer to be taken
_CONNECTIONS = 64
_READY = "milr: reward"


class _Item(BaseModel):
    picture: str
    task: Task


class _Asked(BaseModel):
    items: list[_Item] = Field(min_length=1, max_length=64)


class RewardServer(ThreadingHTTPServer):
    """A server that scores images by a reward, one request after another."""

    daemon_threads = True

    def __init__(self, reward: Reward, host: str, port: int) -> None:
        """Take a port; 0 takes any.

        Raises:
            UsageError: The address is taken, or none of this machine.
        """
        self.reward = reward
        self.turn = threading.Lock()  # a reward's networks are used by one request at a time
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot listen at {host}, port {port} ({said}): give another --port or --host") from error

    @property
    def url(self) -> str:
        """Return the value for --reward."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}/score"

    @property
    def description(self) -> dict[str, object]:
        """Return the reply to GET."""
        return {"protocol": PROTOCOL, "reward": self.reward.name, "stop_at": self.reward.stop_at}

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

    def score(self, body: bytes) -> dict[str, object]:
        """Return the reply to a request.

        Raises:
            ValueError: It is none of the protocol; the message says why.
        """
        try:
            asked = _Asked.model_validate_json(body)
        except ValidationError as error:
            raise ValueError(f"the request is none of {PROTOCOL} ({first_fault(error)})") from None
        said: list[dict[str, object]] = [{} for _ in asked.items]
        group: dict[int, Image.Image] = {}
        pixels = 0
        for place, item in enumerate(asked.items):
            try:
                image = decode_image(base64.b64decode(item.picture, validate=True)).convert("RGB")
            except (binascii.Error, UnreadableImage, OSError, ValueError) as error:
                said[place] = {"unscored": f"the image cannot be read: {one_line(str(error))}"}
                continue
            if group and pixels + image.width * image.height > _TOGETHER:
                self._score_group(group, asked.items, said)
                group, pixels = {}, 0
            group[place] = image
            pixels += image.width * image.height
        self._score_group(group, asked.items, said)
        return {**self.description, "scores": said}

    def _score_group(
        self, images: Mapping[int, Image.Image], items: Sequence[_Item], said: list[dict[str, object]]
    ) -> None:
        """Score images, place -> image, and write the scores at their places."""
        if not images:
            return
        with self.turn:
            found = start_scoring(self.reward, [*images.values()], [items[place].task for place in images])()
        for place, score in zip(images, found, strict=True):
            said[place] = _say(score)


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _SECONDS

    def do_GET(self) -> None:
        self._send(200, self.server.description)

    def do_POST(self) -> None:
        given = self.headers.get("Content-Length", "")
        length = int(given) if given.isascii() and given.isdigit() and len(given) < 12 else 0
        if not 0 < length <= MOST_BYTES:
            return self._send(400, {"error": "the request is empty or too long"})
        try:
            body = self.rfile.read(length)
            if len(body) < length:
                return self._send(400, {"error": "the request was cut off"})
            return self._send(200, self.server.score(body))
        except TimeoutError:
            return self._send(408, {"error": f"the request did not arrive within {_SECONDS:g} s"})
        except ValueError as error:
            return self._send(400, {"error": one_line(str(error), 300)})
        except Exception as error:  # the reward's own: the server goes on
            return self._send(500, {"error": f"the reward failed: {one_line(f'{type(error).__name__}: {error}', 300)}"})

    def _send(self, status: int, answer: Mapping[str, object]) -> None:
        content = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold images."""


def _say(score: Score | Unscored) -> dict[str, object]:
    """Return a score as the protocol has it."""
    if isinstance(score, Unscored):
        return {"unscored": score.reason, "final": score.final, "cost": score.cost}
    said: dict[str, object] = to_jsonable_python(score, fallback=str)
    return {name: value for name, value in said.items() if name != "reward"}


def serve(server: RewardServer, *, attached: bool) -> None:
    """Print the address, and answer until interrupted.

    Args:
        server: The server.
        attached: End also when standard input is closed, as it is when the program that started this one ends.
    """
    if attached:

        def watch() -> None:
            sys.stdin.buffer.read()
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()
    print(f"{_READY} {server.reward.name} at {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever(poll_interval=0.05)
    finally:
        server.server_close()


def join_urls(urls: Sequence[str]) -> str:
    """Return the name under which `milr.load_reward` finds servers of this machine as one reward, with its own name."""
    return f"{','.join(urls)}#{PLAIN}"


class RewardServers:
    """Reward servers on this machine that end with this process, however it ends."""

    def __init__(
        self, reward: str, many: int, command: str | None = None, options: Sequence[str] = (), first: int = 0
    ) -> None:
        """Start them, and wait until all have loaded the reward.

        Args:
            reward: The reward's name.
            many: Number of servers.
            command: Words that start one; {n} is its number, from `first`. The first word may be the `milr` of another
                virtual environment. None is this Python's `milr serve-reward`.
            options: Options of `milr serve-reward` for the reward, where there is no command.
            first: Number of the first server.

        Raises:
            UsageError: One of them does not start; the message is its own.
        """
        own = [sys.executable, "-P", "-c", "from milr.cli.main import main; raise SystemExit(main())"]
        self._all: list[subprocess.Popen[str]] = []
        paths = {} if command else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            for number in range(first, first + many):
                typed = [word.replace("{n}", str(number)) for word in shlex.split(command or "")]
                words = [*(typed or [*own, "serve-reward", reward, *options]), "--port", "0", "--attached"]
                try:
                    self._all.append(
                        subprocess.Popen(
                            words,
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            text=True,
                            env={**os.environ, **paths},
                        )
                    )
                except OSError as error:
                    raise UsageError(f"cannot start {words[0]} ({error.strerror}): see --reward-command") from error
            self.urls = [self._read_url(one) for one in self._all]
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Return the name under which `milr.load_reward` finds them all as one reward, named as it is itself."""
        return join_urls(self.urls)

    def wait(self) -> str:
        """Wait until the first server has ended; say how."""
        code = self._all[0].wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the servers."""
        for one in self._all:
            one.kill()
            one.communicate()
        self._all = []

    def _read_url(self, one: subprocess.Popen[str]) -> str:
        assert one.stdout is not None
        for line in one.stdout:
            if line.startswith(_READY) and " at http" in line:
                return line.rsplit(" at ", 1)[1].split(" ", 1)[0]
        _, said = one.communicate()
        last = (said.strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
        raise UsageError(f"the reward server did not start: {one_line(last, 400)}")
