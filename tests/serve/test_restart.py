"""A server that ends and starts again: nothing is lost, nothing is told twice."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from milr.serve.reindex import reindex
from milr.serve.store import FILE
from tests.serve.conftest import Held, OpenSite, Site, fake_offer

ASKED: dict[str, Any] = {"method": "milr", "settings": {"steps": 4, "seed": 5}}


def steps_of(events: list[Any]) -> dict[Any, Any]:
    """Return what was told of each step, without clocks, and latents, whose last digits depend on the batch."""
    told = {}
    for _, kind, data in events:
        if kind in ("step", "image"):
            place = data["task"], data["image"], data["step"]
            assert place not in told, "no step is told twice"
            rewards = [one["reward"] for one in data["images"]]
            told[place] = *rewards, data["text"], data["best"]["step"], data["finished"], data["drawings"]
    return told


def test_searches_go_on_after_a_restart_as_if_nothing_had_been(serve: OpenSite, site: Site) -> None:
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


def test_the_index_is_made_anew_from_the_run_folders(serve: OpenSite, tmp_path: Path) -> None:
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


SERVER = """
import sys
from pathlib import Path
from tests.serve.conftest import fake_offer
from milr.serve.app import make_app
from milr.serve.config import ServeSettings
from milr.serve.listen import listening, wait_for_end
settings = ServeSettings(port=0, data=Path(sys.argv[1]), batch_size=4)
with listening(make_app([fake_offer()], settings), settings) as listener:
    print(listener.url, flush=True)
    wait_for_end(listener)
"""


@pytest.mark.slow
def test_a_server_that_is_killed_at_any_moment_loses_nothing(tmp_path: Path, site: Site) -> None:
    """Kill -9 at random moments, with searches in progress: each ends as it would have, and no step is told twice."""
    chance = random.Random(7)
    prompts = [f"a dog number {number}" for number in range(3)]
    asked: dict[str, Any] = {"method": "milr", "settings": {"steps": 20, "seed": 3}}
    expected = {}
    for prompt in prompts:
        search = site.search(prompt, **asked)
        expected[prompt] = steps_of(site.events(search))
    searches: dict[str, str] = {}
    for _ in prompts:
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx2.Client(base_url=url, trust_env=False) as http:
            prompt = prompts[len(searches)]
            searches[prompt] = http.post("/v1/searches", json={"tasks": [prompt], **asked}).json()["id"]
            seen, most = 0, chance.randrange(1, 25)
            with http.stream("GET", f"/v1/searches/{searches[prompt]}/events") as response:
                for line in response.iter_lines():
                    seen += line.startswith("id:")
                    if seen >= most:
                        break
                process.send_signal(signal.SIGKILL)
                process.wait()
        process.stdout.close()
    from tests.serve.conftest import open_site

    with open_site(tmp_path, [fake_offer()]) as last:
        for prompt, search in searches.items():
            assert last.result(search)["state"] == "finished"
            assert steps_of(last.events(search)) == expected[prompt]
