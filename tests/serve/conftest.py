"""Servers on this machine with fake models: one for the whole session, and one each for tests that need their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx2
import openai
import pytest
from PIL import Image

from milr.rewards import Reward
from milr.serve.app import make_app
from milr.serve.config import ServeSettings
from milr.serve.drawing import Loaded
from milr.serve.judge import Judge
from milr.serve.keys import KeyRing
from milr.serve.listen import Listener, listening
from milr.serve.offers import Offer
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Task


def grade(image: Image.Image, task: Task) -> float:
    """Return 1 for easy prompts, so that the search ends at once, and at most 0.5 for others, so that it continues."""
    return 1.0 if "easy" in task.prompt else brightness(image) / 2


class Held(FakeReward):
    """A reward that waits for one permit before it scores a prompt with "held"."""

    def __init__(self) -> None:
        super().__init__(self._grade)
        self.permits = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)

    def _grade(self, image: Image.Image, task: Task) -> float:
        if "held" in task.prompt:
            self.arrived.release()
            assert self.permits.acquire(timeout=60)
        return grade(image, task)


def fake_offer(
    name: str = "fake",
    *,
    reward: Reward | None = None,
    panel: dict[str, Reward] | None = None,
    load: Callable[[], None] = lambda: None,
    free: bool = True,
    size: int = 1000,
) -> Offer:
    def make() -> Loaded:
        load()
        return Loaded(FakeModel(), reward or FakeReward(grade), panel or {"bright": FakeReward(name="bright@1")})

    return Offer(
        name=name,
        capabilities=FakeModel.capabilities,
        defaults=FakeModel.defaults,
        free=free,
        best={"method": "milr", "strategy": "steer"},
        reward="self",
        bytes=size,
        load=make,
    )


class Site:
    """A server and its clients."""

    def __init__(self, listener: Listener, settings: ServeSettings, key: str) -> None:
        self.listener, self.settings, self.url, self.key = listener, settings, listener.url, key
        self.desk = listener._server.desk  # pyright: ignore[reportPrivateUsage]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # without certificates, which take longer to read than most tests here, and which no test needs
        plain = partial(httpx2.Client, trust_env=False, verify=False)
        self.http = plain(base_url=self.url, headers=headers, timeout=60)
        self.openai = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, http_client=plain()
        )

    def search(self, *prompts: str, **asked: Any) -> str:
        """Start a search; return its id."""
        response = self.http.post("/v1/searches", json={"tasks": list(prompts), **asked})
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def events(self, search: str, after: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
        """Follow a search to its end."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        return list(read_events(self.http, f"/v1/searches/{search}/events", headers))

    def result(self, search: str) -> dict[str, Any]:
        """Return a search once it has ended."""
        self.events(search)
        return self.http.get(f"/v1/searches/{search}").json()


def read_events(
    client: httpx2.Client, path: str, headers: dict[str, str] | None = None, *, number: bool = True
) -> Generator[tuple[int, str, dict[str, Any]]]:
    """Yield number, kind and data of an event stream's events; without `number`, events without one have 0."""
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        event: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "data" in event:
                yield int(event["id"] if number else event.get("id", 0)), event["event"], _json(event["data"])
                event = {}


def _json(text: str) -> dict[str, Any]:
    import json

    return json.loads(text)


class OpenSite(Protocol):
    def __call__(
        self, *offers: Offer, data: Path | None = None, key: str = "", judge: Judge | None = None, **settings: Any
    ) -> AbstractContextManager[Site]: ...


@contextmanager
def open_site(
    data: Path, offers: Sequence[Offer], key: str = "", judge: Judge | None = None, **settings: Any
) -> Iterator[Site]:
    """Serve fake models during the block."""
    chosen = ServeSettings(**{"port": 0, "data": data, **settings})
    app = make_app(offers or [fake_offer()], chosen, KeyRing([key] if key else []), judge)
    with listening(app, chosen) as listener:
        site = Site(listener, chosen, key)
        try:
            yield site
        finally:
            site.http.close()
            site.openai.close()


@pytest.fixture
def serve(tmp_path: Path) -> OpenSite:
    """Return a context manager that serves fake models."""
    return lambda *offers, data=None, **more: open_site(data or tmp_path, offers, **more)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server for all tests that change nothing for others."""
    with open_site(tmp_path_factory.mktemp("site"), [fake_offer(), fake_offer("other")]) as opened:
        yield opened
