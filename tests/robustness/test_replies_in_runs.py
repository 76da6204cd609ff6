"""A hundred kinds of reply and fourteen server faults, each in a whole run: no run is lost, no score is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')

from milr.methods import load_method  # noqa: E402
from milr.methods.runner import Runner  # noqa: E402
from milr.rewards import load_reward  # noqa: E402
from milr.rewards.vlm.client import VlmClient  # noqa: E402
from milr.rewards.vlm.settings import VlmSettings  # noqa: E402
from milr.runs import RunWriter, read_run  # noqa: E402
from milr.testing import FakeModel  # noqa: E402
from milr.types import Score, Task  # noqa: E402
from tests.robustness.rounds import ROUNDS  # noqa: E402
from tests.support.vlm_servers import JudgeServer, Reply, completion, fail, hang_up, say, write  # noqa: E402

RIGHT = [
    "0",
    " 0 ",
    "0.",
    "**0**",
    "`0`",
    "0\n",
    "\n\n0",
    "0!",
    "- 0",
    "0 \n",
    "\t0",
    '"0"',
    "'0'",
    "{0}",
    "0\r\n",
    "０",
    "\\boxed{0}",
    "Answer: 0",
    "answer: **0**",
    "My answer is 0",
    "The verdict is 0.",
    "Score: 0",
    "Final answer: 0",
    "0\n0",
    "\u3000 0",
    "<think>maybe -1</think>0",
    "<thinking>\n-1\n</thinking>\n\n0",
    "```\n0\n```",
    "<b>0</b>",
    "# 0",
    "> 0",
    "0 .",
    "The score is 0",
]
WRONG = [
    "-1",
    " -1 ",
    "-1.",
    "**-1**",
    "`-1`",
    "−1",
    "–1",
    "- -1",
    "Answer: -1",
    "My answer is **-1**.",
    "-1\n-1",
    "－1",
    "<think>0</think>-1",
    "<think>0</think>\n<think>0</think>\n-1",
    "Verdict: -1",
    "Score = -1",
    '"-1"',
    "```json\n-1\n```",
]
OPEN = [
    "(0)",
    "",
    " ",
    "\n\n",
    "\x00",
    "0 or -1",
    "-1 or 0",
    "0 -1",
    "0\n-1",
    "-1\n0",
    "0, -1",
    "1",
    "2",
    "00",
    "0.5",
    "-0.5",
    "0/1",
    "0%",
    "--1",
    "+1",
    "-10",
    "-1.5",
    "10",
    "yes",
    "no",
    "zero",
    "O",
    "NaN",
    "null",
    "true",
    "[]",
    "<think>0",
    "<think>",
    "٠",
    "There are 0 apples",
    "0 of 4 are right",
    "I see 0 dogs and 1 cat.",
    "The image scores 0 to -1",
    "-1 would be wrong",
    "0?",
    "I'm sorry, but I can't help with that.",
    "As an AI, 0",
    "\u202e1-",
    "0\x1b[2J-1",
    "-",
    "—",
] + ["x" * 70_000, "0 " * 40_000]
FAULTS: dict[str, Reply] = {
    "500": fail(500),
    "503 with HTML": fail(503, b"<html>busy</html>"),
    "429": fail(429, Retry_After="0"),
    "429 until the year 10^10": fail(429, Retry_After="Thu, 01 Jan 10000000000 00:00:00 GMT"),
    "429 for 10^400 seconds": fail(429, Retry_After="9" * 400),
    "408": fail(408),
    "400": fail(400, b'{"error": {"message": "content filter"}}'),
    "hangs up": hang_up,
    "ends too soon": write(completion("0")[:40], 400),
    "truncated": write(completion("0")[:60]),
    "no JSON": write(b"\xff\xfe<html>"),
    "deep JSON": write(b'{"choices":' * 5000),
    "another kind": write(b'{"choices": [{"message": 7}]}'),
    "no HTTP": lambda handler, _: handler.connection.sendall(b"\x00\xff hello\r\n\r\n"),
}
TASKS = [Task(prompt="a cat"), Task(prompt="two dogs")]
KINDS: dict[str, tuple[Reply, float | None]] = {
    **{f"right: {text[:40]!r}": (say(text), 1.0) for text in RIGHT},
    **{f"wrong: {text[:40]!r}": (say(text), 0.0) for text in WRONG},
    **{f"open: {text[:40]!r}": (say(text), None) for text in OPEN},
    "cut: '0 or -'": (say("0 or -", finish="length"), None),
    "cut: '0'": (say("0", finish="length"), None),
    **{f"fault: {name}": (reply, None) for name, reply in FAULTS.items()},
}


@pytest.fixture(scope="module")
def run_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Run a search of two tasks and two steps whose server gives this reply to every second question."""
    root = tmp_path_factory.mktemp("runs")

    def run(number: int, reply: Reply) -> Path:
        model = FakeModel()
        settings = model.settings("best-of-n", steps=1, stop_at=1.0)
        odd: list[int] = []

        def answer(handler: object, body: dict[str, object]) -> None:
            odd.append(1)
            (reply if len(odd) % 2 else say("-1"))(handler, body)  # type: ignore[arg-type]

        with JudgeServer(answer) as server:
            options = {"first_wait": 0, "attempts": 1, "timeout": 20, "cache": root / f"cache-{number}"}
            client = VlmClient(VlmSettings(url=server.url, **options))  # type: ignore[arg-type]
            reward = load_reward("gpt-4o", vlm=client)
            folder = root / f"run-{number}"
            facts = {"tasks": TASKS, "settings": settings, "model": model.name, "reward": reward.name}
            with RunWriter(folder, **facts) as writer:  # type: ignore[arg-type]
                for record in Runner(load_method("best-of-n"), TASKS, model, reward, settings):
                    writer.write(record)
            client.close()
        return folder

    yield run


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 40])
def test_every_kind_of_reply_leaves_a_whole_run_with_right_scores(
    step: int, run_with: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[str] = []
    kinds = list(KINDS)[:: step if ROUNDS == 1 else 1]
    for number, name in enumerate(kinds):
        reply, expected = KINDS[name]
        try:
            run = read_run(run_with(number + 1000 * step, reply))  # type: ignore[operator]
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
            continue
        scores = [score for task in run.tasks for one in task.steps for score in one.scores]
        values = {score.value for score in scores if isinstance(score, Score)}
        allowed = {0.0} if expected is None else {0.0, expected}
        if not values <= allowed or (expected is not None and expected not in values):
            reasons = [score.reason for score in scores if not isinstance(score, Score)]
            faults.append(f"{name}: scores {sorted(values)}, {reasons[:1]}")
        if run.notes or len(run.tasks) != len(TASKS):
            faults.append(f"{name}: {len(run.tasks)} tasks, {run.notes}")
        said = json.dumps([str(score) for score in scores])
        if "\\u001b" in said or len(said) > 100_000:
            faults.append(f"{name}: {said[:200]}")
    print(f"{len(kinds)} kinds of reply")
    assert not faults, "\n".join(faults)
