"""`checklist`, `geneval2` and `t2i-corebench`: a VLM judge on a server is asked one question per item of a checklist.

The protocol is data. `checklist` asks in our words. The words of the other two are their official scorers' and are read
from the programs that `milr data get` fetches: facebookresearch/GenEval2 (evaluation.py, CC BY-NC 4.0) and
KwaiVGI/T2I-CoReBench (evaluate.py, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from milr.errors import unknown_name
from milr.rewards.images.convert import check_size
from milr.rewards.vlm.budget import CallCost, count_image_tokens, count_text_tokens
from milr.rewards.vlm.client import Failure, Settled, VlmClient
from milr.rewards.vlm.items import STOP_AT, Mean, lacks_checklist, rate, read_chance, read_word
from milr.rewards.vlm.messages import Question, keep_words
from milr.rewards.vlm.official_words import read_corebench_words, read_geneval2_words
from milr.rewards.vlm.parsers import Answer, Unreadable, Verdict
from milr.rewards.vlm.reward import AskingReward
from milr.sources import SOURCES
from milr.types import ChecklistItem, Score, Task, Unscored

_MOST_KEPT = 200
"""Most characters of an item's answer that a run stores."""
_USUAL_ITEMS = 8
"""Items of a checklist if the tasks are not known, for estimates."""
Reading = Literal["probability", "probability or word", "word"]
"""Rule that makes a number of an answer: the probability of its first token, that probability if the server gives it
and the word otherwise, or the word."""
Words = Callable[[Path], tuple[str | None, str]]


@dataclass(frozen=True)
class ChecklistProtocol:
    """The form in which a VLM judge is asked about one item, and how answers become a score."""

    name: str
    version: int
    """Version, increased with every change of words or reading."""
    model: str
    """The judge of the protocol's authors, or the one that we recommend."""
    user: str
    """Template with ``{question}`` and, before it, ``{prompt}`` if need be; empty if the words are official ones."""
    reading: Reading
    mean: Mean
    max_tokens: int
    system: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the request."""
    tries: int = 1
    official: tuple[str, Words] | None = None
    """Source of the official scorer (`milr.sources.SOURCES`) and the reader of its words."""

    def with_words(self) -> ChecklistProtocol:
        """Return the protocol with its words.

        Raises:
            UsageError: They have not been fetched.
        """
        if self.official is None:
            return self
        source, read = self.official
        system, user = read(SOURCES[source].find_judge())
        return replace(self, system=system, user=user)

    def fill(self, task: Task, item: ChecklistItem) -> str:
        """Return the words about one item; braces in a prompt or question stay unchanged."""
        before, _, after = self.user.partition("{question}")
        start, mark, middle = before.partition("{prompt}")
        return start + (task.prompt if mark else "") + middle + item.question + after

    def read(self, answer: Answer, expected: str) -> float:
        """Return an item's value in [0, 1].

        Raises:
            Unreadable: The answer is none.
        """
        if self.reading == "probability" or (self.reading != "word" and answer.first_tokens):
            return read_chance(answer, expected)
        return read_word(answer, expected)


CHECKLIST = ChecklistProtocol(
    name="checklist",
    version=1,
    model="Qwen/Qwen3-VL-8B-Instruct",
    user="{question} Answer with one word.",
    reading="probability or word",
    mean="geometric",
    max_tokens=4,
)
GENEVAL2 = ChecklistProtocol(
    name="geneval2",
    version=1,
    model="Qwen/Qwen3-VL-8B-Instruct",
    user="",
    reading="probability",
    mean="geometric",
    max_tokens=1,
    official=("geneval2", read_geneval2_words),
)
COREBENCH = ChecklistProtocol(
    name="t2i-corebench",
    version=1,
    model="Qwen/Qwen3-VL-30B-A3B-Thinking",
    user="",
    reading="word",
    mean="arithmetic",
    max_tokens=8192,
    extra={"repetition_penalty": 1.05},
    tries=3,
    official=("t2i-corebench", read_corebench_words),
)
FORMS: Mapping[str, ChecklistProtocol] = {form.name: form for form in (CHECKLIST, GENEVAL2, COREBENCH)}
"""Name -> form of the questions. Rewards and `milr doctor` take theirs here: a further form is one entry."""
VARIANTS: Mapping[str | None, Mapping[str, object]] = {
    None: {},
    "mean": {"mean": "arithmetic"},
    "words": {"reading": "word", "tries": 3},
    "words-mean": {"reading": "word", "mean": "arithmetic", "tries": 3},
}
"""Argument of `checklist` and `geneval2` -> fields that differ. "words" reads 1 or 0 from each answer, as TIFA does."""


class VlmChecklist(AskingReward):
    """A reward by a VLM judge's answers about a task's checklist. Implements `milr.rewards.base.Reward`.

    Its parts are the items' values by question. Its evidence is {"answers": {question: the raw text}, "answered_by":
    the server's name of the model, "by word": the questions that were read by their word because the server gave no
    probabilities}. An image with an item that cannot be read is `Unscored`; asked again, only that item costs.
    """

    stop_at = STOP_AT

    def __init__(self, protocol: ChecklistProtocol, vlm: VlmClient) -> None:
        """Take a protocol and the client that asks.

        Raises:
            UsageError: The client's `check` fails, or the protocol's words have not been fetched.
        """
        vlm.check(protocol.name, needs_url=True)
        self.protocol = protocol.with_words()
        self.vlm = vlm
        self.model = vlm.settings.model or protocol.model
        self.name = f"{protocol.name}@{protocol.version}/{self.model}"

    def call_costs(self, image_size: int, tasks: Sequence[Task] = ()) -> list[CallCost]:
        """Return the calls for scoring one image of that side: one per item of a task's checklist, on average."""
        items = [item for task in tasks for item in task.checklist]
        calls = len(items) / len(tasks) if items else _USUAL_ITEMS
        longest = max((len(item.question) for item in items), default=80)
        longest += max((len(task.prompt) for task in tasks), default=0) if "{prompt}" in self.protocol.user else 0
        words = count_text_tokens((self.protocol.system or "") + self.protocol.user) + -(-longest // 4)
        tokens_in = words + count_image_tokens(image_size, image_size)
        price = self.vlm.price_of(self.model)
        return [CallCost(self.model, self.vlm.host, tokens_in, self.protocol.max_tokens, price, calls)]

    def _ask(self, image: Image.Image, task: Task) -> Callable[[], Score | Unscored]:
        try:
            check_size(image)
        except ValueError as error:
            nothing = Unscored(str(error), self.name)
        else:
            nothing = lacks_checklist(self.name, task)
        if nothing is not None:
            return lambda: nothing
        protocol = self.protocol
        futures = [
            self.vlm.ask(
                Question(
                    protocol=f"{protocol.name}@{protocol.version}",
                    model=self.model,
                    system=protocol.system,
                    user=protocol.fill(task, item),
                    image=image,
                    max_tokens=protocol.max_tokens,
                    image_first=True,
                    probabilities=protocol.reading != "word",
                    tries=protocol.tries,
                    extra=protocol.extra,
                ),
                self._reader(item),
            )
            for item in task.checklist
        ]
        return lambda: self._score(task, [future.result() for future in futures])

    def _reader(self, item: ChecklistItem) -> Callable[[Answer], Verdict]:
        return lambda answer: Verdict(self.protocol.read(answer, item.answer))

    def _score(self, task: Task, found: Sequence[Settled]) -> Score | Unscored:
        cost = sum(settled.cost for settled in found)
        values: list[float] = []
        answers: list[Answer] = []
        for place, (item, settled) in enumerate(zip(task.checklist, found, strict=True), start=1):
            where = f"item {place} of {len(found)}, {item.question!r}: "
            if isinstance(settled, Failure):
                return Unscored(where + settled.reason, self.name, final=settled.final, cost=cost)
            try:  # another item's question in the same words may have been answered first, and read for its answer
                values.append(self.protocol.read(settled.answer, item.answer))
            except Unreadable as error:
                return Unscored(where + str(error), self.name, cost=cost)
            answers.append(settled.answer)
        questions = [item.question for item in task.checklist]
        told = dict(zip(questions, (keep_words(answer.text, _MOST_KEPT) for answer in answers), strict=True))
        evidence: dict[str, object] = {"answers": told, "answered_by": answers[0].model}
        by_word = [one for one, answer in zip(questions, answers, strict=True) if not answer.first_tokens]
        if self.protocol.reading == "probability or word" and by_word:
            evidence["by word"] = by_word
        score = rate(self.name, task.checklist, values, self.protocol.mean, evidence, cost)
        if "by word" not in evidence:
            return score
        told_so = f"{len(by_word)} of {len(values)} answers read by their word: the server gives no probabilities"
        return replace(score, explanation=f"{score.explanation} ({told_so})")


class Checklist(VlmChecklist):
    """Any checklist in our words; where a server gives no token probabilities, answers are read by their word."""

    def __init__(self, argument: str | None, vlm: VlmClient) -> None:
        """Take a variant of `VARIANTS` and the client that asks."""
        super().__init__(_choose(FORMS["checklist"], argument), vlm)


class GenEval2(VlmChecklist):
    """Soft-TIFA in the official words; "words" is TIFA, "mean" the arithmetic mean."""

    def __init__(self, argument: str | None, vlm: VlmClient) -> None:
        """Take a variant of `VARIANTS` and the client that asks."""
        super().__init__(_choose(FORMS["geneval2"], argument), vlm)


class CoReBench(VlmChecklist):
    """T2I-CoReBench's share of the questions that are answered yes, in the official words."""

    def __init__(self, vlm: VlmClient) -> None:
        """Take the client that asks."""
        super().__init__(FORMS["t2i-corebench"], vlm)


def _choose(protocol: ChecklistProtocol, argument: str | None) -> ChecklistProtocol:
    if argument not in VARIANTS:
        raise unknown_name(f"variant of {protocol.name!r}", str(argument), [name for name in VARIANTS if name])
    changes: Mapping[str, object] = VARIANTS[argument]
    suffix = "" if argument is None else f":{argument}"
    return replace(protocol, name=protocol.name + suffix, **changes)  # pyright: ignore[reportArgumentType]
