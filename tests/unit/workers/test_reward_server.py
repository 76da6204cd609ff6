"""Rewards as a service: the scores of the reward itself, from one server or several, which end with their run."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from milr.errors import UsageError
from milr.models.devices import Placement
from milr.rewards import load_reward
from milr.rewards.base import Reward, WaitingReward, make_reward
from milr.rewards.http import PROTOCOL, Remote
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.settings import VlmSettings
from milr.tasks import tasks_from_prompts
from milr.types import Region, Score, Task, Unscored
from milr.workers import RewardChoice, start_servers
from milr.workers.reward_server import RewardServer
from tests.support.worker_parts import Perilous

TASKS = tasks_from_prompts(["two dogs", "a red apple", "fog"] * 6, free=True)
IMAGES = [Image.new("RGB", (8, 8), (number, 2 * number, 255)) for number in range(len(TASKS))]


class Whole:
    """A reward whose scores have everything that a score can have; every third image has none."""

    name, stop_at = "whole@1", 0.8

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        self.images += len(images)
        return [self._score(image) for image in images]

    def _score(self, image: Image.Image) -> Score | Unscored:
        red = image.getpixel((0, 0))[0]  # type: ignore[index]
        if red % 3 == 2:
            return Unscored("nothing to see", self.name)
        parts, regions = {"red": red / 255}, (Region("dog", (0.0, 0.5, 1.0, 2.0), 0.9, "red"),)
        return Score(red / 255, self.name, 0.5 + red / 1000, parts, "it is red", {"pixel": [red, 2]}, 0.25, regions)


@contextmanager
def serving(*rewards: Reward) -> Iterator[list[RewardServer]]:
    servers = [RewardServer(reward, "127.0.0.1", 0) for reward in rewards]
    threads = [threading.Thread(target=one.serve_forever, args=(0.01,)) for one in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for one, thread in zip(servers, threads, strict=True):
            one.shutdown()
            thread.join()
            one.server_close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[VlmClient]:
    made = VlmClient(VlmSettings(attempts=1, first_wait=0, cache=tmp_path))
    yield made
    made.close()


def test_a_served_reward_gives_the_scores_of_the_reward_itself(client: VlmClient) -> None:
    with serving(Whole()) as (server,):
        assert load_reward(f"{server.url}#plain", vlm=client)(IMAGES, TASKS) == Whole()(IMAGES, TASKS)
        named = load_reward(server.url, vlm=client)
        assert named.name == f"whole@1 at {server.url}" and named.stop_at == 0.8


def test_several_servers_share_the_images(client: VlmClient) -> None:
    rewards = [Whole(), Whole(), Whole()]
    with serving(*rewards) as servers:
        reward = load_reward(",".join(one.url for one in servers) + "#plain", vlm=client)
        assert isinstance(reward, WaitingReward) and reward(IMAGES, TASKS) == Whole()(IMAGES, TASKS)
    assert sorted(one.images for one in rewards) == [2, 8, 8]  # at most eight a request


def test_a_server_that_is_gone_leaves_its_images_to_another(client: VlmClient) -> None:
    with serving(Whole(), Whole()) as servers:
        reward = load_reward(",".join(one.url for one in servers) + "#plain", vlm=client)
        servers[0].shutdown()
        servers[0].server_close()
        assert reward(IMAGES, TASKS) == Whole()(IMAGES, TASKS)


def test_servers_of_two_rewards_are_refused(client: VlmClient) -> None:
    with serving(Whole(), Perilous()) as (one, other), pytest.raises(UsageError, match="give the URLs of one reward"):
        load_reward(f"{one.url},{other.url}", vlm=client)


def fails(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
    raise RuntimeError("no memory")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "empty or too long"),
        (b"{", 400, f"none of {PROTOCOL}"),
        (b'{"items": []}', 400, f"none of {PROTOCOL}"),
        (b'{"items": [{"picture": "eA==", "task": {"prompt": "fog", "no": 1}}]}', 400, "none of"),
        (b'{"items": [{"picture": "%", "task": {"prompt": "fog"}}]}', 200, "the image cannot be read"),
    ],
)
def test_requests_outside_the_protocol_are_refused(body: bytes, status: int, said: str) -> None:
    with serving(Whole()) as (server,):
        assert said in ask(server.url, body, status)


def test_large_images_of_a_request_are_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files may unpack to gigabytes together; each image is scored at its own place all the same."""
    together: list[int] = []

    def reds(images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[float]:
        together.append(len(images))
        return [image.getpixel((0, 0))[0] / 255 for image in images]  # type: ignore[index]

    monkeypatch.setattr("milr.workers.reward_server._TOGETHER", 3 * 64)
    pictures: list[str] = []
    for number in range(8):
        content = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
        pictures.append("no base64" if number == 4 else base64.b64encode(content.getvalue()).decode())
    body = json.dumps({"items": [{"picture": one, "task": {"prompt": "a cat"}} for one in pictures]}).encode()
    server = RewardServer(make_reward(reds), "127.0.0.1", 0)
    said = server.score(body)["scores"]
    server.server_close()
    assert together == [3, 3, 1]
    assert [round(255 * one["value"]) if "value" in one else None for one in said] == [0, 1, 2, 3, None, 5, 6, 7]  # type: ignore[attr-defined]


def test_a_failing_reward_does_not_end_its_server() -> None:
    file = io.BytesIO()
    IMAGES[0].save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    body = json.dumps({"items": [{"picture": picture, "task": {"prompt": "fog"}}]}).encode()
    with serving(make_reward(fails)) as (server,):
        for _ in range(2):
            assert "the reward failed: RuntimeError: no memory" in ask(server.url, body, 500)


def ask(url: str, body: bytes, status: int) -> str:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    open_url: Callable[..., object] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with open_url(request, timeout=60) as answer:  # type: ignore[attr-defined]
            found, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            found, text = error.code, error.read().decode()
    assert found == status
    return text


@pytest.mark.slow
def test_servers_are_started_for_a_run_and_end_with_it(client: VlmClient) -> None:
    with start_servers("tests.support.worker_parts:Perilous", Placement(), RewardChoice(2)) as servers:
        reward = load_reward(servers.name, vlm=client)
        assert reward.name == "perilous@1" and len(servers.urls) == 2
        assert all(isinstance(one, Score) for one in reward(IMAGES[:2], TASKS[:2]))
        processes = list(servers._all)  # pyright: ignore[reportPrivateUsage]
    assert [one.poll() is not None for one in processes] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (RewardChoice(1, "no/bin/milr serve-reward icons"), "cannot start no/bin/milr"),
        (RewardChoice(1, "false {n}"), "the reward server did not start: it said nothing"),
        (RewardChoice(1, "sh -c 'echo error: no weights here >&2'"), "did not start: no weights here"),
    ],
)
def test_a_server_that_does_not_start_is_the_commands_error(choice: RewardChoice, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        start_servers("icons", Placement(), choice)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("http://127.0.0.1:9/score#plain", "geneval@1/c0ffee00"),
        ("http://127.0.0.1:9/a,http://[::1]:9/b#plain", "geneval@1/c0ffee00"),
        ("http://127.0.0.1:9/score", "geneval@1/c0ffee00 at http://127.0.0.1:9/score"),
        ("http://example.org/score#plain", "geneval@1/c0ffee00 at http://example.org/score"),
        (
            "http://127.0.0.1:9/a,http://example.org/b#plain",
            "geneval@1/c0ffee00 at http://127.0.0.1:9/a,http://example.org/b",
        ),
        ("http://127.0.0.1@example.org/#plain", "geneval@1/c0ffee00 at http://127.0.0.1@example.org/"),
    ],
)
def test_only_servers_of_this_machine_may_have_the_name_of_their_reward_alone(argument: str, name: str) -> None:
    class Wire:
        def post(self, url: str, body: object) -> Future[dict[str, object]]:
            answer: Future[dict[str, object]] = Future()
            answer.set_result({"protocol": PROTOCOL, "reward": "geneval@1/c0ffee00"})
            return answer

    try:
        found = Remote(argument, Wire()).name  # type: ignore[arg-type]
    except UsageError as error:
        assert "@" in argument and "\n" not in str(error)  # a name or a key in a URL is refused anyway
    else:
        assert found == name
