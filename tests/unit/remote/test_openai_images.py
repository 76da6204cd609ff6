"""Images of a service over HTTP: milr's own server, and a strict imitation with the errors of the real one."""

from __future__ import annotations

import base64
import io
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import milr
from milr.cli.main import main
from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import embedded_folder, find_source, load_model, read_capabilities
from milr.models.base import ImageOutput, ImageRequest
from milr.remote.openai_images import OpenAIImages
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.messages import MOST_BYTES
from milr.rewards.vlm.settings import VlmSettings
from milr.settings import SamplingParams
from milr.testing.contracts import check_model
from milr.types import Score, Task, Unscored
from tests.support.vlm_servers import JudgeServer, Reply, send

KEY = "sk-abcdef0123456789"


def drawing(size: int = 64, color: str = "red") -> Reply:
    """Return a reply of the official service: base64 and usage; fields that it does not know are refused."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        odd = set(body) - {"model", "prompt", "n", "size", "quality", "response_format"}
        if odd:
            return error(400, f"Unknown parameter: '{min(odd)}'.", "unknown_parameter")(handler, body)
        usage = {"input_tokens": 9, "output_tokens": 100, "total_tokens": 109}
        return send(handler, json.dumps({"created": 1, "data": [{"b64_json": data}], "usage": usage}).encode())

    return reply


def error(status: int, message: str, code: str = "", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}}).encode()
    return lambda handler, _: send(handler, body, status, {name.replace("_", "-"): v for name, v in headers.items()})


def draw(server: JudgeServer, *prompts: str, attempts: int = 3, options: str = "") -> list[ImageOutput]:
    client = VlmClient(VlmSettings(url=server.url, first_wait=0, attempts=attempts, timeout=20))
    model = OpenAIImages(f"gpt-image-2,url={server.url},size=64{options}", client=client)
    states = model.start([Task(prompt=prompt) for prompt in prompts])
    try:
        return model.draw(
            [ImageRequest(one, None, open_stream(0, one.task.key, 0, 0)) for one in states], SamplingParams()
        )
    finally:
        client.close()


def test_an_image_is_asked_for_as_the_api_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILR_VLM_KEY", KEY)
    with JudgeServer(drawing()) as server:
        (output,) = draw(server, "two dogs", options=",quality=low,price=0.02")
        assert (output.sample.image.size, output.sample.tokens, output.fault, output.cost) == ((64, 64), (), "", 0.02)
        assert server.asked == [
            {
                "model": "gpt-image-2",
                "prompt": "two dogs",
                "n": 1,
                "size": "64x64",
                "quality": "low",
                "response_format": "b64_json",
            }
        ]
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_passing_errors_are_tried_again_and_lasting_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILR_VLM_KEY", KEY)
    busy, down = error(429, "Rate limit reached", "rate_limit_exceeded", Retry_After="0"), error(500, "Oops")
    with JudgeServer(busy, down, drawing()) as server:
        (output,) = draw(server, "two dogs")
        assert not output.fault and len(server.asked) == 3
    blocked = error(400, "Your request was rejected by the safety system.", "moderation_blocked")
    with JudgeServer(blocked, drawing()) as server:
        (output,) = draw(server, "two dogs")
        assert "rejected by the safety system" in output.fault and not output.final and len(server.asked) == 1
        assert "\n" not in output.fault
    with JudgeServer(error(401, f"Incorrect API key provided: {KEY}")) as server:
        (output,) = draw(server, "two dogs")
        assert output.final and "check the key in MILR_VLM_KEY" in output.fault and KEY not in output.fault
    with JudgeServer(down) as server:
        (output,) = draw(server, "two dogs", attempts=2)
        assert "HTTP 500" in output.fault and len(server.asked) == 2


@pytest.mark.slow
def test_an_image_larger_than_any_verdict_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1536, 1536, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=1)
    data = json.dumps({"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}).encode()
    assert len(data) > MOST_BYTES
    monkeypatch.setenv("MILR_VLM_KEY", KEY)
    with JudgeServer(lambda handler, _: send(handler, data)) as server:
        model = OpenAIImages(f"m,url={server.url},size=1536")
        (state,) = model.start([Task(prompt="noise")])
        (output,) = model.draw([ImageRequest(state, None, open_stream(0, "k", 0, 0))], SamplingParams())
        model.client.close()
    assert not output.fault and np.array_equal(np.asarray(output.sample.image), noise)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (drawing(size=80), "drew 80 pixels in place of 64: give size=80"),
        (lambda handler, _: send(handler, b'{"data": []}'), "answered no image that can be read"),
        (lambda handler, _: send(handler, b'{"data": [{"b64_json": "AAAA"}]}'), "answered no image that can be read"),
        (lambda handler, _: send(handler, b'{"data": [{"url": "http://elsewhere/x.png"}]}'), "no data[0].b64_json"),
    ],
)
def test_an_answer_that_is_no_such_image_is_a_fault(reply: Reply, said: str) -> None:
    with JudgeServer(reply) as server:
        (output,) = draw(server, "two dogs", attempts=1)
        assert said in output.fault and output.sample.image.size == (64, 64)


def test_an_image_that_was_refused_is_unscored_with_its_reason_and_costs_are_counted(tmp_path: Path) -> None:
    blocked = error(400, "Your request was rejected by the safety system.", "moderation_blocked")
    with JudgeServer(blocked, drawing(), drawing(color="blue")) as server:
        seen: list[tuple[int, int]] = []

        def reward(images: list[Image.Image], tasks: list[Task]) -> list[float]:
            seen.extend(image.getpixel((0, 0))[:2] for image in images)  # pyright: ignore
            return [0.4] * len(images)

        model = f"openai:m,url={server.url},size=64,price=0.02"
        result = milr.generate("a cat", model=model, reward=reward, steps=5, max_cost=0.03, out=tmp_path / "run")
    assert isinstance(result.records[0].scores[0], Unscored)
    assert "safety system" in result.records[0].scores[0].reason
    assert [isinstance(record.scores[0], Score) for record in result.records] == [False, True, True]
    assert result.finished == "out of money" and result.cost.dollars == pytest.approx(0.04)
    assert (255, 255) not in seen  # the blank image was not shown


@pytest.mark.slow
def test_equal_seeds_give_equal_images_of_milrs_own_server(embedded_site: str) -> None:
    size = read_capabilities(embedded_folder("embedded-small")).image_size
    name = f"openai:embedded-small,url={embedded_site},size={size},quality=low,seeds=yes"
    check_model(name, prompts=("two dogs left of three red cars", "two dogs"))
    model = load_model(name)
    states = model.start([Task(prompt="two dogs left of three red cars")])
    requests = [ImageRequest(states[0], None, open_stream(seed, "k", 0, 0)) for seed in (0, 0, 1, 2, 3, 4)]
    first, again, *others = (np.asarray(one.sample.image) for one in model.draw(requests, SamplingParams()))
    assert np.array_equal(first, again) and not all(np.array_equal(first, other) for other in others)


@pytest.fixture
def embedded_site(tmp_path: Path) -> Any:
    from milr.serve.app import make_app
    from milr.serve.config import Limits, ServeSettings
    from milr.serve.keys import KeyRing
    from milr.serve.listen import listening
    from milr.serve.offers import make_offer

    settings = ServeSettings(port=0, data=tmp_path / "data", limits=Limits(per_minute=100_000))
    app = make_app([make_offer("embedded-small")], settings, KeyRing([]))
    with listening(app, settings) as listener:
        yield f"{listener.url}/v1"


def test_a_name_gives_the_capabilities_before_any_request(capsys: pytest.CaptureFixture[str]) -> None:
    able = read_capabilities(find_source("openai:gpt-image-2,quality=medium,size=2048"))
    assert able.image_cost == pytest.approx(4 * 0.053) and not able.repeatable and not able.takes_guidance
    wide = "openai:gpt-image-2,quality=medium,size=2048x1024"
    able = read_capabilities(find_source(wide))
    assert able.dimensions == (2048, 1024) and able.image_cost == pytest.approx(2 * 0.053)
    assert main(["info", "--model", wide]) == 0 and "2048 x 1024 pixels" in capsys.readouterr().out
    assert main(["plan", "--model", "openai:gpt-image-2,quality=low", "--reward", "geneval"]) == 0
    said = capsys.readouterr().out
    assert "about $0.006 an image" in said and "it computes elsewhere" in said and "32,000 characters" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("dall-e-3", "OpenAI switched dall-e-3 off on 12 May 2026: quote its rows"),
        ("", "names no model"),
        ("m,sise=64", "did you mean 'size'"),
        ("m,size=100", "size=100: give multiples of 16"),
        ("m,size=1024x100", "size=1024x100: give multiples of 16"),
        ("m,size=3072x512", "no side more than 3 times the other"),
        ("m,size", "write key=value"),
        ("m,quality=best", "unknown quality 'best'"),
        ("m,price=free", "price=free: give US dollars"),
        ("m,seeds=yes", "only with a url"),
        ("m,url=localhost", "is no URL"),
        ("m,url=http://me:secret@localhost/v1", "holds a name, a password or a key"),
        ("gpt-image-2", "finds no key: set OPENAI_API_KEY"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(argument: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError) as refused:
        load_model(f"openai:{argument}")
    assert said in str(refused.value) and "\n" not in str(refused.value) and "secret" not in str(refused.value)
