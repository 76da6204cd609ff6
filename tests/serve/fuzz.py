"""Sends invalid requests to every route.

Run: python -m tests.serve.fuzz --requests 5000. Every request must be answered in time by a status below 500 or by a
typed error that says what is wrong for now (503, 504), every error must have the form that OpenAI's SDK reads, and at
the end the server must be as it was: ready, nothing in progress, no thread and no file more than before.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from milr.rewards.vlm.gpt4o import BINARY
from milr.serve.config import Limits
from milr.serve.judge import Judge
from milr.testing import FakeReward
from milr.types import Task
from tests.serve.conftest import Site, fake_offer, grade, open_site

SECONDS = 120.0
"""Time in which every request must be answered."""
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "X")
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**400,
        -0.0,
        1e308,
        1e-320,
        "",
        " ",
        "\0",
        "\ud800",
        "é" * 50,
        "x" * 5000,
    ),
    *(
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "%00",
        "NaN",
        "a easy cat",
        [],
        {},
        [[]],
        {"a": {}},
    ),
)
HEADERS = (
    {"Last-Event-ID": "-1"},
    {"Last-Event-ID": "9" * 19},
    {"Last-Event-ID": "x"},
    {"Origin": "https://evil.example"},
    {"Host": "evil.example"},
    {"Host": ""},
    {"X-Request-Id": "a" * 500},
    {"Authorization": "Bearer " + "k" * 3000},
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Encoding": "gzip"},
    {"Range": "bytes=5-1"},
    {"Accept": "\xff".encode().decode("latin-1")},
    {"Expect": "100-continue"},
    {"Cookie": "a=" + "b" * 3000},
)


def bodies() -> dict[str, dict[str, Any]]:
    """Return a good body of each route that takes one."""
    png = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(png, "PNG")
    image = {"url": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"}
    question = [{"type": "text", "text": BINARY.fill(Task(prompt="a cat"))}, {"type": "image_url", "image_url": image}]
    return {
        "/v1/images/generations": {
            **{"prompt": "an easy cat", "n": 1, "size": "1024x1024", "response_format": "url", "output_format": "webp"},
            **{"quality": "low", "stream": False, "partial_images": 0, "seed": 1, "timeout": 5, "user": "u"},
            **{"model": "fake", "background": "auto", "guidance_scale": 2, "output_compression": 50, "style": "vivid"},
        },
        "/v1/searches": {
            "tasks": [{"prompt": "an easy cat", "tag": "t", "include": [{"class": "cat", "count": 1}], "exclude": []}],
            **{
                "model": "fake",
                "method": "milr",
                "settings": {"steps": 2, "seed": 5},
                "n": 1,
                "timeout": 9,
                "user": "u",
            },
        },
        "/v1/chat/completions": {
            **{"model": "m", "messages": [{"role": "user", "content": question}], "logprobs": True, "stream": False}
        },
        "/v1/prompts": {"prompt": "a cat", "model": "fake"},
    }


class Fuzzer:
    """Makes requests from a seed."""

    def __init__(self, site: Site, seed: int) -> None:
        """Take a server, and its routes from its own description."""
        self.site, self.chance = site, random.Random(seed)
        self.bodies = bodies()
        described: dict[str, Any] = site.http.get("/v1/openapi.json").json()["paths"]
        self.paths = [
            *described,
            "/",
            "/page/main.js",
            "/page/x",
            "/healthz",
            "/readyz",
            "/metrics",
            "/nowhere",
            "//",
            "/v1/%2e%2e",
        ]
        self.known = [site.search("an easy cat"), "search_x", "..", "%2e%2e", "a" * 300, "\u2603", "%00"]
        files = site.http.post(
            "/v1/images/generations", json={"prompt": "an easy cat", "response_format": "url"}
        ).json()
        self.links = [files["data"][0]["url"].rpartition("/")[2], "x.png", "A" * 900, "%ff.png"]
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def run(self, requests: int) -> None:
        """Send this many requests, a tenth of them as bytes that are no HTTP."""
        kinds: Sequence[Callable[[], None]] = (self._ask, self._ask, self._ask, self._ask_body, self._ask_body)
        goal = self.statuses.total() + requests
        while (done := self.statuses.total()) < goal:  # some are none that a client sends
            self._send_bytes() if done % 10 == 9 else self.chance.choice(kinds)()

    def _path(self) -> str:
        path = self.chance.choice(self.paths)
        numbers = ("0", "1", "-1", "999999999999", "x", "1e3", " ")
        for name in ("search", "task", "image", "step", "number"):
            values = self.known if name == "search" else numbers
            path = path.replace(f"{{{name}}}", self.chance.choice(values))
        return path.replace("{link}", self.chance.choice(self.links)).replace("{name}", self.chance.choice(self.known))

    def _query(self) -> str:
        names = ("text", "tag", "state", "outcome", "sort", "limit", "offset", "after", "rows", "form", "q")
        values = (
            "",
            "0",
            "1",
            "-1",
            "200",
            "9" * 30,
            "met",
            "png",
            "%00",
            "%ff",
            "a,b",
            "%25",
            "true",
            "newest",
            "gain",
        )
        return "&".join(
            f"{self.chance.choice(names)}={self.chance.choice(values)}" for _ in range(self.chance.randrange(4))
        )

    def _ask(self) -> None:
        address = f"{self._path()}?{self._query()}"
        headers = self.chance.choice(HEADERS) if self.chance.random() < 0.4 else {}
        self._request(self.chance.choice(METHODS) if self.chance.random() < 0.5 else "GET", address, headers, b"")

    def _ask_body(self) -> None:
        path, good = self.chance.choice(list(self.bodies.items()))
        body: Any = json.loads(json.dumps(good))
        for _ in range(self.chance.randrange(4)):
            body = self._change(body)
        content = json.dumps(body).encode()
        if self.chance.random() < 0.15:
            place = self.chance.randrange(len(content))
            content = content[:place] + self.chance.randbytes(3) + content[place + self.chance.randrange(9) :]
        headers = {"Content-Type": "application/json"}
        if self.chance.random() < 0.2:
            headers |= self.chance.choice(HEADERS)
        self._request("POST", path, headers, content)

    def _change(self, value: Any) -> Any:
        """Put something odd anywhere into JSON."""
        if isinstance(value, dict) and value and self.chance.random() < 0.8:
            key = self.chance.choice(list(value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if self.chance.random() < 0.1:
                return {**value, "surprise": self.chance.choice(ODD)}
            return {**value, key: self._change(value[key])}
        if isinstance(value, list) and value and self.chance.random() < 0.7:
            return [*value[1:], self._change(value[0])]
        return self.chance.choice(ODD)

    def _request(self, method: str, address: str, headers: dict[str, str], content: bytes) -> None:
        what, began = f"{method} {address[:200]} {headers} {content[:300]!r}", time.monotonic()
        try:
            with self.site.http.stream(method, address, headers=headers, content=content or None) as answer:
                self.statuses[answer.status_code] += 1
                if "event-stream" in answer.headers.get("content-type", "") and self.chance.random() < 0.5:
                    return  # leaves
                body = answer.read()
        except (httpx2.InvalidURL, httpx2.LocalProtocolError, UnicodeError, ValueError):
            return  # the client does not send it
        except httpx2.HTTPError as error:
            self.faults.append(f"{what}: no answer: {error!r}")
            return
        if time.monotonic() - began > SECONDS:
            self.faults.append(f"{what}: answered late")
        if answer.status_code >= 400 and method != "HEAD":
            try:
                error = json.loads(body)["error"]
                assert error["message"] and error["type"] and "code" in error
                assert "/home" not in error["message"] and "Traceback" not in error["message"]
            except (ValueError, LookupError, TypeError, AssertionError):
                if not (answer.status_code == 400 and body == b"Invalid HTTP request received."):
                    self.faults.append(f"{what}: {answer.status_code} {body[:200]!r}")
        if answer.status_code >= 500 and answer.status_code not in (503, 504):
            self.faults.append(f"{what}: {answer.status_code} {body[:200]!r}")

    def _send_bytes(self) -> None:
        host, port = self.site.url.removeprefix("http://").split(":")
        lines = (
            b"GET / HTTP/1.1",
            b"Host: 127.0.0.1",
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            b"\xff\xfe: x",
            b"A" * 9000,
        )
        sent = (
            b"\r\n".join(self.chance.choices(lines, k=self.chance.randrange(1, 6)))
            + b"\r\n\r\n"
            + self.chance.randbytes(9)
        )
        with socket.create_connection((host, int(port)), timeout=SECONDS) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionError:
                pass
            except TimeoutError:
                self.faults.append(f"{sent[:200]!r}: the connection stays open")
        self.statuses[0] += 1


def rest(site: Site) -> list[str]:
    """Return what is left of the requests after the server had time to end them."""
    until = time.monotonic() + SECONDS
    server = site.listener._server  # pyright: ignore[reportPrivateUsage]
    while time.monotonic() < until:
        busy = [*site.desk._jobs, *[f"{server.streams} streams"] * bool(server.streams)]  # pyright: ignore[reportPrivateUsage]
        if not busy and site.desk.load() == (0, 0):
            return []
        time.sleep(0.1)
    return ["still busy after the last request"]


def count_held() -> tuple[int, int]:
    """Return the numbers of threads and of open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def fuzz(folder: Path, requests: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Send this many requests; return the answers' statuses (0: bytes that were no HTTP), and what is wrong."""
    limits = Limits(per_minute=10**9, waiting=10**6, per_client=10**6, seconds=30, drawings=30)
    judge = Judge(FakeReward(lambda image, task: 1.0))
    with open_site(folder, [fake_offer(), fake_offer("grammar", free=False)], judge=judge, limits=limits) as site:
        site.http.timeout = SECONDS
        fuzzer = Fuzzer(site, seed)
        fuzzer.run(50)  # threads and connections that stay are there after these
        rest(site)
        before = count_held()
        fuzzer.run(requests)
        faults = [*fuzzer.faults, *rest(site)]
        after = count_held()
        if after[0] > before[0] + 40 or after[1] > before[1] + 40:  # the pools of threads and connections may grow
            faults.append(f"threads and files: {before} before, {after} after")
        if site.http.get("/readyz").status_code != 200:
            faults.append("the server is not ready")
        if (
            grade(Image.new("RGB", (2, 2)), Task(prompt="easy")) != 1
            or site.result(site.search("an easy cat"))["met"] != 1
        ):
            faults.append("the server does not draw")
    return fuzzer.statuses, faults


def main(argv: Sequence[str] | None = None) -> int:
    """Send, print, and say by the exit code whether anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        statuses, faults = fuzz(Path(folder), given.requests, given.seed)
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}; {len(faults)} faults")
    for fault in faults[:30]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
