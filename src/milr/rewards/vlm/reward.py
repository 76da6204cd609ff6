"""A reward that asks a VLM judge: the protocol is data, everything else is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from milr.errors import unknown_name
from milr.rewards.base import Scores
from milr.rewards.images.convert import check_size
from milr.rewards.vlm.budget import CallCost, count_image_tokens, count_text_tokens
from milr.rewards.vlm.client import Failure, Settled, VlmClient
from milr.rewards.vlm.messages import Question, keep_words
from milr.rewards.vlm.official_words import read_words
from milr.rewards.vlm.parsers import Answer, Verdict
from milr.sources import SOURCES
from milr.types import Score, Task, Unscored

_MOST_KEPT = 8192
"""Most characters of a raw answer that a run stores."""


@dataclass(frozen=True)
class VlmProtocol:
    """A question to a VLM judge, and the reader of its answer."""

    name: str
    """Name of the reward."""
    version: int
    """Version, increased with every change of words or reading: scores of two versions are not comparable."""
    model: str
    """The model that the protocol's authors used."""
    system: str | None
    user: str
    """Template with ``{prompt}`` and ``{explanation}``; empty if the words are an official evaluator's."""
    read: Callable[[Answer], Verdict]
    stop_at: float
    max_tokens: int
    needs_url: bool = False
    """True if the model is not one of OpenAI's."""
    image_first: bool = False
    probabilities: bool = False
    tries: int = 1
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    asks_explanation: bool = False
    """True if tasks need an explanation."""
    words_of: str | None = None
    """Source (`milr.sources.SOURCES`) of the evaluator whose words are used, because they may not be shipped."""

    def with_words(self) -> VlmProtocol:
        """Return the protocol with its judge's questions.

        Raises:
            UsageError: They have not been fetched.
        """
        if self.words_of is None:
            return self
        system, user = read_words(SOURCES[self.words_of].find_judge())
        return replace(self, system=system, user=user)

    def fill(self, task: Task) -> str:
        """Return the user's words for a task."""
        # one pass: braces in a prompt stay unchanged
        before, _, rest = self.user.partition("{prompt}")
        middle, mark, end = rest.partition("{explanation}")
        return before + task.prompt + middle + ((task.explanation or "") if mark else "") + end


class AskingReward(ABC):
    """The part that rewards by a VLM judge's answers share: all images are asked about at once."""

    name: str

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return self.begin(images, tasks)()

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Ask about all images at once; return a call that waits for the answers."""
        asked = [self._ask(image, task) for image, task in zip(images, tasks, strict=True)]
        return lambda: [wait() for wait in asked]

    @abstractmethod
    def _ask(self, image: Image.Image, task: Task) -> Callable[[], Score | Unscored]:
        """Ask about one image; return a call that waits for its score."""


class VlmReward(AskingReward):
    """A reward by a VLM judge's answers. Implements `milr.rewards.base.Reward`.

    A score's evidence is {"answer": the raw text, "answered_by": the server's name of the model}; its cost is that of
    the tokens that its question used (`VlmClient.price_of`).
    """

    def __init__(self, protocol: VlmProtocol, vlm: VlmClient) -> None:
        """Take a protocol and the client that asks.

        Raises:
            UsageError: The client's `check` fails, or the protocol's words have not been fetched.
        """
        vlm.check(protocol.name, needs_url=protocol.needs_url)
        self.protocol = protocol = protocol.with_words()
        self.vlm = vlm
        self.model = vlm.settings.model or protocol.model
        self.name = f"{protocol.name}@{protocol.version}/{self.model}"
        self.stop_at = protocol.stop_at

    def call_costs(self, image_size: int, tasks: Sequence[Task] = ()) -> list[CallCost]:
        """Return the calls for scoring one image of that side."""
        words = count_text_tokens((self.protocol.system or "") + self.protocol.user) + 30
        tokens_in = words + count_image_tokens(image_size, image_size)
        price = self.vlm.price_of(self.model)
        return [CallCost(self.model, self.vlm.host, tokens_in, self.protocol.max_tokens, price)]

    def _ask(self, image: Image.Image, task: Task) -> Callable[[], Score | Unscored]:
        if self.protocol.asks_explanation and not task.explanation:
            missing = Unscored(f"the task has no explanation, which {self.protocol.name!r} needs", self.name)
            return lambda: missing
        try:
            check_size(image)
        except ValueError as error:
            nothing = Unscored(str(error), self.name)
            return lambda: nothing
        question = Question(
            protocol=f"{self.protocol.name}@{self.protocol.version}",
            model=self.model,
            system=self.protocol.system,
            user=self.protocol.fill(task),
            image=image,
            max_tokens=self.protocol.max_tokens,
            image_first=self.protocol.image_first,
            probabilities=self.protocol.probabilities,
            tries=self.protocol.tries,
            extra=self.protocol.extra,
        )
        future = self.vlm.ask(question, self.protocol.read)
        return lambda: self._score(future.result())

    def _score(self, settled: Settled) -> Score | Unscored:
        if isinstance(settled, Failure):
            return Unscored(settled.reason, self.name, final=settled.final, cost=settled.cost)
        verdict, answer = settled.verdict, settled.answer
        return Score(
            value=verdict.value,
            reward=self.name,
            stop_at=self.stop_at,
            parts=verdict.parts,
            explanation=verdict.explanation,
            evidence={"answer": keep_words(answer.text, _MOST_KEPT), "answered_by": answer.model},
            cost=settled.cost,
        )


def choose_variant(reward: str, argument: str | None, variants: Mapping[str | None, VlmProtocol]) -> VlmProtocol:
    """Return the protocol of a name's argument: ``gpt-4o:p-yes``.

    Raises:
        UsageError: There is no such variant.
    """
    if argument not in variants:
        raise unknown_name(f"variant of {reward!r}", str(argument), [name for name in variants if name])
    return variants[argument]
