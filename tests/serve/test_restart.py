"""A server that ends and starts again loses nothing and sends no event twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milr.serve.reindex import reindex
from milr.serve.store import FILE, Store
from milr.serve.suspects import MOST_ATTEMPTS
from tests.serve.conftest import Held, OpenSite, Site, fake_offer

ASKED: dict[str, Any] = {"method": "milr", "settings": {"steps": 4, "seed": 5}}


def steps_of(events: list[Any]) -> dict[Any, Any]:
    """Return each step's events without times, and without latents, whose last digits depend on the batch."""
    told = {}
    for _, kind, data in events:
        if kind in ("step", "image"):
            place = data["task"], data["image"], data["step"]
            assert place not in told, "no step is told twice"
            rewards = [one["reward"] for one in data["images"]]
            told[place] = *rewards, data["text"], data["best"]["step"], data["finished"], data["drawings"]
    return told


@pytest.mark.slow
def test_searches_continue_after_a_restart_with_the_same_results(serve: OpenSite, site: Site) -> None:
    whole = site.search("a held dog", "an easy cat", n=2, **ASKED)
    expected = steps_of(site.events(whole))
    reward = Held()
    with serve(fake_offer(reward=reward), shutdown_seconds=60) as first:
        search = first.search("a held dog", "an easy cat", n=2, **ASKED)
        reward.permits.release(5)
        for _ in range(6):
            assert reward.arrived.acquire(timeout=60)
        first.listener.end()
        reward.permits.release(99)
        first.listener.listening.wait()
    with serve(fake_offer()) as second:
        events = second.events(search)
        assert steps_of(events) == expected
        assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
        assert second.http.get(f"/v1/searches/{search}").json()["state"] == "finished"
        assert second.http.get(f"/v1/searches/{search}/images/0/0/0/0").status_code == 200


def test_a_search_whose_model_is_gone_says_so(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward)) as first:
        search = first.search("a held dog")
        assert reward.arrived.acquire(timeout=60)
        first.listener.end()
        reward.permits.release(99)
    with serve(fake_offer("other")) as second:
        assert "without the model 'fake'" in second.result(search)["error"]


@pytest.mark.slow
def test_a_search_that_repeatedly_ends_the_process_is_given_up(serve: OpenSite, tmp_path: Path) -> None:
    """Set the state that kill -9 leaves: the row says that it is running, its folder is left, and the attempts stay."""
    reward = Held()
    with serve(fake_offer(reward=reward)) as first:
        asked = {"method": "best-of-n", "settings": {"steps": 3}}
        searches = [first.search(f"a held {word}", **asked) for word in ("dog", "cat", "cow")]
        assert reward.arrived.acquire(timeout=60)
        first.listener.end()
        reward.permits.release(99)
    store = Store(tmp_path)
    assert store.attempts() == {}, "an end in good order counts as no attempt"
    for many, search in zip((MOST_ATTEMPTS, 2, 1), searches, strict=True):
        store.change(search, state="running")
        for _ in range(many):
            store.attempt(search)
    store.close()
    reward = Held()
    with serve(fake_offer(reward=reward)) as second:
        told = second.result(searches[0])
        assert told["state"] == "failed" and "the server's process ended 5 times" in told["error"]
        assert reward.arrived.acquire(timeout=60)
        assert second.desk.load() == (0, 1), "those that may be at fault are drawn one by one, fewest attempts first"
        assert second.desk.store.attempts() == {searches[1]: 2, searches[2]: 2}
        reward.permits.release(99)
        assert [second.result(search)["state"] for search in searches[1:]] == ["finished"] * 2
        assert second.desk.store.attempts() == {}


@pytest.mark.slow
def test_the_index_is_rebuilt_from_the_run_folders(serve: OpenSite, tmp_path: Path) -> None:
    with serve() as site:
        searches = [site.search("two dogs", "an easy cat", **ASKED), site.search("an easy cat", n=2)]
        before = [site.result(search) for search in searches]
        told = [steps_of(site.events(search)) for search in searches]
    for file in tmp_path.glob(f"{FILE}*"):
        file.unlink()
    shutil.copytree(tmp_path / searches[0], tmp_path / "a-run-of-generate")
    assert reindex(tmp_path).runs == 3
    with serve() as site:
        after = [site.http.get(f"/v1/searches/{search}").json() for search in searches]
        kept = ("state", "wanted", "done", "met", "first", "best", "title", "method")
        assert [[one[name] for name in kept] for one in after] == [[one[name] for name in kept] for one in before]
        assert [steps_of(site.events(search)) for search in searches] == told
        assert site.http.get("/v1/searches").json()["total"] == 3
        assert site.http.get("/v1/searches/a-run-of-generate/images/0/0/0/0").status_code == 200
    shutil.rmtree(tmp_path / "a-run-of-generate")
    assert reindex(tmp_path).gone == 1


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_a_server_that_is_killed_at_any_moment_loses_nothing() -> None:
    command = [sys.executable, "-m", "tests.serve.kills", "--kills", "4", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 kills, 1 of them at the start; 3 searches; 0 faults")
