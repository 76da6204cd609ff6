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
from typing import Literal

from milr.rewards.vlm.parsers import Answer, Unreadable, clean, quote
from milr.tasks.checklists import ANSWERS, NUMBERS, fold_answer
from milr.types import ChecklistItem, Score, Task, Unscored

Mean = Literal["geometric", "arithmetic"]
STOP_AT = 0.9
_FAILS = 0.5
"""An item below this value counts as failed in explanations."""
_NAMED = 5
"""Most failed items that an explanation names."""
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


def lacks_checklist(reward: str, task: Task) -> Unscored | None:
    """Return why a task without questions is not scored; None for a task with questions."""
    return None if task.checklist else Unscored("the task has no checklist, so there is nothing to ask about", reward)
