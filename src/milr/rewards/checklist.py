"""Checklists as scores: one question per item, the degree to which each is met, their mean.

Source of the formulas: Soft-TIFA of GenEval 2 (arXiv 2512.16853; facebookresearch/GenEval2, evaluation.py, commit
a6e82d2). An item's value is the probability that the first token of the answer spells the expected answer, in lower
case or with a capital, with or without a blank before it, a number also in digits. The arithmetic mean of a prompt's
items estimates single atoms, the geometric mean whole prompts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from PIL import Image

from milr.errors import UsageError, unknown_name
from milr.rewards.images.convert import image_hash, to_rgb
from milr.rewards.lru_cache import LruCache
from milr.rewards.self_reward import VqaModel
from milr.rewards.vlm.parsers import Answer, Unreadable, clean, quote
from milr.tasks.checklists import ANSWERS, NUMBERS, fold_answer
from milr.types import ChecklistItem, Score, Task, Unscored

Mean = Literal["geometric", "arithmetic"]
STOP_AT = 0.9
_FAILS = 0.5
"""An item below this value counts as failed in explanations."""
_NAMED = 5
"""Most failed items that an explanation names."""
_CACHED = 8192
_RAW_BLANKS = str.maketrans("\u0120\u2581", "  ")
_WORD = re.compile(r"[a-z]+|\d+", re.IGNORECASE)


def mean_of(values: Sequence[float], mean: Mean) -> float:
    """Return the arithmetic or the geometric mean of values in [0, 1], at least one; one zero makes the latter 0."""
    if mean == "arithmetic":
        return math.fsum(values) / len(values)
    return 0.0 if min(values) <= 0 else min(1.0, math.exp(math.fsum(map(math.log, values)) / len(values)))


def spell(answer: str) -> frozenset[str]:
    """Return the first tokens that count as an answer, which is one of `milr.tasks.checklists.ANSWERS`.

    A number also counts in digits. The official scorer takes the first token of " 4" too, and the tokenizer of its
    judge (Qwen) cuts every digit off: that token is the blank alone.
    """
    digits = (str(NUMBERS.index(answer)), " ") if answer in NUMBERS else ()
    return frozenset({answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", *digits})


def read_chance(answer: Answer, expected: str) -> float:
    """Return the probability of the expected answer as the first token; a token that is not listed counts as 0.

    Raises:
        Unreadable: The server listed no tokens.
    """
    if not answer.first_tokens:
        raise Unreadable("the server gives no token probabilities; it must support logprobs, or ask with ':words'")
    right = spell(expected)
    listed = [(token.translate(_RAW_BLANKS), chance) for token, chance in answer.first_tokens if not math.isnan(chance)]
    return min(1.0, math.fsum(math.exp(min(0.0, chance)) for token, chance in listed if token in right))


def read_word(answer: Answer, expected: str) -> float:
    """Return 1 if an answer in words is the expected one, 0 if it is another one of its kind.

    Raises:
        Unreadable: Its first sentence names none, or several different ones.
    """
    text = clean(answer)
    words = _WORD.findall(re.split(r"(?<=[.!?;\n])\s", text)[0])
    kind = NUMBERS if expected in NUMBERS else ("yes", "no")
    folded = [fold_answer(word) or word for word in words]
    said = {word for word in folded if word in kind or (kind is NUMBERS and word.isdigit())}
    if len(folded) == 1 and folded[0] in ANSWERS:
        said = set(folded)  # "Yes" to "How many ...?" is a wrong answer, not an unreadable one
    if len(said) != 1:
        what = "a number" if kind is NUMBERS else "yes or no"
        raise Unreadable(f"the answer is not {what}: {quote(text)}")
    return float(said == {expected})


def rate(
    reward: str,
    items: Sequence[ChecklistItem],
    values: Sequence[float],
    mean: Mean,
    evidence: Mapping[str, object],
    cost: float = 0.0,
) -> Score:
    """Return the score of a checklist; its parts are the items' values by question.

    Args:
        reward: Name of the reward.
        items: At least one.
        values: In [0, 1], one per item.
        mean: How they are averaged.
        evidence: Plain data of the decision.
        cost: US dollars.
    """
    failed = sorted((value, place) for place, value in enumerate(values) if value < _FAILS)
    said = [f"{items[place].question} {items[place].answer}: {value:.2f}" for value, place in failed[:_NAMED]]
    more = [f"{len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
    explanation = (
        f"{len(failed)} of {len(items)} items fail: {'; '.join([*said, *more])}" if failed else "every item holds"
    )
    parts = {item.question: value for item, value in zip(items, values, strict=True)}
    return Score(mean_of(values, mean), reward, STOP_AT, parts, explanation, evidence, cost)


class SelfChecklist:
    """The checklist's answers of the model that drew. Implements `milr.rewards.base.Reward`.

    Every item is a yes/no question to the model: one that expects a number is asked "... Is the answer three?", and one
    that expects no has the value 1 - p(yes).
    """

    stop_at = STOP_AT

    def __init__(self, argument: str | None, model: object | None) -> None:
        """Take the model that draws.

        Args:
            argument: None for the geometric mean, "mean" for the arithmetic one.
            model: The model of the search.

        Raises:
            UsageError: No model is given, or the argument is unknown.
        """
        if argument not in (None, "mean"):
            raise unknown_name("variant of 'checklist-self'", str(argument), ["mean"])
        if model is None:
            raise UsageError(
                "the reward 'checklist-self' asks the model that draws: give load_reward(..., model=...) or --model"
            )
        self._model = cast("VqaModel", model)
        self._mean: Mean = "geometric" if argument is None else "arithmetic"
        self.name = f"checklist-self{'' if argument is None else ':mean'}@1/{self._model.name}"
        self._answers: LruCache[tuple[str, str], float] = LruCache(_CACHED)  # by image and question

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order; all questions about all images are one batch."""
        read = [_read_image(image, task, self.name) for image, task in zip(images, tasks, strict=True)]
        asked = [
            (image, image_hash(image), _ask_yes(item))
            for image, task in zip(read, tasks, strict=True)
            if not isinstance(image, Unscored)
            for item in task.checklist
        ]
        answers = iter(
            self._answers.get_all(
                [(key, question) for _, key, question in asked],
                lambda places: self._model.answer([asked[i][0] for i in places], [asked[i][2] for i in places]),
            )
        )
        return [
            image if isinstance(image, Unscored) else self._rate(task, [next(answers) for _ in task.checklist])
            for image, task in zip(read, tasks, strict=True)
        ]

    def _rate(self, task: Task, sure: Sequence[float]) -> Score | Unscored:
        lost = next((item for item, one in zip(task.checklist, sure, strict=True) if not 0.0 <= one <= 1.0), None)
        if lost is not None:
            return Unscored(f"the model would say neither yes nor no: {lost.question}", self.name)
        values = [1 - p if item.answer == "no" else p for item, p in zip(task.checklist, sure, strict=True)]
        return rate(self.name, task.checklist, values, self._mean, {"questions": list(map(_ask_yes, task.checklist))})


def lacks_checklist(reward: str, task: Task) -> Unscored | None:
    """Return why a task without questions is not scored; None for a task with questions."""
    return None if task.checklist else Unscored("the task has no checklist, so there is nothing to ask about", reward)


def _read_image(image: Image.Image, task: Task, reward: str) -> Image.Image | Unscored:
    try:
        rgb = to_rgb(image)
    except (OSError, ValueError) as error:
        return Unscored(f"the image cannot be read: {error}", reward)
    return lacks_checklist(reward, task) or rgb


def _ask_yes(item: ChecklistItem) -> str:
    return item.question if item.answer in ("yes", "no") else f"{item.question} Is the answer {item.answer}?"
