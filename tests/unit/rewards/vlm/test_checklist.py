"""Checklists by VLM judges: GenEval 2's official numbers, how answers are read, what fails and what it costs.

`tests/data/geneval2_scorer.json` holds prompts, questions and logits that a program made up, and the numbers that
GenEval 2's own evaluation.py and soft_tifa_analysis.py (commit a6e82d2) computed from them, run outside this repository
with a model that returns these logits and Qwen's rule for cutting text into tokens.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr.benchmarks import load_benchmark
from milr.benchmarks.base import ALL_ITEMS, Answer
from milr.benchmarks.tables import summarise
from milr.errors import UsageError
from milr.rewards import check_scorable, load_reward
from milr.rewards.base import Reward
from milr.rewards.mix import costs_of
from milr.rewards.vlm.budget import estimate
from milr.rewards.vlm.checklist import CHECKLIST
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.items import mean_of
from milr.rewards.vlm.official_words import read_corebench_words, read_geneval2_words
from milr.rewards.vlm.settings import VlmSettings
from milr.tasks.checklists import read_checklist
from milr.testing import FakeModel
from milr.types import ChecklistItem, Score, Task, Unscored
from tests.support.paths import DATA

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')

from tests.support.vlm_servers import JudgeServer, Reply, completion, fail, image_of, say, send  # noqa: E402
from tests.support.wise_words import use_made_up_words  # noqa: E402

RECORDED: dict[str, Any] = json.loads((DATA / "geneval2_scorer.json").read_text())
RED = Image.new("RGB", (32, 24), "red")
ITEMS = (
    ChecklistItem(question="Is there a cat?", tags=("object",)),
    ChecklistItem(question="How many dogs are there?", answer="two", tags=("count",)),
    ChecklistItem(question="Is there a bird?", answer="no"),
)
TASK = Task(prompt="a cat, two dogs", checklist=ITEMS)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    use_made_up_words(monkeypatch, tmp_path / "data")


def load(server: JudgeServer, clients: list[VlmClient], name: str = "checklist", **settings: object) -> Reward:
    values = {"url": server.url, "first_wait": 0, **settings}
    clients.append(VlmClient(VlmSettings.model_validate(values)))
    return load_reward(name, vlm=clients[-1])


def words_of(body: dict[str, Any]) -> str:
    return next(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")


def answer_by(replies: dict[str, Reply]) -> Reply:
    """Answer by the question that is asked."""

    def reply(handler: Any, body: dict[str, Any]) -> None:
        next(answer for question, answer in replies.items() if question in words_of(body))(handler, body)

    return reply


def listed(*tokens: tuple[str, float]) -> list[tuple[str, float]]:
    return [(token, math.log(chance)) for token, chance in tokens]


SOFT = answer_by(
    {
        "cat": say("Yes", first=listed(("Yes", 0.5), (" yes", 0.25), ("No", 0.2))),
        "dogs": say("2", first=listed(("2", 0.5), ("\u0120two", 0.25), ("three", 0.2))),
        "bird": say("no", first=listed(("no", 0.75), ("Yes", 0.2))),
    }
)

# --- GenEval 2's official numbers


def recorded_tasks() -> list[Task]:
    return [
        Task(prompt=row["prompt"], tag=f"{row['atom_count']} atoms", checklist=read_checklist(row)[0])
        for row in RECORDED["tasks"]
    ]


def recorded_judge(handler: Any, body: dict[str, Any]) -> None:
    """Answer with the recorded logits of an image's question; the image's colour is the number of its task."""
    place = image_of(body).getpixel((0, 0))[0]  # type: ignore[index]
    question = words_of(body).removesuffix(" One word, please.")
    logits = RECORDED["logits"][RECORDED["tasks"][place]["prompt"]][question]
    whole = math.log(math.fsum(map(math.exp, logits)))
    first = sorted(zip(RECORDED["tokens"], (one - whole for one in logits), strict=True), key=lambda one: -one[1])
    send(handler, completion(first[0][0], first=first))


def recorded_scores(name: str, clients: list[VlmClient]) -> list[Score]:
    tasks = recorded_tasks()
    images = [Image.new("RGB", (8, 8), (place, 0, 0)) for place in range(len(tasks))]
    with JudgeServer(recorded_judge) as server:
        scores = load(server, clients, name)(images, tasks)
    return [score for score in scores if isinstance(score, Score)]


@pytest.mark.slow
def test_soft_tifa_is_the_official_scorers_number_by_item_prompt_skill_and_atoms(clients: list[VlmClient]) -> None:
    official = RECORDED["official"]
    scores = recorded_scores("geneval2", clients)
    for score, values in zip(scores, official["items"], strict=True):
        assert list(score.parts.values()) == pytest.approx(values, abs=1e-9)
    assert 100 * sum(score.value for score in scores) / len(scores) == pytest.approx(official["soft_tifa_gm"], abs=1e-7)
    benchmark = load_benchmark("geneval2")
    tasks = recorded_tasks()
    table = summarise(
        benchmark,
        [Answer(task, i, 0, one.value, one.parts) for i, (task, one) in enumerate(zip(tasks, scores, strict=True))],
    )
    assert {one.name: round(100 * one.mean, 2) for one in table.columns} == {
        f"{atoms} atoms": value for atoms, value in official["atoms"].items()
    }
    by_item = {one.name: 100 * one.mean for one in table.items}
    assert {name: round(by_item[name], 2) for name in benchmark.items} == official["skills"]
    assert by_item[ALL_ITEMS] == pytest.approx(official["soft_tifa_am"], abs=1e-7)
    assert all(0 <= one.low < one.mean < one.high <= 1 and one.prompts <= len(tasks) for one in table.items)
    assert "by question (arithmetic means):\nobject " in str(table)


@pytest.mark.slow
def test_tifa_is_the_official_scorers_number(clients: list[VlmClient]) -> None:
    scores = recorded_scores("geneval2:words-mean", clients)
    for score, values in zip(scores, RECORDED["official"]["words"], strict=True):
        assert list(score.parts.values()) == values
    assert 100 * sum(score.value for score in scores) / len(scores) == pytest.approx(RECORDED["official"]["tifa"])


# --- reading


def test_items_become_parts_and_the_explanation_says_which_fail(clients: list[VlmClient]) -> None:
    with JudgeServer(SOFT) as server:
        (score,) = load(server, clients)([RED], [TASK])
        (mean,) = load(server, clients, "checklist:mean")([RED], [TASK])
    assert isinstance(score, Score) and isinstance(mean, Score)
    assert score.parts == pytest.approx(dict.fromkeys((item.question for item in ITEMS), 0.75))
    assert score.value == pytest.approx(0.75) and mean.value == pytest.approx(0.75)
    assert score.explanation == "every item holds" and "by word" not in score.evidence
    low = say("three", first=listed(("three", 0.9), ("two", 0.05)))
    with JudgeServer(answer_by({"dogs": low, "": say("yes", first=listed(("yes", 1.0)))})) as server:
        (score,) = load(server, clients)([RED], [TASK])
    assert isinstance(score, Score) and score.value == 0  # no answer "no" is listed for the bird: 0
    assert score.explanation == ("2 of 3 items fail: Is there a bird? no: 0.00; How many dogs are there? two: 0.05")


def test_a_server_without_probabilities_is_read_by_words_and_the_score_says_so(clients: list[VlmClient]) -> None:
    replies = {"cat": say("Yes."), "dogs": say("There are 3."), "bird": say("No")}
    with JudgeServer(answer_by(replies)) as server:
        (score,) = load(server, clients, "checklist:mean")([RED], [TASK])
        (official,) = load(server, clients, "geneval2")([RED], [TASK])
        (words,) = load(server, clients, "geneval2:words")([RED], [TASK])
    assert isinstance(score, Score) and list(score.parts.values()) == [1, 0, 1]
    assert score.explanation.endswith("(3 of 3 answers read by their word: the server gives no probabilities)")
    assert score.evidence["by word"] == [item.question for item in ITEMS]
    assert isinstance(official, Unscored) and "item 1 of 3, 'Is there a cat?': the server gives no" in official.reason
    assert isinstance(words, Score) and words.value == 0


@pytest.mark.parametrize(
    ("text", "item", "expected"),
    [
        ("YES", 0, 1.0),
        ("**Yes**, a cat.", 0, 1.0),
        ("<think>no?</think>yes", 0, 1.0),
        ("2 dogs", 1, 1.0),
        ("Two.", 1, 1.0),
        ("12", 1, 0.0),
        ("Yes", 1, 0.0),
        ("no", 2, 1.0),
        ("yes and no", 0, None),
        ("maybe", 0, None),
        ("two or three", 1, None),
        ("I'm sorry, I can't help.", 0, None),
    ],
)
def test_words_are_read_never_guessed(text: str, item: int, expected: float | None, clients: list[VlmClient]) -> None:
    task = TASK.model_copy(update={"checklist": (ITEMS[item],)})
    with JudgeServer(say(text)) as server:
        (score,) = load(server, clients, "checklist:words")([RED], [task])
    assert (score.value if isinstance(score, Score) else None) == expected


def test_one_failed_item_leaves_the_image_unscored_and_only_it_is_asked_again(clients: list[VlmClient]) -> None:
    good = say("yes", first=listed(("yes", 0.9), ("two", 0.5), ("no", 0.5)))
    with JudgeServer(answer_by({"dogs": fail(400), "": good})) as server:
        reward = load(server, clients, price=(1000, 0))
        (score,) = reward([RED], [TASK])
        assert isinstance(score, Unscored) and "item 2 of 3, 'How many dogs are there?': HTTP 400" in score.reason
        assert score.cost == pytest.approx(0.2)  # two answers of 100 tokens
        asked = len(server.asked)
        server.replies = [good]
        (score,) = reward([RED], [TASK])
        assert isinstance(score, Score) and score.cost == pytest.approx(0.1)
        assert len(server.asked) == asked + 1


def test_equal_questions_with_different_answers_are_asked_once_and_read_separately(clients: list[VlmClient]) -> None:
    tasks = [Task(prompt="dogs", checklist=(ITEMS[1].model_copy(update={"answer": n}),)) for n in ("two", "three")]
    with JudgeServer(say("two", first=listed(("two", 0.75), ("three", 0.25)))) as server:
        scores = load(server, clients)([RED, RED], tasks)
        assert len(server.asked) == 1
    assert [one.value for one in scores if isinstance(one, Score)] == pytest.approx([0.75, 0.25])


def test_corebench_asks_its_own_questions_and_counts_yes_answers(clients: list[VlmClient]) -> None:
    task = Task(prompt="a {question}", checklist=ITEMS[:1] + (ChecklistItem(question="Is it {prompt}?"),))
    with JudgeServer(answer_by({"cat": say("yes"), "Is it": say("no")})) as server:
        (score,) = load(server, clients, "t2i-corebench")([RED], [task])
        assert {words_of(body) for body in server.asked} == {
            'For "a {question}": Is there a cat?',
            'For "a {question}": Is it {prompt}?',
        }
        assert all(body["messages"][0]["content"] == "You tick boxes, {yes} or {no}." for body in server.asked)
        assert all(body["repetition_penalty"] == 1.05 and body["temperature"] == 0 for body in server.asked)
    assert isinstance(score, Score) and score.value == 0.5


# --- the model that drew, needs, cost


def test_the_model_that_drew_is_asked_every_item_in_one_batch() -> None:
    model = FakeModel()
    asked: list[str] = []

    def answer(images: object, questions: list[str]) -> list[float]:
        asked.extend(questions)
        return [0.25 if "bird" in one else 0.5 if "dogs" in one else 0.75 for one in questions]

    model.answer = answer  # type: ignore[method-assign,assignment]
    reward = load_reward("checklist-self:mean", model=model)
    first, second = reward([RED, RED], [TASK, TASK])
    assert asked == ["Is there a cat?", "How many dogs are there? Is the answer two?", "Is there a bird?"]
    assert first == second and isinstance(first, Score)
    assert list(first.parts.values()) == [0.75, 0.5, 0.75] and first.value == pytest.approx(2 / 3)
    model.answer = lambda images, questions: [math.nan] * len(questions)  # type: ignore[method-assign,assignment]
    (lost,) = load_reward("checklist-self", model=model)([RED], [TASK])
    assert isinstance(lost, Unscored) and "neither yes nor no: Is there a cat?" in lost.reason


def test_a_task_without_questions_is_refused_before_anything_is_drawn(clients: list[VlmClient]) -> None:
    for name in ("checklist", "checklist-self", "geneval2", "t2i-corebench"):
        with pytest.raises(UsageError, match=f"'{name}' needs a checklist of questions, which the task 'a dog' lacks"):
            check_scorable(name, [Task(prompt="a dog")])
        check_scorable(name, [TASK])
    with JudgeServer(SOFT) as server:
        (score,) = load(server, clients)([RED], [Task(prompt="a dog")])
        assert isinstance(score, Unscored) and not server.asked
        with pytest.raises(UsageError, match="'words'"):
            load(server, clients, "checklist:wrods")


def test_an_estimate_counts_every_question(clients: list[VlmClient]) -> None:
    with JudgeServer(SOFT) as server:
        reward = load(server, clients, "mix:checklist*0.5+gpt-4o*0.5", price=(1, 1))
        first, second = estimate(costs_of(reward, 384, [TASK, TASK]), 10)
    assert f"{CHECKLIST.model} at " in first and "30 calls at most" in first and "$" in first
    assert "10 calls at most" in second


def test_scores_of_items_have_a_geometric_or_arithmetic_mean() -> None:
    assert mean_of([0.25, 1.0], "geometric") == pytest.approx(0.5)
    assert mean_of([0.25, 1.0], "arithmetic") == 0.625
    assert (mean_of([0.0, 1.0], "geometric"), mean_of([1.0] * 7, "geometric")) == (0.0, 1.0)


@pytest.mark.parametrize("program", ["", "(", "TEMPLATE = 'x'", "'{}'.format(x)", "TEMPLATE = TEXT = 'x'"])
def test_a_program_without_prompts_for_a_judge_is_refused(program: str, tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text(program)
    for read in (read_geneval2_words, read_corebench_words):
        with pytest.raises(UsageError, match="holds no words for a judge"):
            read(tmp_path / "eval.py")
