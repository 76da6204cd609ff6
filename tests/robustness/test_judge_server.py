"""Requests that no client of ours sends: the judge server answers each in a line, and goes on."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from PIL import Image

from milr.rewards.vlm.gpt4o import BINARY
from milr.serve import judge_http
from milr.serve.judge import JudgeServer
from milr.testing import FakeReward
from milr.types import Task
from tests.robustness.test_doors import make_png

JSON = {"Content-Type": "application/json", "Authorization": "Bearer secret-key"}


def url_of(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def encode(format: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, format)
    return content.getvalue()


def ask(image: object, words: object = BINARY.fill(Task(prompt="a cat")), **more: object) -> bytes:
    content = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": image}}]
    return json.dumps({"messages": [{"role": "user", "content": content}], **more}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    def score(image: Image.Image, task: Task) -> float:
        if image.size == (7, 7):
            raise RuntimeError("no memory")
        return 1.0

    with JudgeServer(FakeReward(score), key="secret-key") as server:
        yield server


def send(server: JudgeServer, body: bytes, headers: dict[str, str] = JSON, path: str = "/v1/chat/completions") -> str:
    connection = HTTPConnection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]), timeout=30)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return f"{answer.status} {found['choices'][0]['message']['content'] if 'choices' in found else found['error']}"


GOOD = url_of(encode("PNG"))
SMALL = io.BytesIO()
Image.new("RGB", (7, 7)).save(SMALL, "PNG")
REQUESTS: dict[str, tuple[bytes, str]] = {
    "a question": (ask(GOOD), "200 0"),
    "a question, not to be streamed": (ask(GOOD, stream=False), "200 0"),
    "a question, to be streamed": (ask(GOOD, stream=True), "400 .*streams nothing: leave stream out"),
    "an EPS image": (ask(url_of(encode("EPS"))), "400 .*it is no PNG"),
    "a broken PNG": (ask(url_of(encode("PNG")[:-30])), "400 .*cannot be read"),
    "a PNG of 169 megapixels": (ask(url_of(make_png(13_000, 13_000))), "400 .*13000 x 13000 pixels"),
    "no base64": (ask("data:image/png;base64,!!!"), "400 .*no base64"),
    "a URL elsewhere": (ask("http://127.0.0.1:1/x.png"), "400 .*cannot be read"),
    "a number for a text": (ask(GOOD, 7), "400 .*give one user message"),
    "a long text": (ask(GOOD, "x" * 2**18), "400 .*give one user message"),
    "no messages": (b'{"messages": []}', "400 .*give one user message"),
    "a list": (b"[1]", "400 .*give one user message"),
    "deep": (b"[" * 100_000, "400 .*no JSON"),
    "no JSON": (b"\xff\x00", "400 .*no JSON"),
    "nothing": (b"", "400 .*empty or too long"),
    "a reward that fails": (ask(url_of(SMALL.getvalue())), "500 .*the reward failed: RuntimeError: no memory"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_request_gets_an_answer(name: str, server: JudgeServer) -> None:
    body, expected = REQUESTS[name]
    said = send(server, body)
    assert re.match(expected, said), said
    assert "\\n" not in said and len(said) < 1000


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Content-Type": "application/json"}, "/v1/chat/completions", "401"),
        ({**JSON, "Authorization": "Bearer other"}, "/v1/chat/completions", "401"),
        ({**JSON, "Content-Type": "text/plain"}, "/v1/chat/completions", "415"),
        ({**JSON, "Content-Length": "99999999999999"}, "/v1/chat/completions", "400"),
        ({**JSON, "Content-Length": "-1"}, "/v1/chat/completions", "400"),
        (JSON, "/v1/../../etc/passwd", "404"),
    ],
)
def test_who_asks_and_how_is_checked_before_the_body(
    headers: dict[str, str], path: str, status: str, server: JudgeServer
) -> None:
    assert send(server, ask(GOOD), headers, path).startswith(status)


@pytest.mark.slow
def test_slow_and_many_connections_end(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_http, "SECONDS", 0.2)
    port = int(server.url.split(":")[2].split("/")[0])
    slow = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    slow.sendall(f"{head}Authorization: Bearer secret-key\r\n\r\nx".encode())
    assert b" 408 " in slow.recv(1000)
    slow.close()
    idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(judge_http.MOST_CONNECTIONS + 8)]
    assert b"" in [one.recv(1) for one in idle[-8:]]  # one too many is closed at once
    for one in idle:
        one.close()
