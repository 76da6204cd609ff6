"""VLM judges with real servers that misbehave on purpose: scores, number of requests, cost, no logs."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import math
import threading
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from milr.errors import UsageError
from milr.rewards import load_reward
from milr.rewards.base import Reward
from milr.rewards.images.convert import image_hash
from milr.rewards.vlm.budget import Budget, BudgetSpent, count_image_tokens, estimate, parse_budget
from milr.rewards.vlm.cache import AnswerCache
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.messages import LastingFault, PassingFault, read_completion, redact, retry_after
from milr.rewards.vlm.official_words import read_words
from milr.rewards.vlm.settings import VlmSettings
from milr.rewards.vlm.wise import LEGACY_WEIGHTS, VERIFIED_WEIGHTS, overall
from milr.types import Score, Task, Unscored

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')
pytest.importorskip("stamina", reason='VLM judges need pip install "milr[vlm]"')

from tests.support.vlm_servers import (  # noqa: E402
    JudgeServer,
    Reply,
    completion,
    fail,
    hang_up,
    image_of,
    say,
    send,
    write,
)
from tests.support.wise_words import use_made_up_words  # noqa: E402

KEY = "sk-secret-key-of-this-test-0123456789"
CAT = Task(prompt="a photo of a cat", explanation="It must show a cat.")
RED = Image.new("RGB", (32, 24), "red")
WISE = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MILR_VLM_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    use_made_up_words(monkeypatch, tmp_path / "data")


def load(server: JudgeServer, clients: list[VlmClient], name: str = "gpt-4o", **settings: object) -> Reward:
    """Return a reward whose VLM judge is that server, without waits between attempts."""
    values = {"url": server.url, "first_wait": 0, "timeout": 20, **settings}
    clients.append(VlmClient(VlmSettings.model_validate(values)))
    return load_reward(name, vlm=clients[-1])


def shown(score: Score | Unscored) -> float | str:
    return score.value if isinstance(score, Score) else score.reason


def refuse(*fields: str, status: int = 400) -> Reply:
    """Refuse a request that has one of these fields and name the first; answer other requests."""

    def reply(handler: Any, body: dict[str, Any]) -> None:
        named = next((field for field in fields if field in body), None)
        said = json.dumps({"error": {"message": f"Unsupported parameter: '{named}'.", "param": named}}).encode()
        (fail(status, said) if named else say("Score: 1", first=[("Yes", -0.1)]))(handler, body)

    return reply


OK = say("0")
ODD = json.dumps(
    {
        "model": "scripted-1",
        "usage": {"prompt_tokens": None, "completion_tokens": -3},
        "choices": [
            {"finish_reason": 3, "logprobs": [], "message": {"content": "-1", "refusal": {}, "tool_calls": 7}},
            {"message": "another choice"},
        ],
    }
).encode()
FAULTS: dict[str, tuple[str, list[Reply], float | str, int]] = {
    # name: reward, replies, value or a part of the reason, requests
    "a plain verdict": ("gpt-4o", [OK], 1.0, 1),
    "429, then an answer": ("gpt-4o", [fail(429, Retry_After="0"), OK], 1.0, 2),
    "429 for ever": ("gpt-4o", [fail(429, Retry_After="0")], "HTTP 429", 4),
    "429 for an hour": ("gpt-4o", [fail(429, Retry_After="3600"), OK], "asks to wait 3600 s", 1),
    "no credit": ("gpt-4o", [fail(429, b'{"error": {"code": "insufficient_quota"}}')], "no credit left", 1),
    "500, 502, 503, then an answer": ("gpt-4o", [fail(500), fail(502), fail(503), OK], 1.0, 4),
    "500 for ever": ("gpt-4o", [fail(500, b"<html>oops</html>")], "HTTP 500", 4),
    "400": ("gpt-4o", [fail(400, b'{"error": {"message": "no images here"}}')], "no images here", 1),
    "401": ("gpt-4o", [fail(401)], "check the key in MILR_VLM_KEY", 1),
    "404": ("gpt-4o", [fail(404)], "check the URL", 1),
    "a cut connection, then an answer": ("gpt-4o", [hang_up, OK], 1.0, 2),
    "cut connections": ("gpt-4o", [hang_up], "no connection", 4),
    "a body that ends too soon": ("gpt-4o", [write(completion("0")[:40], 400), OK], 1.0, 2),
    "truncated JSON": ("gpt-4o", [write(completion("0")[:60]), OK], 1.0, 2),
    "HTML for ever": ("gpt-4o", [write(b"<html>login</html>")], "no chat completion", 4),
    "JSON of another kind": ("gpt-4o", [write(b'{"choices": []}')], "no chat completion", 4),
    "an empty body": ("gpt-4o", [write(b"")], "no chat completion", 4),
    "an empty answer": ("gpt-4o", [say("")], "empty", 1),
    "no content": ("gpt-4o", [say(None)], "empty", 1),
    "content in parts": ("gpt-4o", [say([{"type": "text", "text": "-1"}])], 0.0, 1),
    "fields that no verdict needs": ("gpt-4o", [write(ODD)], 0.0, 1),
    "a refusal in words": ("gpt-4o", [say("I'm sorry, but I can't help with that.")], "refuses", 1),
    "a refusal by field": ("gpt-4o", [say(None, refusal="Not this one.")], "refuses", 1),
    "a content filter": ("gpt-4o", [say("0", finish="content_filter")], "content filter", 1),
    "another language": ("gpt-4o", [say("图片与描述不符")], "neither a bare 0 nor a bare -1", 1),
    "a chatty verdict": ("gpt-4o", [say("My answer is **-1**.")], 0.0, 1),
    "a number in a sentence": (
        "gpt-4o",
        [say("There are 0 apples", finish="length")],
        "goes on after the token limit",
        1,
    ),
    "both verdicts": ("gpt-4o", [say("0 or -1")], "neither a bare 0", 1),
    "a megabyte": ("gpt-4o", [say("0 " + "x" * 1_000_000)], "1,000,002 characters", 1),
    "nine megabytes": ("gpt-4o", [say("0 " + "x" * 9_000_000)], "bytes, more than any verdict has", 1),
    "wise-legacy": ("wise-legacy", [say(WISE)], 0.8, 1),
    "wise-legacy, fenced and chatty": ("wise-legacy", [say(f"Sure!\n```\n{WISE}\n```\nDone.")], 0.8, 1),
    "wise-legacy, full-width colons": ("wise-legacy", [say(WISE.replace(":", "："))], 0.8, 1),
    "wise-legacy, bare digits": ("wise-legacy", [say("2\n1\n0")], 0.8, 1),
    "wise-legacy, cut, then whole": ("wise-legacy", [say(WISE[:20], finish="length"), say(WISE)], 0.8, 2),
    "wise-legacy, never whole": ("wise-legacy", [say(WISE[:20], finish="length")], "cut off at the token limit", 3),
    "wise": ("wise", [say("Score: 1")], 1.0, 1),
    "wise, another scale": ("wise", [say("Score: 2/2")], "given of 2", 3),
    "wise, a bare digit": ("wise", [say("1")], 1.0, 1),
    "wise, after thinking": ("wise", [say("<think>Score: 1?</think>Score: 0")], 0.0, 1),
    "wise, cut while thinking": (
        "wise",
        [say("<think>Score: 1 if", finish="length"), say("Score: 1")],
        1.0,
        2,
    ),
    "max_tokens and temperature refused": ("wise", [refuse("max_tokens", "temperature")], 1.0, 3),
    "unified-reward": ("unified-reward", [say("cat (object): 1\nFinal Score: 4.5")], 0.875, 1),
    "unified-reward, cut": ("unified-reward", [say("cat (object): 1", finish="length")], "cut off", 1),
    "p(yes)": ("gpt-4o:p-yes", [say("Yes", first=[("Yes", math.log(0.6)), (" no", math.log(0.2))])], 0.75, 1),
    "p(yes) of a judge that thinks": (
        "gpt-4o:p-yes",
        [say("", first=[("<think>", -0.01), ("Yes", -9.0)])],
        "likeliest",
        1,
    ),
    "p(yes) without probabilities": ("gpt-4o:p-yes", [say("Yes")], "logprobs", 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_score_or_unscored_with_its_reason(name: str, clients: list[VlmClient]) -> None:
    reward_name, replies, expected, requests = FAULTS[name]
    with JudgeServer(*replies) as server:
        reward = load(server, clients, reward_name)
        (score,) = reward([RED], [CAT])
        if isinstance(expected, str):
            assert isinstance(score, Unscored)
            assert expected in score.reason
            assert score.final == (name in ("401", "404", "no credit"))
        else:
            assert isinstance(score, Score)
            assert score.value == pytest.approx(expected)
            assert score.evidence["answered_by"] == "scripted-1"
        assert score.reward == reward.name
        assert len(server.asked) == requests
        said = repr(score)
        assert KEY not in said and "\n" not in shown(score) if isinstance(score, Unscored) else KEY not in said
        assert len(said) < 4000


def test_a_server_that_never_answers_is_given_up(clients: list[VlmClient]) -> None:
    with JudgeServer(lambda handler, body: server.released.wait() and None) as server:
        (score,) = load(server, clients, timeout=0.2, attempts=2)([RED], [CAT])
        assert "no answer within 0.2 s" in str(shown(score))
        assert len(server.asked) == 2


def test_a_server_that_sends_byte_by_byte_is_given_up(clients: list[VlmClient]) -> None:
    """Every byte arrives in time, but the answer never ends: only a limit on the total time helps."""

    def dribble(handler: object, body: object) -> None:
        send_to = handler.wfile  # type: ignore[attr-defined]
        send_to.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not server.released.wait(0.02):
            send_to.write(b" ")
            send_to.flush()

    with JudgeServer(dribble) as server:
        (score,) = load(server, clients, timeout=0.3, attempts=1)([RED], [CAT])
        assert "no answer within 0.3 s" in str(shown(score))


def test_an_absent_server_leaves_the_image_unscored(clients: list[VlmClient]) -> None:
    with JudgeServer(OK) as server:
        pass
    (score,) = load(server, clients)([RED], [CAT])
    assert "no connection" in str(shown(score))


def test_retry_after_is_read_in_all_its_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "7"}, now) == 7
    assert retry_after({"retry-after-ms": "250"}, now) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, now) == 60
    assert retry_after({"retry-after": "Thu, 01 Jan 2020 00:01:00 GMT"}, now) == 0
    assert retry_after({}, now) is None
    assert retry_after({"retry-after": "soon"}, now) is None


def test_retry_after_is_waited_for(clients: list[VlmClient]) -> None:
    import stamina.instrumentation as watched

    waits: list[float] = []
    watched.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    try:
        with JudgeServer(fail(429, Retry_After="0.05"), fail(503), OK) as server:
            (score,) = load(server, clients)([RED], [CAT])
    finally:
        watched.set_on_retry_hooks(None)
    assert shown(score) == 1.0
    assert waits == [0.05, 0]


# --- what is sent


def test_the_request_is_what_the_protocol_prescribes(clients: list[VlmClient]) -> None:
    with JudgeServer(say(WISE), say("Score: 1"), say("Final Score: 3"), OK) as server:
        for name in ("wise-legacy", "wise", "unified-reward", "gpt-4o"):
            load(server, clients, name)([RED], [CAT])
    legacy, verified, unified, binary = server.asked
    assert [body["temperature"] for body in server.asked] == [0] * 4
    assert [body["model"] for body in server.asked] == [
        *("gpt-4o-2024-05-13", "Qwen3.5-35B-A3B", "UnifiedReward", "gpt-4o-2024-11-20")
    ]
    assert [body["max_tokens"] for body in server.asked] == [2000, 500, 512, 4]
    assert verified["chat_template_kwargs"] == {"enable_thinking": False}
    for body in server.asked:
        image = image_of(body)
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (32, 24), (255, 0, 0))
    words = {
        id(body): next(p["text"] for p in body["messages"][-1]["content"] if p["type"] == "text")
        for body in server.asked
    }
    assert 'PROMPT: "a photo of a cat"\nEXPLANATION: "It must show a cat."\n' in words[id(legacy)]
    assert words[id(unified)].endswith("Text Caption: [a photo of a cat]")
    assert unified["messages"][-1]["content"][0]["type"] == "image_url"
    assert [message["role"] for message in legacy["messages"]] == ["system", "user"]
    assert words[id(binary)].endswith('Prompt: "a photo of a cat"')


def test_a_prompt_with_braces_is_sent_as_it_is(clients: list[VlmClient]) -> None:
    task = Task(prompt="{explanation} {prompt} {0}", explanation="{prompt}")
    with JudgeServer(say(WISE)) as server:
        load(server, clients, "wise-legacy")([RED], [task])
    assert 'PROMPT: "{explanation} {prompt} {0}"\nEXPLANATION: "{prompt}"\n' in json.dumps(server.asked[0]).replace(
        '\\"', '"'
    ).replace("\\n", "\n")


def test_the_model_can_be_chosen_and_is_part_of_the_name(clients: list[VlmClient]) -> None:
    with JudgeServer(OK) as server:
        reward = load(server, clients, model="mine")
        reward([RED], [CAT])
    assert reward.name == "gpt-4o@2/mine"
    assert server.asked[0]["model"] == "mine"


def test_openais_key_is_sent_only_to_openai(clients: list[VlmClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-0123456789")
    with JudgeServer(OK) as server:
        load(server, clients)([RED], [CAT])
        monkeypatch.delenv("MILR_VLM_KEY")
        load(server, clients, model="other")([RED], [CAT])
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}", "Bearer none"]


def test_missing_files_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="finds no key: set OPENAI_API_KEY"):
        load_reward("gpt-4o")
    with pytest.raises(UsageError, match="needs a server: .*--vlm-url"):
        load_reward("unified-reward")
    with pytest.raises(UsageError, match="no folder with"):
        load_reward("unified-reward:/nowhere")
    for url, said in (
        ("ftp://x", "is no URL"),
        ("http://me:pw@host/v1", "holds a name, a password or a key"),
        ("http://host/v1?api_key=abc", "holds a name, a password or a key"),
        ("x", "is no URL"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            VlmClient(VlmSettings(url=url))
        assert "pw" not in str(error.value).replace("password", "")
    import milr.rewards.vlm.settings as module

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(UsageError, match=r'pip install "milr\[vlm\]"'):
        load_reward("gpt-4o", vlm=VlmClient(VlmSettings(url="http://localhost:1/v1")))


def test_only_wises_judge_prompts_are_read_from_its_evaluator(
    clients: list[VlmClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JudgeServer(say(WISE), say("Score: 1")) as server:
        for name in ("wise-legacy", "wise"):
            load(server, clients, name)([RED], [CAT])
        for name, body in zip(("wise-legacy", "wise"), server.asked, strict=True):
            system, user = body["messages"]
            assert system["content"] == f"You look at pictures for {name}."
            assert user["content"][0]["text"] == (
                f"Say what {name} wants to know, in {{braces}} or not.\\n\n"
                'PROMPT: "a photo of a cat"\nEXPLANATION: "It must show a cat."\nThat is all.'
            )
        program = tmp_path / "data" / "wise-legacy" / "gpt_eval.py"
        program.write_text(program.read_text() + "#")
        with pytest.raises(UsageError, match="gpt_eval.py is not the file of PKU-YuanGroup/WISE .* get wise-legacy"):
            load(server, clients, "wise-legacy")
        program.unlink()
        with pytest.raises(UsageError, match="do not come with milr; type milr data get wise-legacy$"):
            load(server, clients, "wise-legacy")


@pytest.mark.parametrize("program", ["", "(", "x = {'role': 'user', 'content': [{'text': 'hello'}]}", "\0", "{**{}}"])
def test_a_program_without_prompts_for_a_judge_is_refused(program: str, tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text(program)
    with pytest.raises(UsageError, match="holds no words for a judge"):
        read_words(tmp_path / "eval.py")


def test_tasks_without_an_explanation_are_not_for_wise(clients: list[VlmClient]) -> None:
    with JudgeServer(say(WISE)) as server:
        (score,) = load(server, clients, "wise-legacy")([RED], [Task(prompt="a cat")])
        assert "no explanation" in str(shown(score))
        assert server.asked == []


# --- the cache


def test_an_answer_is_asked_for_once(clients: list[VlmClient]) -> None:
    with JudgeServer(OK) as server:
        first = load(server, clients)([RED, RED.copy()], [CAT, CAT])
        again = load(server, clients)([RED.convert("RGBA"), Image.new("RGB", (32, 24), (255, 0, 0))], [CAT, CAT])
        assert len(server.asked) == 1
        assert first == again and first[0] == first[1]
        assert clients[1].budget.cached == 2 and clients[1].budget.calls == 0
        load(server, clients)([Image.new("RGB", (24, 32), "red")], [CAT])
        load(server, clients)([RED], [Task(prompt="a dog")])
        load(server, clients, model="another")([RED], [CAT])
        assert len(server.asked) == 4
    with JudgeServer(say("-1")) as other:
        assert shown(load(other, clients)([RED], [CAT])[0]) == 0.0  # another server counts as another judge


def test_unreadable_answers_are_asked_again(clients: list[VlmClient]) -> None:
    with JudgeServer(say("maybe"), fail(400), OK) as server:
        reward = load(server, clients)
        assert [type(reward([RED], [CAT])[0]) for _ in range(4)] == [Unscored, Unscored, Score, Score]
        assert len(server.asked) == 3


def test_a_broken_cache_costs_a_call_and_no_more(clients: list[VlmClient], tmp_path: Path) -> None:
    with JudgeServer(OK) as server:
        reward = load(server, clients, cache=tmp_path / "kept")
        reward([RED], [CAT])
        (file,) = (tmp_path / "kept").rglob("*.json")
        assert KEY not in file.read_text() and "base64" not in file.read_text()
        for broken in ("", "[]", '{"text": 1', '{"text": "0"}', '{"text": "0", "first_tokens": [], "odd": 1}'):
            file.write_text(broken)
            assert shown(reward([RED], [CAT])[0]) == 1.0
        assert len(server.asked) == 6
        (tmp_path / "file").write_text("")
        assert shown(load(server, clients, cache=tmp_path / "file" / "under")([RED], [CAT])[0]) == 1.0
    assert AnswerCache(tmp_path / "kept").get("0" * 64) is None


def test_an_image_is_identified_by_its_pixels() -> None:
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    assert image_hash(Image.open(buffer)) == image_hash(RED)
    assert image_hash(RED.rotate(90, expand=True)) != image_hash(RED)


# --- the budget


def test_the_budget_is_hard_and_retries_count(clients: list[VlmClient]) -> None:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
    with JudgeServer(fail(500), OK) as server:
        scores = load(server, clients, budget="4", concurrency=1)(images, [CAT] * 6)
        assert len(server.asked) == 4
    assert [type(score) for score in scores] == [Score] * 3 + [Unscored] * 3
    assert all(score.final and "budget of 4 calls is spent" in score.reason for score in scores[3:])  # type: ignore[union-attr]
    assert clients[0].budget.summary() == "4 calls, 300 tokens in, 30 out"


def test_a_token_budget_is_never_exceeded(clients: list[VlmClient]) -> None:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(30)]
    with JudgeServer(OK) as server:
        scores = load(server, clients, budget="2000tokens")(images, [CAT] * 30)
    used = clients[0].budget
    assert 0 < used.tokens_in + used.tokens_out <= 2000 and used.reserved == 0
    assert 0 < sum(isinstance(score, Score) for score in scores) < 30


def test_cached_answers_cost_nothing(clients: list[VlmClient]) -> None:
    with JudgeServer(OK) as server:
        load(server, clients)([RED], [CAT])
        assert shown(load(server, clients, budget="0")([RED], [CAT])[0]) == 1.0


@pytest.mark.parametrize(
    ("text", "most", "unit"),
    [
        ("500", 500, "calls"),
        ("1 call", 1, "calls"),
        ("2_000,000 tokens", 2_000_000, "tokens"),
        (None, math.inf, "calls"),
    ],
)
def test_budgets_are_read(text: str | None, most: float, unit: str) -> None:
    assert (parse_budget(text).most, parse_budget(text).unit) == (most, unit)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "5 dollars", "_"])
def test_unclear_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give calls or tokens"):
        parse_budget(text)


def test_a_refused_call_costs_nothing() -> None:
    budget = Budget(most=10, unit="tokens")
    with pytest.raises(BudgetSpent):
        budget.reserve(11)
    assert (budget.calls, budget.reserved) == (0, 0)


def test_an_estimate_is_made_before_the_start(clients: list[VlmClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-0123456789")
    clients.append(VlmClient())
    reward = load_reward("mix:gpt-4o+icons", vlm=clients[0])
    (line,) = estimate(reward.call_costs(384), 21)  # type: ignore[attr-defined]
    assert line.startswith("gpt-4o-2024-11-20 at api.openai.com: 21 calls at most if none is repeated, about ")
    assert "$0.0" in line
    assert count_image_tokens(384, 384) == 255
    assert count_image_tokens(1024, 1024) == 765  # OpenAI's example
    assert count_image_tokens(2048, 4096) == 1105  # and its other one
    with JudgeServer(OK) as server:
        assert "$" not in estimate(load(server, clients).call_costs(384), 21)[0]  # type: ignore[attr-defined]


# --- the cost of a score


def test_a_score_costs_the_tokens_that_it_used(clients: list[VlmClient]) -> None:
    """Each completion of the fake server says 100 tokens in and 10 out."""
    price = (2.0, 30.0)
    once = (100 * 2.0 + 10 * 30.0) / 1e6
    with JudgeServer(OK) as server:
        reward = load(server, clients, price=price)
        first, twin = reward([RED, RED.copy()], [CAT, CAT])
        assert [first.cost, twin.cost] == [pytest.approx(once), 0.0]  # one request, one payment
        (again,) = reward([RED], [CAT])
        assert again.cost == 0.0  # from the cache
        assert load(server, clients, price=None, model="another")([RED], [CAT])[0].cost == 0.0  # no known price


@pytest.mark.parametrize(
    ("name", "replies", "calls"),
    [
        ("wise-legacy", [say("nothing"), say("nothing"), say(WISE)], 3),  # unreadable answers are paid for
        ("wise-legacy", [say("nothing")], 3),
        ("gpt-4o", [say(None, refusal="Not this one.")], 1),
        ("gpt-4o", [hang_up, fail(503), OK], 1),  # requests without a completion are not
        ("gpt-4o", [fail(400)], 0),
    ],
)
def test_unreadable_answers_cost_and_failed_requests_do_not(
    name: str, replies: list[Reply], calls: int, clients: list[VlmClient]
) -> None:
    with JudgeServer(*replies) as server:
        (score,) = load(server, clients, name, price=(10.0, 0.0))([RED], [CAT])
    assert score.cost == pytest.approx(calls * 100 * 10.0 / 1e6)
    assert clients[0].budget.tokens_in == calls * 100


def test_prices_are_listed_for_openai_alone(clients: list[VlmClient]) -> None:
    hosted = VlmClient()
    assert hosted.price_of("gpt-4o-2024-11-20") == (2.5, 10.0) and hosted.price_of("gpt-9") == (0.0, 0.0)
    own = VlmClient(VlmSettings(url="http://localhost:1/v1"))
    assert own.price_of("gpt-4o-2024-11-20") == (0.0, 0.0)
    given = VlmClient(VlmSettings(price=(1.0, 2.0)))
    assert given.price_of("gpt-4o-2024-11-20") == given.price_of("gpt-9") == (1.0, 2.0)
    with JudgeServer(OK) as server:
        reward = load(server, clients, price=(1.0, 2.0))
        assert ", about $0.0" in estimate(reward.call_costs(384), 21)[0]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        VlmSettings(price=(-1.0, 2.0))


# --- servers that refuse


@pytest.mark.parametrize("status", [400, 422])
def test_a_field_that_is_refused_is_left_out_from_then_on(status: int, clients: list[VlmClient]) -> None:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(2)]
    with JudgeServer(refuse("max_tokens", "temperature", "chat_template_kwargs", status=status)) as server:
        reward = load(server, clients, "wise", concurrency=1, budget="1000000tokens")
        assert [shown(score) for score in reward(images, [CAT, CAT])] == [1.0, 1.0]
    asked = [
        {"max_tokens", "max_completion_tokens", "temperature", "chat_template_kwargs"} & set(b) for b in server.asked
    ]
    assert asked == [
        {"max_tokens", "temperature", "chat_template_kwargs"},
        {"max_completion_tokens", "temperature", "chat_template_kwargs"},
        {"max_completion_tokens", "chat_template_kwargs"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]
    assert server.asked[-1]["max_completion_tokens"] == 500 + 4096  # leaves room for a model that thinks
    assert clients[0].left_out() == {"Qwen3.5-35B-A3B": ("chat_template_kwargs", "max_tokens", "temperature")}
    assert "temperature" in str((clients[0].usage() or {})["Qwen3.5-35B-A3B asked without"])
    assert clients[0].budget.reserved == 0


def test_a_server_that_refuses_everything_is_given_up_after_three_questions(clients: list[VlmClient]) -> None:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(8)]
    with JudgeServer(fail(400, b'{"error": {"message": "no images here, max_tokens or not"}}')) as server:
        scores = load(server, clients, concurrency=1)(images, [CAT] * 8)
        assert len(server.asked) == 6  # three questions, each once more without max_tokens
    assert [getattr(score, "final", None) for score in scores] == [False, False, *[True] * 6]
    assert "the first 3 questions were all refused: HTTP 400" in str(shown(scores[7]))


def test_some_questions_may_be_refused(clients: list[VlmClient]) -> None:
    """One answer shows that the server works; a content filter's refusal concerns the image only."""
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(8)]
    with JudgeServer(fail(400), fail(400), OK, fail(400)) as server:
        load(server, clients, concurrency=1)(images, [CAT] * 8)
        assert len(server.asked) == 8
    with JudgeServer(fail(400, b'{"error": {"code": "content_filter"}}')) as server:
        scores = load(server, clients, concurrency=1)(images, [CAT] * 8)
        assert len(server.asked) == 8 and not any(getattr(score, "final", True) for score in scores)


DESCRIBED = write(json.dumps({"protocol": "milr-reward/1", "reward": "sharp@1"}).encode())


def load_remote(server: JudgeServer, clients: list[VlmClient]) -> Reward:
    clients.append(VlmClient(VlmSettings(first_wait=0, concurrency=1)))
    return load_reward(f"{server.root}/score", vlm=clients[-1])


def test_a_remote_score_is_valid_although_its_other_fields_are_not(clients: list[VlmClient]) -> None:
    odd = {"value": 0.5, "parts": {"a": "much"}, "explanation": None, "evidence": [1]}
    with JudgeServer(DESCRIBED, write(json.dumps({"scores": [odd]}).encode())) as server:
        (score,) = load_remote(server, clients)([RED], [CAT])
    assert isinstance(score, Score)
    assert (score.value, dict(score.parts), score.explanation, dict(score.evidence)) == (0.5, {}, "", {})


def test_a_reward_that_refuses_everything_is_given_up(clients: list[VlmClient]) -> None:
    with JudgeServer(DESCRIBED, fail(400, b'{"error": "no such task"}')) as server:
        reward = load_remote(server, clients)
        found = [reward([RED], [CAT])[0] for _ in range(5)]
        assert len(server.asked) == 1 + 3
    assert [isinstance(one, Unscored) and one.final for one in found] == [False, False, True, True, True]


# --- many at once


def test_questions_are_asked_at_once_up_to_the_limit(clients: list[VlmClient]) -> None:
    import threading

    together = threading.Barrier(3)

    def meet(handler: object, body: object) -> None:
        together.wait(timeout=30)  # answers only when three are waiting
        OK(handler, body)  # type: ignore[arg-type]

    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
    with JudgeServer(meet) as server:
        scores = load(server, clients, concurrency=3)(images, [CAT] * 6)
        assert [shown(score) for score in scores] == [1.0] * 6
        assert server.most_at_once == 3


def test_answers_come_back_in_order(clients: list[VlmClient]) -> None:
    def by_colour(handler: object, body: dict[str, object]) -> None:
        say("0" if image_of(body).getpixel((0, 0))[0] % 2 else "-1")(handler, body)  # type: ignore[arg-type,index]

    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(12)]
    with JudgeServer(by_colour) as server:
        reward = load(server, clients)
        assert [shown(score) for score in reward(images, [CAT] * 12)] == [float(i % 2) for i in range(12)]


# --- outages, redirects, bombs


def test_a_server_that_is_down_is_given_up_after_eight_questions_in_a_row(clients: list[VlmClient]) -> None:
    """An answer between failures resets the count, because a slow server is not down."""
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(24)]
    with JudgeServer(*[fail(500)] * 7, OK, fail(500)) as server:
        scores = load(server, clients, concurrency=1, attempts=1)(images, [CAT] * 24)
        assert len(server.asked) == 7 + 1 + 8
    assert [getattr(score, "final", None) for score in scores] == [*[False] * 7, None, *[False] * 7, *[True] * 9]
    assert "8 questions in a row had no answer, the last one: HTTP 500" in str(shown(scores[-1]))


def test_a_redirect_is_not_followed_and_takes_no_key_along(clients: list[VlmClient]) -> None:
    with JudgeServer(OK) as other:
        for name in ("gpt-4o", "http"):
            sends_on: Reply = lambda handler, _: send(handler, b"", 307, {"Location": f"{other.url}/{KEY}"})  # noqa: E731
            with JudgeServer(*([DESCRIBED] if name == "http" else []), sends_on) as server:
                reward = load_remote(server, clients) if name == "http" else load(server, clients)
                (score,) = reward([RED], [CAT])
            assert isinstance(score, Unscored) and score.final and KEY not in score.reason
            assert "which is not followed" in score.reason
        assert not other.asked


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("bomb", [True, False])
def test_a_compressed_reply_is_unpacked_up_to_a_size_limit(encoding: str, bomb: bool, clients: list[VlmClient]) -> None:
    body = completion("0") + b" " * (40 * 2**20 if bomb else 0)
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    assert len(packed) < 100_000
    packs: Reply = lambda handler, _: send(handler, packed, 200, {"Content-Encoding": encoding})  # noqa: E731
    with JudgeServer(packs) as server:
        (score,) = load(server, clients)([RED], [CAT])
        assert server.headers[0]["accept-encoding"] == "identity" and len(server.asked) == 1
    assert "more than 8,388,608 bytes" in str(shown(score)) if bomb else shown(score) == 1.0


def test_organisation_ids_are_sent_only_to_openai(clients: list[VlmClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-123456")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-123456")
    with JudgeServer(OK) as server:
        load(server, clients)([RED], [CAT])
        assert not [name for name in server.headers[0] if name.startswith("openai-")]
    from milr.rewards.vlm.transport import Wire

    wire = Wire()
    made = wire.openai("https://api.openai.com/v1", "k", 1.0, hosted=True)
    assert (made.organization, made.project) == ("org-123456", "proj-123456")
    wire.finalize()


def test_a_client_ends_although_its_loop_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin that nothing is printed: at a program's exit, an error would be a traceback after its last line."""
    from milr.rewards.vlm import transport

    monkeypatch.setattr(transport, "_PATIENCE", 0.01)
    busy, free = threading.Event(), threading.Event()

    async def block() -> None:
        busy.set()
        free.wait(20)

    wire = transport.Wire()
    wire.submit(block())
    assert busy.wait(20)
    wire.finalize()
    free.set()
    wire._thread.join(20)
    wire._loop.close()


HOSTILE: dict[str, object] = {
    "a lone surrogate": {"value": 0.5, "explanation": "\ud800", "evidence": {"\udfff": "\ud800"}},
    "deep evidence": {"value": 0.5, "evidence": {"a": json.loads("[" * 90 + "]" * 90)}},
    "much evidence": {"value": 0.5, "evidence": {"a": list(range(100_000))}},
    "a long explanation": {"value": 0.5, "explanation": "x " * 3_500_000},
    "terminal escapes": {"value": 0.5, "explanation": "\x1b[2J\x07", "parts": {"\x1b]0;t\x07": 1.0}},
    "terminal escapes in a region": {
        "value": 0.5,
        "regions": [{"name": "\x1b[2J", "box": [0, 0, 1, 1], "confidence": 0.5, "color": KEY}],
    },
    "a box of three": {"value": 0.5, "regions": [{"name": "cat", "box": [0, 0, 1], "confidence": 0.5}]},
    "a box that does not end": {"value": 0.5, "regions": [{"name": "cat", "box": [0, 0, 1, 1e999], "confidence": 0.5}]},
    "the key": {"value": 0.5, "explanation": f"you sent {KEY}", "evidence": {KEY: [KEY]}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_remote_rewards_texts_are_cleaned_and_shortened(name: str, clients: list[VlmClient], tmp_path: Path) -> None:
    with JudgeServer(DESCRIBED, write(json.dumps({"scores": [HOSTILE[name]]}).encode())) as server:
        (score,) = load_remote(server, clients)([RED], [CAT])
    assert isinstance(score, Score) and score.value == 0.5
    regions = [asdict(region) for region in score.regions]
    kept = json.dumps([score.explanation, dict(score.evidence), dict(score.parts), regions], ensure_ascii=False)
    assert "Infinity" not in kept and len(regions) == (name == "terminal escapes in a region")
    assert len(kept.encode()) < 20_000 and KEY not in kept and "\x1b" not in kept


@pytest.mark.parametrize("value", ["true", '"1"', '" 1 "', "1e400", "-0.1", "[1]", "NaN"])
def test_only_a_number_from_0_to_1_is_a_remote_rewards_score(value: str, clients: list[VlmClient]) -> None:
    with JudgeServer(DESCRIBED, write(f'{{"scores": [{{"value": {value}}}]}}'.encode())) as server:
        (score,) = load_remote(server, clients)([RED], [CAT])
    assert isinstance(score, Unscored) and "no score (value" in score.reason


# --- no logs


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Return what the libraries of a client log at level DEBUG."""
    kept = BufferingHandler(1000)
    loggers = [logging.getLogger(name) for name in (None, "openai", "httpx2", "httpcore2", "stamina", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(kept)
    yield kept.buffer
    loggers[0].removeHandler(kept)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def test_no_key_header_or_image_is_ever_logged(
    clients: list[VlmClient], logged: list[logging.LogRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("another library").debug("a record of level DEBUG is kept")
    assert [record.getMessage() for record in logged] == ["a record of level DEBUG is kept"]
    logged.clear()
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).line((0, 0, 63, 40), "red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    echo: list[Reply] = [
        lambda handler, body: send(
            handler, json.dumps({"error": {"message": f"bad: {dict(handler.headers)} {body}"}}).encode(), 500
        ),
        lambda handler, body: send(handler, json.dumps({"h": dict(handler.headers), "b": body}).encode(), 401),
    ]
    with JudgeServer(*echo) as server:
        (score,) = load(server, clients)([image], [CAT])
    # At level DEBUG, through two failed requests; asyncio names the kind of its loop.
    assert [record for record in logged if record.name != "asyncio"] == []
    everything = "".join(record.getMessage() for record in logged) + "".join(capfd.readouterr()) + repr(score)
    assert isinstance(score, Unscored) and "HTTP 401" in score.reason
    assert len(server.asked) == 2
    assert KEY not in everything
    assert "authorization" not in everything.lower() or "[key]" in everything
    assert data[40:100] not in everything


def test_keys_and_data_are_removed_from_a_servers_messages() -> None:
    assert redact(f"wrong key {KEY}!") == "wrong key [key]!"
    assert redact("key sk-proj-abcdefgh was Bearer abc.def") == "key [key] was [key]"
    assert redact("x " + "QUJD" * 40 + " y") == "x [data] y"


# --- fuzz, over the wire


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(completion)))
def test_any_reply_becomes_a_score_or_unscored(body: bytes) -> None:
    from milr.rewards.vlm.parsers import Unreadable

    try:
        answer = read_completion(body, "host", True)
    except (Unreadable, LastingFault, PassingFault) as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(answer.text, str)


def test_wise_is_pooled_by_its_weights() -> None:
    assert overall(dict.fromkeys(LEGACY_WEIGHTS, 1.0), LEGACY_WEIGHTS) == pytest.approx(1.0)
    groups = {"Cultural": 0.3, "Time": 0.37, "Space": 0.49, "Biology": 0.36, "Physics": 0.42, "Chemistry": 0.26}
    assert overall(groups, LEGACY_WEIGHTS) == pytest.approx(0.35, abs=0.005)  # WISE's leaderboard row for Janus-Pro-7B
    assert overall(dict.fromkeys(VERIFIED_WEIGHTS, 0.5), VERIFIED_WEIGHTS) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs the groups"):
        overall({"Cultural": 1.0}, LEGACY_WEIGHTS)
