"""Searches as jobs: events from any position, cancelling, fair order, limits."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import openai
import pytest
from PIL import Image

from milr.runs import read_run
from milr.serve.asked import SearchRequest, make_order
from milr.serve.config import Limits
from milr.serve.errors import ApiError
from milr.settings import METHOD_SETTINGS
from milr.testing import FakeReward
from tests.serve.conftest import Held, OpenSite, Site, fake_offer, read_events

STEPS: dict[str, Any] = {"settings": {"steps": 2, "seed": 5}, "method": "milr"}


def test_a_search_is_reported_step_by_step_and_stored_as_a_run(site: Site) -> None:
    search = site.search("two dogs", "an easy cat", n=2, **STEPS)
    events = site.events(search)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert events[0][1] == "state" and events[-1][1:] == ("end", {"state": "finished", "error": None})
    steps = [data for _, kind, data in events if kind in ("step", "image")]
    told = [(one["task"], one["image"], one["step"]) for one in steps]
    assert sorted(told) == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 0, 0), (1, 1, 0)]
    ends = [data for _, kind, data in events if kind == "image"]
    assert {one["finished"] for one in ends} == {"out of steps", "met"}
    assert all(one["panel"]["bright"]["best"] is not None for one in ends), "the held-out evaluator watches"

    run = read_run(site.settings.data / search)
    assert run.manifest.status == "finished" and run.manifest.images_per_prompt == 2
    assert [task.last.best_score.value for task in run.tasks] == [  # pyright: ignore[reportAttributeAccessIssue]
        one["best"]["reward"] for one in sorted(ends, key=lambda one: (one["task"], one["image"]))
    ]
    found = site.http.get(f"/v1/searches/{search}").json()
    assert (found["state"], found["wanted"], found["done"], found["met"]) == ("finished", 4, 4, 2)
    assert found["gain"] == pytest.approx(found["best"] - found["first"])
    assert [one["step"] for one in found["results"]] == [one["step"] for one in ends]

    first = site.http.get(steps[0]["images"][0]["url"])
    stored = read_run(site.settings.data / search).tasks[0]
    assert Image.open(io.BytesIO(first.content)).tobytes() == stored.load_image(stored.first.images[0]).tobytes()
    gif = Image.open(io.BytesIO(site.http.get(f"/v1/searches/{search}/gif/0/0").content))
    assert (gif.format, getattr(gif, "n_frames", 1)) == ("GIF", 3)
    assert Image.open(io.BytesIO(site.http.get(f"/v1/searches/{search}/strip/0/0").content)).format == "PNG"


@pytest.mark.parametrize("after", [0, 1, 3, 99, 9999999999999999999])
def test_a_reader_that_comes_back_loses_nothing(site: Site, after: int) -> None:
    search = site.search("two dogs", **STEPS)
    whole = site.events(search)
    assert site.events(search, after) == whole[after:]


def test_readers_of_a_search_in_progress_see_the_same(serve: OpenSite) -> None:
    """One reader from the start, one that comes late, one that leaves and returns."""
    reward = Held()
    with serve(fake_offer(reward=reward)) as site, ThreadPoolExecutor() as pool:
        search = site.search("a held dog", **STEPS)
        reward.permits.release()
        early = pool.submit(site.events, search)
        begun: list[Any] = []
        with closing(read_events(site.http, f"/v1/searches/{search}/events")) as events:
            for event in events:
                begun.append(event)
                if event[1] == "step":
                    break
        late = pool.submit(site.events, search)
        reward.permits.release(9)
        assert early.result() == late.result() == [*begun, *site.events(search, after=begun[-1][0])]


def test_a_cancelled_search_keeps_its_best_so_far(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward), batch_size=1) as site:
        search = site.search("a held dog", "another held dog", settings={"steps": 9})
        reward.permits.release()
        for _ in range(2):
            assert reward.arrived.acquire(timeout=60)
        assert site.http.delete(f"/v1/searches/{search}").status_code == 200
        reward.permits.release()
        found = site.result(search)
        assert (found["state"], found["wanted"], found["done"]) == ("cancelled", 2, 1)
        assert [one["finished"] for one in found["results"]] == ["cancelled"]
        assert found["results"][0]["step"] == 1
        again = site.http.delete(f"/v1/searches/{search}")
        assert again.json()["state"] == "cancelled", "it stays as it is"


@pytest.mark.slow
def test_a_new_search_joins_at_the_next_step_and_clients_take_turns(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward), batch_size=2) as site:
        long = site.search("a held dog", settings={"steps": 3})
        assert reward.arrived.acquire(timeout=60)
        short = site.search("an easy cat")
        reward.permits.release(2)
        assert site.result(short)["state"] == "finished", "while the other is still in progress"
        assert site.http.get(f"/v1/searches/{long}").json()["state"] == "running"
        many = site.search("one easy", "two easy", "three easy", user="a")
        one = site.search("four easy", user="b")
        with site.desk._lock:  # pyright: ignore[reportPrivateUsage]
            jobs = site.desk._jobs  # pyright: ignore[reportPrivateUsage]
            assert {(job.client, job.order.user) for job in jobs.values()} >= {("127.0.0.1", "a"), ("127.0.0.1", "b")}
        reward.permits.release(9)
        assert {site.result(search)["state"] for search in (long, many, one)} == {"finished"}


def test_a_failing_method_ends_only_its_own_search(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from milr.methods import milr
    from milr.methods.milr import SearchError

    def fail(ctx: Any, *_: object) -> Any:
        raise SearchError(f"the gradient is not finite at {ctx.task.prompt!r}")

    monkeypatch.setattr(milr, "update", fail)
    search, other = site.search("two dogs", **STEPS), site.search("two dogs", method="best-of-n", settings={"steps": 2})
    found = site.result(search)
    assert (found["state"], found["done"]) == ("failed", 0) and "not finite" in found["error"]
    assert site.http.get(f"/v1/searches/{search}/images/0/0/0/0").status_code == 200, "what it drew before is kept"
    assert site.result(other)["state"] == "finished"


@pytest.mark.slow
def test_a_failing_model_ends_only_the_searches_of_its_batch_and_is_loaded_again(serve: OpenSite) -> None:
    """An unexpected error's message may contain private facts, so the client does not get it."""
    loads: list[int] = []

    def value(image: Image.Image, task: Any) -> float:
        if "bad" in task.prompt:
            raise RuntimeError("CUDA error: secret")
        return 1.0

    offer = fake_offer(reward=FakeReward(value), load=lambda: loads.append(1))
    with serve(offer, batch_size=1) as site:
        searches = [site.search(prompt) for prompt in ("bad one", "good", "bad two", "bad three", "good again")]
        found = [site.result(search) for search in searches]
        assert [one["state"] for one in found] == ["failed", "finished", "failed", "failed", "finished"]
        assert {one["error"] for one in found} == {None, "internal error (RuntimeError)"}
        assert len(loads) == 2, "after two failures without a step between them the model is loaded again"
        assert site.http.get("/readyz").json() == {"status": "ready"}
        with pytest.raises(openai.InternalServerError) as caught:
            site.openai.images.generate(prompt="bad")
        assert (caught.value.status_code, caught.value.code) == (500, "search_failed")


def test_partial_images_are_sent_only_to_clients_that_ask_for_them(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward)) as site, ThreadPoolExecutor() as pool:
        search = site.search("a held dog", **STEPS)
        assert reward.arrived.acquire(timeout=60)
        plain = pool.submit(site.events, search)
        with closing(read_events(site.http, f"/v1/searches/{search}/events?rows=true", number=False)) as events:
            assert next(events)[1] == "state"
            reward.permits.release()
            seen = [next(events)]
            while seen[-1][1] != "rows":  # the second drawing is held before its score
                seen.append(next(events))
            number, _, rows = seen[-1]
            assert number == 0 and (rows["task"], rows["image"], rows["drawn"]) == (0, 0, 0.2)
            image = Image.open(io.BytesIO(base64.b64decode(rows["url"].partition(",")[2])))
            assert image.size == (20, 20) and image.getchannel("A").getbbox() == (0, 0, 20, 4), "the first row of five"
            reward.permits.release(9)
            rest = [kind for _, kind, _ in events]
        told = plain.result()
        assert rest[-1] == "end" and "rows" not in {kind for _, kind, _ in told}
        assert [number for number, _, _ in told] == list(range(1, len(told) + 1)), "rows take no number"


def test_words_have_the_shift_of_their_latents(site: Site) -> None:
    """Each step sends them token by token; joined, the tokens are the beginning of the whole text."""
    steps = [data for _, kind, data in site.events(site.search("two dogs", **STEPS)) if kind in ("step", "image")]
    first, last = steps[0]["trace"], steps[-1]["trace"]
    assert {shift for _, shift in first["text_shifts"]} == {0.0}
    assert len(last["text_shifts"]) == last["text_latents"] > 0 and max(shift for _, shift in last["text_shifts"]) > 0
    assert steps[-1]["text"].startswith("".join(signs for signs, _ in last["text_shifts"]).strip())


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"tasks": []}, 400, "tasks"),
        ({"tasks": ["a cat"] * 101}, 400, "tasks"),
        ({"tasks": [""]}, 400, "prompt"),
        ({"tasks": ["a\0cat"]}, 400, "prompt"),
        ({"tasks": [{"prompt": "a cat", "include": [{"class": "zorgon"}]}]}, 400, "prompt"),
        ({"tasks": [{"prompt": "a cat", "file": "/etc/passwd"}]}, 400, None),
        ({"tasks": ["a cat"], "method": "./evil.py:run"}, 400, "method"),
        ({"tasks": ["a cat"], "model": "/etc"}, 404, "model"),
        ({"tasks": ["a cat"], "settings": {"batch_size": 99}}, 400, "batch_size"),
        ({"tasks": ["a cat"], "settings": {"steps": 9999}}, 400, "settings"),
        ({"tasks": ["a cat"], "settings": {"stepz": 1}}, 400, "settings"),
        ({"tasks": ["a cat"], "settings": {"seed": 10**30}}, 400, "seed"),
        ({"tasks": ["a cat"], "settings": {"seed": "\ud800"}}, 400, "settings"),
        ({"tasks": ["a cat"], "settings": {"guidance": "NaN"}}, 400, "settings"),
        ({"tasks": ["a cat"], "settings": {"learning_rate": 1e38}}, 400, "learning_rate"),
        ({"tasks": ["a cat"], "settings": {"temperature": 1e-30}}, 400, "temperature"),
        ({"tasks": ["a cat"], "method": "one-shot", "settings": {"strategy": "joint"}}, 400, "settings"),
        ({"tasks": ["a cat"], "n": 11}, 400, "n"),
        ({"tasks": ["a cat"], "surprise": 1}, 400, "surprise"),
    ],
)
def test_invalid_searches_are_refused_with_the_name_of_the_parameter(
    site: Site, asked: dict[str, Any], status: int, param: str | None
) -> None:
    kind = {"content-type": "application/json"}
    response = site.http.post("/v1/searches", content=json.dumps(asked).encode(), headers=kind)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"] and (param is None or error["param"] == param)


def test_searches_are_found_by_words_tag_outcome_and_gain(site: Site) -> None:
    asked = {"tasks": [{"prompt": "a purple yak", "tag": "yaks"}], "method": "best-of-n", "settings": {"steps": 2}}
    improved = site.http.post("/v1/searches", json={**asked, "settings": {"steps": 2, "seed": 5}}).json()["id"]
    met = site.search("an easy purple yak")
    for search in (improved, met):
        site.events(search)

    def find(**query: Any) -> list[str]:
        page = site.http.get("/v1/searches", params={"text": "purple yak", **query}).json()
        assert page["total"] == len(page["data"])
        return [one["id"] for one in page["data"]]

    assert find() == [met, improved]
    assert find(tag="yaks") == [improved] and find(tag="yak%") == []
    assert find(outcome="met") == [met]
    assert find(sort="best")[0] == met
    assert find(text="purple 100% yak") == [] and find(state="failed") == []


def test_the_schema_says_what_each_method_reads(site: Site) -> None:
    schema = site.http.get("/v1/schema").json()
    assert list(schema["methods"]) == list(METHOD_SETTINGS)
    milr = schema["methods"]["milr"]["schema"]["properties"]
    assert {"strategy", "steps", "guidance", "seed"} <= milr.keys() and "batch_size" not in milr
    assert all(one.get("description") for one in milr.values()), "each has a help text"
    assert schema["models"]["fake"]["defaults"]["milr"]["learning_rate"] == 0.2, "the model's own"
    assert schema["models"]["fake"]["best_defaults"]["strategy"] == "steer", "of those who choose nothing"
    for preset in schema["presets"]:
        site.search("an easy cat", method=preset["method"], settings=preset["settings"])


def test_a_prompt_that_is_typed_is_explained(serve: OpenSite, site: Site) -> None:
    assert site.http.post("/v1/prompts", json={"prompt": "anything"}).json()["error"] is None
    with serve(fake_offer(free=False)) as grammar:
        read = grammar.http.post("/v1/prompts", json={"prompt": "a red aple"}).json()
        assert "did you mean 'apple'" in read["error"]
        read = grammar.http.post("/v1/prompts", json={"prompt": "a puppy"}).json()
        assert read["error"] is None and "dog" in read["note"]
        assert "dog" in grammar.http.get("/v1/words").json()["objects"]


def test_a_method_that_needs_what_the_model_lacks_is_refused_before_the_queue() -> None:
    offer = fake_offer()
    offer = replace(offer, capabilities=replace(offer.capabilities, latents="none", writes_text=False), best={})
    with pytest.raises(ApiError, match="'milr' needs text or image latents .*best-of-n"):
        make_order(SearchRequest(tasks=["two dogs"]), [offer], Limits())
    assert make_order(SearchRequest(tasks=["two dogs"], method="best-of-n"), [offer], Limits()).tasks
