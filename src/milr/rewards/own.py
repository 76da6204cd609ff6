"""`self`: the model that drew the picture judges it through its own understanding path.

A model that reads free text is asked for a verdict in JSON (the paper's SelfReward; its rule, our words) and for
p(yes): `self` scores by the verdict, `self:p-yes` by the probability. The embedded model reads the icon world's
questions alone: it is asked one yes/no question a condition, in its training's words, and the score is the product of
the answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from milr.errors import UsageError, unknown_name
from milr.rewards.answers import Answer, Unreadable, read_self_verdict
from milr.rewards.pictures import to_rgb
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
        self.unreadable = 0
        """Verdicts that could not be read."""
        self.read = 0
        """Verdicts that could."""

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        return [self._score(picture, task) for picture, task in zip(pictures, tasks, strict=True)]

    def _score(self, picture: Image.Image, task: Task) -> Score | Unscored:
        try:
            rgb = to_rgb(picture)
        except (OSError, ValueError) as error:
            return Unscored(f"the picture cannot be read: {error}", self.name)
        if not self._model.reads_free_prompts:
            return self._ask_conditions(rgb, task)
        question = f"Does this image show exactly what the caption says: {task.prompt}?"
        (sure,) = self._model.answer([rgb], [question])
        if not self._by_verdict:
            return self._make(
                sure, {"p(yes)": sure}, f"yes with a probability of {sure:.2f}", {"questions": [question]}
            )
        (text,) = self._model.reply([rgb], [CHECK.format(prompt=task.prompt)], MOST_TOKENS)
        try:
            verdict = read_self_verdict(Answer(text))
        except Unreadable as error:
            self.unreadable += 1
            share = f"{self.unreadable} of {self.read + self.unreadable} verdicts so far"
            return Unscored(f"{error} (unreadable: {share})", self.name)
        self.read += 1
        parts = {"verdict": verdict.value, "p(yes)": sure}
        return self._make(verdict.value, parts, verdict.explanation, {"answer": text})

    def _ask_conditions(self, picture: Image.Image, task: Task) -> Score | Unscored:
        questions = condition_questions(task)
        if not questions:
            return Unscored("the task has no include list, so there is nothing to ask the model about", self.name)
        answers = self._model.answer([picture] * len(questions), questions)
        parts = dict(zip(questions, answers, strict=True))
        doubtful = min(parts, key=lambda question: parts[question])
        said = f"least sure: {doubtful} {parts[doubtful]:.2f}"
        return self._make(math.prod(answers), parts, said, {"questions": questions})

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
