"""`self`: the model that drew the image answers questions about it.

A model that reads free prompts is asked for a verdict in JSON (the paper's SelfReward; its rule, our words) and for
p(yes): `self` scores by the verdict, `self:p-yes` by the probability. A model that reads only the icon world's
questions is asked one yes/no question per condition, in its training's words; the score is the product of the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from PIL import Image

from milr.errors import UsageError, unknown_name
from milr.rewards.images.convert import image_hash, to_rgb
from milr.rewards.lru_cache import LruCache
from milr.rewards.vlm.parsers import Answer, Unreadable, read_self_verdict
from milr.tasks import COUNT_WORDS, plural, with_article
from milr.types import Score, Task, Unscored

CHECK = (
    'This image was drawn from the caption "{prompt}". First name every object that you see, with its colour, its '
    "place and how many of it there are. Then go through the caption: is each of its objects there, as many as it says "
    "and in the colour it says, and do they stand as it says? The score is 0 if everything is right, else -1. Answer "
    "with one JSON object and nothing else:\n"
    '{{"Thought": "what you see, compared with the caption", "Score": 0 or -1, "Reason": "what is wrong, or empty"}}\n'
    'For instance: {{"Thought": "One dog on grass, as the caption says.", "Score": 0, "Reason": ""}}\n'
    'Or: {{"Thought": "Three dogs, and the caption asks for one.", "Score": -1, "Reason": "three dogs instead of one"}}'
)
MOST_TOKENS = 512
"""Token limit of the JSON answer. The authors use 128, which cuts off many answers before their score."""
CACHED = 8192
"""Most answers in the cache; a benchmark has about a thousand images in progress."""

Found = TypeVar("Found")


class VqaModel(Protocol):
    """The part of `milr.models.base.Model` that `self` needs."""

    name: str
    reads_free_prompts: bool

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) of a yes/no question about each image; NaN if neither yes nor no is likely."""
        ...

    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, decoded greedily, of at most that many tokens."""
        ...


@dataclass(frozen=True)
class _Item:
    """An image and the questions about it."""

    image: Image.Image
    key: str
    """Hash of its pixels."""
    task: Task
    questions: list[str]
    """Questions to be answered by yes or no."""


def take_model(reward: str, model: object | None) -> VqaModel:
    """Return the model that draws, which a reward of that name asks.

    Raises:
        UsageError: No model is given.
    """
    if model is None:
        raise UsageError(
            f"the reward {reward!r} asks the model that draws: give load_reward(..., model=...) or --model"
        )
    return cast("VqaModel", model)


class SelfReward:
    """The score of an image by the model that drew it. Implements `milr.rewards.base.Reward`.

    A score's parts are p(yes) of each condition or, for a model that reads free prompts, of the whole prompt, and its
    verdict; the evidence is {"questions": [...]} or {"answer": the raw text}.
    """

    stop_at = 0.9

    def __init__(self, argument: str | None, model: object | None) -> None:
        """Take the model that draws.

        Args:
            argument: None or "p-yes".
            model: The model of the search.

        Raises:
            UsageError: No model is given, or the argument is unknown.
        """
        if argument not in (None, "p-yes"):
            raise unknown_name("variant of 'self'", str(argument), ["p-yes"])
        self._model = take_model("self", model)
        self._by_verdict = argument is None and self._model.reads_free_prompts
        version = 2 if self._model.reads_free_prompts else 1
        self.name = f"self{'' if self._by_verdict else ':p-yes'}@{version}/{self._model.name}"
        self._answers: LruCache[tuple[str, str], float] = LruCache(CACHED)  # by image and question
        self._replies: LruCache[tuple[str, str], str] = LruCache(CACHED)
        self.unreadable = 0
        """Number of answers that could not be read."""
        self.read = 0
        """Number of answers that could be read."""

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order; a question about equal pixels is asked once."""
        items = [self._prepare(image, task) for image, task in zip(images, tasks, strict=True)]
        shown = [item for item in items if isinstance(item, _Item)]
        asked = [(item, question) for item in shown for question in item.questions]
        answers = iter(self._ask(self._answers, asked, self._model.answer))
        if not self._by_verdict:
            return [
                item if isinstance(item, Unscored) else self._rate(item, [next(answers) for _ in item.questions])
                for item in items
            ]
        checks = [(item, CHECK.format(prompt=item.task.prompt)) for item in shown]
        texts = iter(self._ask(self._replies, checks, self._reply))
        return [item if isinstance(item, Unscored) else self._read(next(texts), next(answers)) for item in items]

    def _reply(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return self._model.reply(images, questions, MOST_TOKENS)

    def _prepare(self, image: Image.Image, task: Task) -> _Item | Unscored:
        try:
            rgb = to_rgb(image)
        except (OSError, ValueError) as error:
            return Unscored(f"the image cannot be read: {error}", self.name)
        if self._model.reads_free_prompts:
            questions = [f"Does this image show exactly what the caption says: {task.prompt}?"]
        else:
            questions = condition_questions(task)
        if not questions:
            return Unscored("the task has no include list, so there is nothing to ask the model about", self.name)
        return _Item(rgb, image_hash(rgb), task, questions)

    @staticmethod
    def _ask(
        cache: LruCache[tuple[str, str], Found],
        asked: Sequence[tuple[_Item, str]],
        ask: Callable[[Sequence[Image.Image], Sequence[str]], Sequence[Found]],
    ) -> list[Found]:
        return cache.get_all(
            [(item.key, question) for item, question in asked],
            lambda places: ask([asked[place][0].image for place in places], [asked[place][1] for place in places]),
        )

    def _rate(self, item: _Item, answers: Sequence[float]) -> Score | Unscored:
        """Score a task by the product of all answers."""
        evidence: dict[str, object] = {"questions": item.questions}
        if self._model.reads_free_prompts:
            (sure,) = answers
            return self._make(sure, {"p(yes)": sure}, f"yes with a probability of {sure:.2f}", evidence)
        parts = dict(zip(item.questions, answers, strict=True))
        doubtful = min(parts, key=lambda question: parts[question])
        return self._make(math.prod(answers), parts, f"least sure: {doubtful} {parts[doubtful]:.2f}", evidence)

    def _read(self, text: str, sure: float) -> Score | Unscored:
        """Score a task by the verdict in an answer."""
        try:
            verdict = read_self_verdict(Answer(text))
        except Unreadable as error:
            self.unreadable += 1
            share = f"{self.unreadable} of {self.read + self.unreadable} verdicts so far"
            return Unscored(f"{error} (unreadable: {share})", self.name)
        self.read += 1
        parts = {"verdict": verdict.value} | ({} if math.isnan(sure) else {"p(yes)": sure})
        return self._make(verdict.value, parts, verdict.explanation, {"answer": text})

    def _make(
        self, value: float, parts: dict[str, float], explanation: str, evidence: dict[str, object]
    ) -> Score | Unscored:
        if not 0.0 <= value <= 1.0:  # NaN: see `VqaModel.answer`
            return Unscored("the model would say neither yes nor no", self.name)
        return Score(value, self.name, self.stop_at, parts, explanation, evidence)


def condition_questions(task: Task) -> list[str]:
    """Return a task's conditions as yes/no questions, each to be answered yes, in the words of `training/scenes.py`.

    A count above one asks for the number; a colour asks for one object of that colour; a relation asks for both names.
    """
    questions: list[str] = []
    for item in task.include:
        if item.count > 1:
            word = next((word for word, count in COUNT_WORDS.items() if count == item.count), str(item.count))
            questions.append(f"is the number of {plural(item.name)} {word}?")
        if item.color is not None:
            questions.append(f"is there {with_article(f'{item.color} {item.name}')}?")
        elif item.count == 1:
            questions.append(f"is there {with_article(item.name)}?")
        if item.position is not None:
            relation, other = item.position
            questions.append(f"is the {item.name} {relation} the {task.include[other].name}?")
    return questions
