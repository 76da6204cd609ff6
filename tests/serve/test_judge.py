"""The judge's route: it has the limits, keys and headers of the other routes, and answers each question."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx2
import pytest
from PIL import Image

from milr.rewards.vlm.gpt4o import BINARY
from milr.serve.config import Limits
from milr.serve.errors import ApiError
from milr.serve.judge import ChatRequest, Judge
from milr.testing import FakeReward
from milr.types import Task
from tests.robustness.test_doors import make_png
from tests.serve.conftest import OpenSite, Site
from tests.support.judges import judging

KEY = "a-secret-key-of-more-than-16-letters"
JSON = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


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
def judge() -> Iterator[str]:
    def score(image: Image.Image, task: Task) -> float:
        if image.size == (7, 7):
            raise RuntimeError("no memory at /home/us")
        return 1.0

    with judging(FakeReward(score), key=KEY) as url:
        yield url


def send(judge: str, body: bytes, headers: dict[str, str] = JSON, path: str = "/chat/completions") -> str:
    host, _, stem = judge.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=30)
    connection.request("POST", f"/{stem}{path}", body, headers)
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
    "a number for a text": (ask(GOOD, 7), "400 .*invalid_value"),
    "a long text": (ask(GOOD, "x" * 2**18), "400 .*invalid_value"),
    "no messages": (b'{"messages": []}', "400 .*invalid_value"),
    "a list": (b"[1]", "400 .*invalid_value"),
    "deep": (b"[" * 100_000, "400 .*parsing the body"),
    "no JSON": (b"\xff\x00", "400 .*invalid_json"),
    "nothing": (b"", "400 .*invalid_value"),
    "a reward that fails": (ask(url_of(SMALL.getvalue())), r"500 .*the reward failed: internal error \(RuntimeError\)"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_question_gets_an_answer(name: str, judge: str) -> None:
    body, expected = REQUESTS[name]
    said = send(judge, body)
    assert re.match(expected, said), said
    assert "\\n" not in said and "/home" not in said and len(said) < 1000


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Content-Type": "application/json"}, "/chat/completions", "401"),
        ({**JSON, "Authorization": "Bearer other"}, "/chat/completions", "401"),
        (
            {**JSON, "Content-Type": "text/plain"},
            "/chat/completions",
            "400",
        ),  # which a web page may send without asking
        ({**JSON, "Content-Length": "99999999999999"}, "/chat/completions", "413"),
        ({**JSON, "Origin": "https://evil.example"}, "/chat/completions", "403"),
        (JSON, "/images/generations", "400"),
        (JSON, "/../../etc/passwd", "404"),
    ],
)
def test_the_judges_route_has_the_checks_of_every_route(
    headers: dict[str, str], path: str, status: str, judge: str
) -> None:
    assert send(judge, ask(GOOD), headers, path).startswith(status)


def test_a_server_that_only_judges_is_ready_and_draws_nothing(judge: str) -> None:
    base = judge.removesuffix("/v1")
    assert httpx2.get(f"{base}/readyz", trust_env=False).status_code == 200
    with httpx2.Client(base_url=judge, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as http:
        assert [one["id"] for one in http.get("/models").json()["data"]] == ["milr:fake@1"]
        refused = http.post("/images/generations", json={"prompt": "a cat"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")
        assert "only judges" in refused.json()["error"]["message"]


def test_a_server_without_a_judge_says_so(site: Site) -> None:
    response = site.http.post("/v1/chat/completions", content=ask(GOOD), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "no_judge")


def test_one_server_draws_and_judges(serve: OpenSite) -> None:
    with serve(judge=Judge(FakeReward(lambda image, task: 0.0))) as site:
        asked = json.loads(ask(GOOD, model="milr:fake@1"))
        create: Any = site.openai.chat.completions.create
        chat = create(**asked)
        assert chat.choices[0].message.content == "-1" and chat.model == "milr:fake@1"
        assert site.result(site.search("an easy cat"))["state"] == "finished"
        assert [model.id for model in site.openai.models.list()] == ["fake", "milr:fake@1"]
        assert 'route="/v1/chat/completions",status="200"' in site.http.get("/metrics").text


def test_questions_take_turns_by_client_and_more_than_may_wait_are_refused() -> None:
    """A client with a single question waits for at most one more question of the other client."""
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def score(image: Image.Image, task: Task) -> float:
        begun.set()
        assert go.wait(60)
        order.append(task.prompt)
        return 1.0

    judge, limits = Judge(FakeReward(score)), Limits(questions=5, client_questions=4)

    def question(prompt: str) -> ChatRequest:
        return ChatRequest.model_validate_json(ask(GOOD, BINARY.fill(Task(prompt=prompt))))

    async def ask_all() -> None:
        many = [asyncio.create_task(judge.ask(question(f"a {number}"), "many", limits)) for number in range(4)]
        while not begun.is_set():
            await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await judge.ask(question("a 5"), "many", limits)
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        one = asyncio.create_task(judge.ask(question("b"), "one", limits))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="5 questions wait, 0 of yours"):
            await judge.ask(question("c"), "third", limits)
        go.set()
        await asyncio.gather(*many, one)

    asyncio.run(ask_all())
    judge.close()
    assert order.index("b") <= 2, order
