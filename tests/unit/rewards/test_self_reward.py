"""`self`: its questions, in the words of the training, and the scores from the answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from milr.models import embedded_folder
from milr.models.janus import Janus
from milr.rewards import load_reward
from milr.rewards.self_reward import SelfReward, condition_questions
from milr.tasks import parse_prompt
from milr.testing import FakeModel
from milr.types import Score, Task, Unscored

GREY = Image.new("RGB", (20, 20), (200, 200, 200))


def grey(level: int) -> Image.Image:
    """Return a new image with the same pixels as all others of that level."""
    return Image.new("RGB", (20, 20), (level, level, level))


class Icons(FakeModel):
    """A model that reads only the icon world's questions and gives prepared answers."""

    name = "told"
    reads_free_prompts = False

    def __init__(self, **answers: float) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[str] = []

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        self.asked += questions
        return [next((p for word, p in self.answers.items() if word in question), 1.0) for question in questions]


class Talker(FakeModel):
    """A model that reads free text and gives prepared answers."""

    def __init__(self, *replies: str) -> None:
        super().__init__()
        self.replies = list(replies)
        self.calls = 0

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        self.calls += 1
        return [self.replies.pop(0) for _ in questions]


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        ("a photo of an apple", ["is there an apple?"]),
        ("a red apple", ["is there a red apple?"]),
        ("an orange orange", ["is there an orange orange?"]),
        ("three cats", ["is the number of cats three?"]),
        ("two red buses", ["is the number of buses two?", "is there a red bus?"]),
        (
            "a dog left of a blue clock",
            ["is there a blue clock?", "is there a dog?", "is the dog left of the clock?"],
        ),
    ],
)
def test_conditions_are_asked_one_by_one(prompt: str, questions: list[str]) -> None:
    assert condition_questions(parse_prompt(prompt)) == questions


@pytest.mark.slow
def test_questions_use_the_words_of_the_training() -> None:
    """A task's questions are those that training asks, with the answer yes, about a scene of that content."""
    from training.questions import ask_questions
    from training.world import open_world

    world = open_world(0)
    kinds = {"is there": 0, "is the number": 0, "is the": 0}
    for _ in range(150):
        task = world.request()
        scene = world.scene(task)
        true = {asked.text for asked in ask_questions(world.random, scene, 60) if asked.truth}
        for question in condition_questions(task):
            kind = next(kind for kind in ("is there", "is the number", "is the") if question.startswith(kind))
            kinds[kind] += question in true
    assert all(count > 10 for count in kinds.values()), kinds


def test_the_score_is_the_probability_that_all_conditions_hold() -> None:
    model = Icons(apple=0.9, clock=0.5)
    reward = load_reward("self", model=model)
    (score,) = reward([GREY], [parse_prompt("a red apple and a clock")])
    assert isinstance(score, Score)
    assert score.value == pytest.approx(0.45)
    assert score.parts == {"is there a red apple?": 0.9, "is there a clock?": 0.5}
    assert score.explanation == "least sure: is there a clock? 0.50"
    assert reward.name == "self:p-yes@1/told"
    (score,) = reward([GREY], [Task(prompt="a fine day")])
    assert isinstance(score, Unscored)


def test_a_model_that_reads_free_text_gives_a_verdict_and_a_probability() -> None:
    model = Talker('```json\n{"Thought": "x", "Score": 0}\n```', '{"Score": -1, "Reason": "no cat"}', "Well, I think")
    reward = load_reward("self", model=model)
    assert isinstance(reward, SelfReward)
    right, wrong, lost = reward([grey(200), grey(150), grey(100)], [Task(prompt="a cat")] * 3)
    assert isinstance(right, Score) and right.value == 1.0
    assert right.parts["verdict"] == 1.0 and 0 < right.parts["p(yes)"] < 1
    assert isinstance(wrong, Score) and (wrong.value, wrong.explanation) == (0.0, "'no cat'")
    assert isinstance(lost, Unscored) and "unreadable: 1 of 3 verdicts so far" in lost.reason
    assert (reward.read, reward.unreadable) == (2, 1)
    assert model.calls == 1  # all images at once
    again = reward([grey(150), grey(200)], [Task(prompt="a cat")] * 2)
    assert again == [wrong, right] and model.calls == 1  # equal pixels, other image objects


def test_the_same_pixels_are_asked_the_same_question_once() -> None:
    model = Icons(apple=0.9)
    reward = load_reward("self", model=model)
    task, other = parse_prompt("a red apple and a clock"), parse_prompt("a clock")
    first = reward([GREY, grey(200), grey(10)], [task, task, other])
    assert model.asked == ["is there a red apple?", "is there a clock?", "is there a clock?"]
    assert reward([GREY, GREY], [task, other])[0] == first[0]
    assert len(model.asked) == 3


def test_its_probability_can_be_the_score() -> None:
    (score,) = load_reward("self:p-yes", model=FakeModel())([GREY], [Task(prompt="a cat")])
    assert isinstance(score, Score) and score.value == pytest.approx(200 / 255)


def test_an_invalid_probability_is_unscored() -> None:
    (score,) = load_reward("self", model=Icons(apple=float("nan")))([GREY], [parse_prompt("an apple")])
    assert isinstance(score, Unscored) and score.reason == "the model would say neither yes nor no"
    talker = Talker('{"Score": 0}')
    talker.answer = lambda images, questions: [math.nan] * len(images)  # type: ignore[method-assign]
    (score,) = load_reward("self", model=talker)([GREY], [Task(prompt="a cat")])
    assert isinstance(score, Score) and score.parts == {"verdict": 1.0}  # this needs no probability


@pytest.mark.slow
def test_the_embedded_model_scores_any_image_and_answers_questions(embedded: Janus) -> None:
    reward = load_reward("self", model=embedded)
    task = parse_prompt("a red apple left of a blue clock")
    odd = [Image.new("RGB", (1, 1)), Image.new("RGB", (4000, 10)), Image.new("CMYK", (40, 30))]
    blank = Image.new("RGB", (128, 128), "white")
    scores = reward([blank, *odd], [task] * 4)
    assert isinstance(scores[0], Score) and scores[0].value <= reward.stop_at
    assert set(scores[0].parts) == set(condition_questions(task))
    for image, score in zip([blank, *odd], scores, strict=True):
        (alone,) = load_reward("self", model=embedded)([image], [task])
        if isinstance(score, Score):
            assert isinstance(alone, Score) and alone.value == pytest.approx(score.value, abs=1e-5)
        else:  # about an unusual image it may say neither yes nor no
            assert alone == score and score.reason == "the model would say neither yes nor no"
    assert embedded.reply([], [], 5) == []
    together = embedded.reply([blank, GREY], ["is there a dog?", "is there a red apple?"], 6)
    assert together == [
        embedded.reply([blank], ["is there a dog?"], 6)[0],
        embedded.reply([GREY], ["is there a red apple?"], 6)[0],
    ]


@pytest.mark.slow
def test_with_fixed_shapes_a_verdict_is_independent_of_neighbours() -> None:
    """Equal to the last bit, also in half precision; otherwise a resumed benchmark would stop at another step."""
    model = Janus(embedded_folder(), dtype="bfloat16", deterministic=True)
    tasks = [parse_prompt(text) for text in ("a red apple left of a blue clock", "three dogs", "a cat")]
    images = [Image.effect_noise((160, 160), 40 + 20 * place).convert("RGB") for place in range(3)]
    together = load_reward("self", model=model)(images, tasks)
    assert together == [load_reward("self", model=model)([p], [t])[0] for p, t in zip(images, tasks, strict=True)]
    towers: list[int] = []

    def count(module: object, given: tuple[torch.Tensor], out: object) -> None:
        towers.append(len(given[0]))

    model.network.model.vision_model.register_forward_hook(count)
    load_reward("self", model=model)(images, tasks)
    assert towers == [1, 1, 1]  # the vision tower runs once per image for any number of questions
