"""A server whose images are drawn by worker processes: equal results, and a worker's death fails no search."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from typing import Any

import pytest

from milr.models.devices import Placement
from milr.parts import Names
from milr.serve.drawing import Spread, spread
from milr.serve.offers import Offer
from milr.workers import WorkerChoice
from tests.serve.conftest import OpenSite, fake_offer
from tests.serve.test_restart import steps_of
from tests.support.worker_parts import LOADER, load

NAMES = Names("fake", "tests.support.worker_parts:Perilous", "one-shot", panel=("icons-soft",))
ASKED: dict[str, Any] = {"method": "milr", "settings": {"steps": 12, "seed": 3, "stop_at": 1.0}}


def spread_offer(made: list[Spread]) -> Offer:
    def make() -> Spread:
        made.append(spread(NAMES, Placement(), WorkerChoice(2, loader=LOADER), 2))
        return made[-1]

    return replace(fake_offer(), load=make)


def local_offer() -> Offer:
    from milr.serve.drawing import Loaded

    parts = load(NAMES)
    return replace(fake_offer(), load=lambda: Loaded(parts.model, parts.reward, parts.panel))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")  # tests/unit/workers starts processes as users have them
def test_workers_draw_a_servers_searches_and_a_dead_worker_fails_none(serve: OpenSite, tmp_path: Any) -> None:
    prompts = ("two dogs", "a red cat", "three birds")
    with serve(local_offer(), data=tmp_path / "here") as site:
        expected = steps_of(site.events(site.search(*prompts, n=2, **ASKED)))
    made: list[Spread] = []
    with serve(spread_offer(made), data=tmp_path / "spread") as site:
        search = site.search(*prompts, n=2, **ASKED)
        events, killed = list[Any](), False
        for event in read(site, search):
            events.append(event)
            if event[1] == "step" and not killed:
                killed = True
                told = site.http.get("/v1/workers").json()["data"][0]["workers"]
                assert len(told) == 2 and any(one["open"] for one in told)
                victim = next(one for one in told if one["open"])
                found = re.search(r"process (\d+)", victim["name"])
                assert found is not None
                os.kill(int(found[1]), signal.SIGKILL)
        assert steps_of(events) == expected
        assert site.http.get(f"/v1/searches/{search}").json()["state"] == "finished"
        told = site.http.get("/v1/workers").json()
        assert told["data"][0]["replaced"] == 1 and sum(one["tasks"] for one in told["data"][0]["workers"]) == 6
        assert 'milr_workers_replaced{model="fake"} 1.0' in site.http.get("/metrics").text

        poison = site.search("a poison", method="one-shot")
        beside = site.result(site.search("two dogs", **ASKED))
        assert "SIGKILL" in site.result(poison)["error"] and beside["state"] == "finished"
        cancelled = site.search(*prompts, n=2, **{**ASKED, "settings": {"steps": 300, "stop_at": 1.0}})
        next(read(site, cancelled))
        site.http.delete(f"/v1/searches/{cancelled}")
        assert site.result(cancelled)["state"] == "cancelled"
    assert len(made) == 1, "the model was never loaded again"
    assert not made[0].parts.team.members, "the workers have ended with the server"


def read(site: Any, search: str) -> Any:
    from tests.serve.conftest import read_events

    return read_events(site.http, f"/v1/searches/{search}/events")
