"""OpenAI's images route, called by the real SDK."""

from __future__ import annotations

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from tests.serve.conftest import Held, OpenSite, Site, fake_offer


def opened(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_an_image_comes_with_its_text_usage_and_size(site: Site) -> None:
    made = site.openai.images.generate(prompt="an easy red cat", size="1024x1024", quality="high", style="vivid")
    (image,) = made.data or []
    assert opened(image.b64_json).format == "PNG" and opened(image.b64_json).size == (20, 20)
    assert made.size == "20x20", "the size that the model draws, whatever was asked for"
    assert image.revised_prompt, "the reasoning"
    assert made.usage is not None and made.usage.output_tokens_details is not None
    assert made.usage.output_tokens_details.image_tokens == 25, "one drawing of the fake model"
    assert made.usage.input_tokens == 5, "as the model counts them, not the four words"
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert (made.output_format, made.background, made.quality) == ("png", "opaque", "high")
    extra: Any = made.model_extra
    assert extra["milr"]["passed_over"] == ["style"]
    assert extra["milr"]["images"] == [{"reward": 1.0, "step": 0, "finished": "met", "drawings": 1.0}]


@pytest.mark.slow
def test_images_are_those_that_milr_draws_with_this_seed(site: Site) -> None:
    """The answer is the search's best image, image i with the seed + i; the same request draws the same again."""
    from milr import search
    from milr.testing import FakeModel, FakeReward
    from tests.serve.conftest import grade

    asked: Any = {"prompt": "two dogs", "n": 2, "quality": "medium", "extra_body": {"seed": 5, "guidance_scale": 3.0}}
    made = site.openai.images.generate(**asked)
    for number, image in enumerate(made.data or []):
        settings = FakeModel().settings("milr", strategy="steer", seed=5 + number, guidance=3.0, max_drawings=5)
        *_, last = search(["two dogs"], FakeModel(), FakeReward(grade), settings)
        assert opened(image.b64_json).convert("RGB").tobytes() == last.best.image.tobytes()
    again = site.openai.images.generate(**asked)
    assert [one.b64_json for one in again.data or []] == [one.b64_json for one in made.data or []]


@pytest.mark.parametrize(("form", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_a_link_leads_to_the_image_in_the_form_that_was_asked_for(site: Site, form: Any, kind: str) -> None:
    made = site.openai.images.generate(prompt="an easy cat", response_format="url", output_format=form)
    url = (made.data or [])[0].url or ""
    response = httpx2.get(url, trust_env=False)
    assert Image.open(io.BytesIO(response.content)).format == kind
    assert response.headers["content-type"] == f"image/{form}"
    forged = url[:-12] + ("A" if url[-12] != "A" else "B") + url[-11:]
    assert httpx2.get(forged, trust_env=False).status_code == 404


def test_a_link_expires(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.openai.images.generate(prompt="an easy cat", response_format="url")
    url = (made.data or [])[0].url or ""
    now = __import__("time").time()
    monkeypatch.setattr("milr.serve.links.time.time", lambda: now + 3601)
    response = httpx2.get(url, trust_env=False)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "link_expired")


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"model": "gpt-image-1"}, 404, "model"),
        ({"n": 11}, 400, "n"),
        ({"n": 0}, 400, "n"),
        ({"size": "big"}, 400, "size"),
        ({"background": "transparent"}, 400, "background"),
        ({"prompt": "  "}, 400, "prompt"),
        ({"prompt": "x" * 4001}, 400, "prompt"),
        ({"partial_images": 2}, 400, "partial_images"),
        ({"partial_images": 4, "stream": True}, 400, "partial_images"),
        ({"n": 2, "stream": True}, 400, "n"),
        ({"extra_body": {"negative_prompt": "dogs"}}, 400, "negative_prompt"),
        ({"extra_body": {"seed": -1}}, 400, "seed"),
        ({"extra_body": {"timeout": -1}}, 400, "timeout"),
        ({"output_format": "bmp"}, 400, "output_format"),
    ],
)
def test_invalid_image_requests_are_refused_with_the_name_of_the_parameter(
    site: Site, asked: dict[str, Any], status: int, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        site.openai.images.generate(**{"prompt": "a cat", **asked})
    error = caught.value
    assert (error.status_code, error.param) == (status, param)
    assert isinstance(error, openai.NotFoundError if status == 404 else openai.BadRequestError)
    assert error.code and error.type and error.response.headers["x-should-retry"] == "false"


def test_a_prompt_that_the_grammar_does_not_read_is_explained(serve: OpenSite) -> None:
    with serve(fake_offer(free=False)) as site, pytest.raises(openai.BadRequestError) as caught:
        site.openai.images.generate(prompt="a red aple")
    assert caught.value.code == "prompt_not_understood" and "did you mean 'apple'" in str(caught.value)


@pytest.mark.slow
def test_a_stream_sends_the_best_so_far_then_the_completed_image(site: Site) -> None:
    def ask(partial: int) -> list[Any]:
        seed = {"seed": 5}
        return list(
            site.openai.images.generate(
                prompt="a dog", stream=True, partial_images=partial, quality="medium", extra_body=seed
            )
        )

    events = ask(3)
    *partial, last = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * len(partial)
    assert [event.partial_image_index for event in partial] == list(range(len(partial))) == [0, 1]
    rewards = [event.milr["reward"] for event in events]
    assert rewards == sorted(rewards) and len(set(rewards[:-1])) == len(partial), "each is better than the one before"
    assert last.type == "image_generation.completed" and last.usage.output_tokens > 25
    assert opened(partial[0].b64_json).size == opened(last.b64_json).size == (20, 20)
    whole = site.openai.images.generate(prompt="a dog", quality="medium", extra_body={"seed": 5})
    assert (whole.data or [])[0].b64_json == last.b64_json, "streamed or not, the same image"
    assert [event.type for event in ask(0)] == ["image_generation.completed"]


def test_the_asynchronous_client_gets_the_same_answers(site: Site) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(
            base_url=f"{site.url}/v1", api_key="none", http_client=httpx2.AsyncClient(trust_env=False)
        ) as client:
            whole = await client.images.generate(prompt="an easy cat", extra_body={"seed": 1})
            stream = await client.images.generate(prompt="an easy cat", stream=True, extra_body={"seed": 1})
            return whole, [event async for event in stream]

    whole, events = asyncio.run(ask())
    assert [event.type for event in events] == ["image_generation.completed"]
    assert events[0].b64_json == whole.data[0].b64_json


def test_quality_is_the_number_of_drawings(site: Site) -> None:
    def drawings(quality: Any) -> float:
        made = site.openai.images.generate(prompt="a dog", quality=quality)
        extra: Any = made.model_extra
        return extra["milr"]["images"][0]["drawings"]

    assert [drawings(quality) for quality in ("low", "medium")] == [1, 5]


def test_models_are_listed_and_unknown_ones_are_not_found(site: Site) -> None:
    assert [model.id for model in site.openai.models.list()] == ["fake", "other"]
    assert site.openai.models.retrieve("other").owned_by == "milr"
    with pytest.raises(openai.NotFoundError, match="it has fake, other"):
        site.openai.models.retrieve("gpt-image-1")


def test_at_the_time_limit_the_answer_is_the_best_image_so_far(serve: OpenSite) -> None:
    """A search in progress ends with its best image; one that has not begun has none, and says so."""
    reward = Held()
    with serve(fake_offer(reward=reward), batch_size=1) as site, ThreadPoolExecutor() as pool:
        first = pool.submit(site.openai.images.generate, prompt="a held dog")
        assert reward.arrived.acquire(timeout=60)
        with pytest.raises(
            openai.InternalServerError
        ) as caught:  # the time limit is checked while the first one is held
            site.openai.images.generate(prompt="an easy cat", extra_body={"timeout": 0.001})
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        reward.permits.release(2)
        for _ in range(2):
            assert reward.arrived.acquire(timeout=60)
        (search,) = site.desk._jobs  # pyright: ignore[reportPrivateUsage]
        site.desk.stop(search, "out of time")  # as the time limit does
        reward.permits.release()
        extra: Any = first.result().model_extra
        assert extra["milr"]["images"][0]["finished"] == "out of time"
        assert extra["milr"]["images"][0]["drawings"] == 3


def test_a_client_that_leaves_ends_its_search(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward)) as site:
        with site.http.stream(
            "POST", "/v1/images/generations", json={"prompt": "a held dog", "stream": True}
        ) as answer:
            search = answer.headers["x-milr-search"]
            assert reward.arrived.acquire(timeout=60)
        reward.permits.release(99)
        assert site.result(search)["state"] == "cancelled"
