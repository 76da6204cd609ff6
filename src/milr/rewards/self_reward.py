"""`self`: the model that drew the picture judges it through its own understanding path.

A model that reads free text is asked for a verdict in JSON (the paper's SelfReward; its rule, our words) and for
p(yes): `self` scores by the verdict, `self:p-yes` by the probability. The embedded model reads the icon world's
questions alone: it is asked one yes/no question a condition, in its training's words, and the score is the product of
the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from milr.errors import UsageError, unknown_name
from milr.rewards.images.convert import picture_hash, to_rgb
from milr.rewards.lru_cache import Memory
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
"""Of the JSON. The authors stop at 128, which cuts many answers before their Score."""
_REMEMBERED = 8192
"""Answers; a benchmark has about a thousand pictures under way at once."""

Found = TypeVar("Found")


class Looker(Protocol):
    """What `self` needs of a model: see `milr.models.base.Model`."""

    name: str
    reads_free_prompts: bool

    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """p(yes) of a yes/no question about each picture."""
        ...

    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A free answer about each picture, greedily, of at most that many tokens."""
        ...


@dataclass(frozen=True)
class _Look:
    """A picture, and what is to be asked about it."""

    picture: Image.Image
    key: str
    """Its pixels' hash."""
    task: Task
    questions: list[str]
    """To be answered by yes or no."""


class SelfReward:
    """The model's own verdict. Implements `milr.rewards.base.Reward`.

    A score's parts are p(yes) of each condition or, for a model that reads free text, of the whole prompt, and its
    verdict; the evidence is {"questions": [...]} or {"answer": the raw text}.
    """

    stop_at = 0.9

    def __init__(self, argument: str | None, model: object | None) -> None:
        """Take the model that draws.

        Args:
            argument: None, or "p-yes".
            model: The search's own.

        Raises:
            UsageError: No model is given, or the argument is another.
        """
        if argument not in (None, "p-yes"):
            raise unknown_name("variant of 'self'", str(argument), ["p-yes"])
        if model is None:
            raise UsageError("the reward 'self' asks the model that draws: give load_reward(..., model=...) or --model")
        self._model: Looker = model  # pyright: ignore[reportAttributeAccessIssue]
        self._by_verdict = argument is None and self._model.reads_free_prompts
        self.name = f"self{'' if self._by_verdict else ':p-yes'}@1/{self._model.name}"
        self._answers: Memory[tuple[str, str], float] = Memory(_REMEMBERED)  # by picture and question
        self._replies: Memory[tuple[str, str], str] = Memory(_REMEMBERED)
        self.unreadable = 0
        """Verdicts that could not be read."""
        self.read = 0
        """Verdicts that could."""

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order; what was asked about the same pixels before is not asked again."""
        looks = [self._look(picture, task) for picture, task in zip(pictures, tasks, strict=True)]
        shown = [look for look in looks if isinstance(look, _Look)]
        asked = [(look, question) for look in shown for question in look.questions]
        answers = iter(self._recall(self._answers, asked, self._model.answer))
        if not self._by_verdict:
            return [
                look if isinstance(look, Unscored) else self._rate(look, [next(answers) for _ in look.questions])
                for look in looks
            ]
        checks = [(look, CHECK.format(prompt=look.task.prompt)) for look in shown]
        texts = iter(self._recall(self._replies, checks, self._reply))
        return [look if isinstance(look, Unscored) else self._read(next(texts), next(answers)) for look in looks]

    def _reply(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return self._model.reply(pictures, questions, MOST_TOKENS)

    def _look(self, picture: Image.Image, task: Task) -> _Look | Unscored:
        try:
            rgb = to_rgb(picture)
        except (OSError, ValueError) as error:
            return Unscored(f"the picture cannot be read: {error}", self.name)
        if self._model.reads_free_prompts:
            questions = [f"Does this image show exactly what the caption says: {task.prompt}?"]
        else:
            questions = condition_questions(task)
        if not questions:
            return Unscored("the task has no include list, so there is nothing to ask the model about", self.name)
        return _Look(rgb, picture_hash(rgb), task, questions)

    @staticmethod
    def _recall(
        memory: Memory[tuple[str, str], Found],
        asked: Sequence[tuple[_Look, str]],
        ask: Callable[[Sequence[Image.Image], Sequence[str]], Sequence[Found]],
    ) -> list[Found]:
        return memory.recall(
            [(look.key, question) for look, question in asked],
            lambda places: ask([asked[place][0].picture for place in places], [asked[place][1] for place in places]),
        )

    def _rate(self, look: _Look, answers: Sequence[float]) -> Score | Unscored:
        """The product of all answers."""
        evidence: dict[str, object] = {"questions": look.questions}
        if self._model.reads_free_prompts:
            (sure,) = answers
            return self._make(sure, {"p(yes)": sure}, f"yes with a probability of {sure:.2f}", evidence)
        parts = dict(zip(look.questions, answers, strict=True))
        doubtful = min(parts, key=lambda question: parts[question])
        return self._make(math.prod(answers), parts, f"least sure: {doubtful} {parts[doubtful]:.2f}", evidence)

    def _read(self, text: str, sure: float) -> Score | Unscored:
        """The verdict in a reply."""
        try:
            verdict = read_self_verdict(Answer(text))
        except Unreadable as error:
            self.unreadable += 1
            share = f"{self.unreadable} of {self.read + self.unreadable} verdicts so far"
            return Unscored(f"{error} (unreadable: {share})", self.name)
        self.read += 1
        parts = {"verdict": verdict.value, "p(yes)": sure}
        return self._make(verdict.value, parts, verdict.explanation, {"answer": text})

    def _make(
        self, value: float, parts: dict[str, float], explanation: str, evidence: dict[str, object]
    ) -> Score | Unscored:
        if not 0.0 <= value <= 1.0:  # a NaN of half-precision weights
            return Unscored(f"the model's probability is {value}", self.name)
        return Score(value, self.name, self.stop_at, parts, explanation, evidence)


def condition_questions(task: Task) -> list[str]:
    """A task's conditions as yes/no questions, each to be answered yes, in the words of `training/scenes.py`.

    A count above one asks for the number; a colour asks for one object of that colour; a relation for both names.
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
