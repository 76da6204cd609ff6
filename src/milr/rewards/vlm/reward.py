"""A reward that asks a judge: a protocol is data, everything else is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from milr.errors import unknown_name
from milr.rewards.base import Scores
from milr.rewards.images.convert import check_size
from milr.rewards.vlm.budget import CallCost, picture_tokens, text_tokens
from milr.rewards.vlm.client import Failure, VlmClient
from milr.rewards.vlm.messages import Question
from milr.rewards.vlm.parsers import Answer, Verdict
from milr.types import Score, Task, Unscored


@dataclass(frozen=True)
class VlmProtocol:
    """What a judge is asked, and how its answer is read."""

    name: str
    """The reward's."""
    version: int
    """Counts up with every change of words or reading: scores of two versions are two metrics."""
    judge: str
    """The model that the protocol's authors asked."""
    system: str | None
    user: str
    """``{prompt}`` and ``{explanation}`` are filled in."""
    read: Callable[[Answer], Verdict]
    stop_at: float
    max_tokens: int
    needs_url: bool = False
    """The judge is not one of OpenAI's."""
    picture_first: bool = False
    probabilities: bool = False
    tries: int = 1
    extra: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def asks_explanation(self) -> bool:
        """Whether tasks must say what their prompt means."""
        return "{explanation}" in self.user

    def fill(self, task: Task) -> str:
        """The user's words for a task."""
        # One pass: a prompt that holds braces stays as it is.
        before, _, behind = self.user.partition("{prompt}")
        middle, mark, end = behind.partition("{explanation}")
        return before + task.prompt + middle + ((task.explanation or "") if mark else "") + end


class Judge:
    """Scores pictures by what a judge answers. Implements `milr.rewards.base.Reward`.

    A score's evidence is {"answer": the raw text, "answered_by": the model as the server names itself}.
    """

    def __init__(self, protocol: VlmProtocol, judges: VlmClient) -> None:
        """Take a protocol and the client that asks.

        Raises:
            UsageError: What the client's `check` refuses.
        """
        judges.check(protocol.name, needs_url=protocol.needs_url)
        self.protocol = protocol
        self.judges = judges
        self.judge = judges.settings.model or protocol.judge
        self.name = f"{protocol.name}@{protocol.version}/{self.judge}"
        self.stop_at = protocol.stop_at

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        return self.begin(pictures, tasks)()

    def begin(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Ask about all pictures at once; what is returned waits for the answers."""
        asked = [self._ask(picture, task) for picture, task in zip(pictures, tasks, strict=True)]
        return lambda: [wait() for wait in asked]

    def call_costs(self, picture_size: int) -> list[CallCost]:
        """What scoring one picture of that side costs."""
        words = text_tokens((self.protocol.system or "") + self.protocol.user) + 30
        tokens_in = words + picture_tokens(picture_size, picture_size)
        return [CallCost(self.judge, self.judges.host, tokens_in, self.protocol.max_tokens, self.judges.hosted)]

    def _ask(self, picture: Image.Image, task: Task) -> Callable[[], Score | Unscored]:
        if self.protocol.asks_explanation and not task.explanation:
            missing = Unscored(f"the task has no explanation, which {self.protocol.name!r} judges by", self.name)
            return lambda: missing
        try:
            check_size(picture)
        except ValueError as error:
            nothing = Unscored(str(error), self.name)
            return lambda: nothing
        question = Question(
            protocol=f"{self.protocol.name}@{self.protocol.version}",
            judge=self.judge,
            system=self.protocol.system,
            user=self.protocol.fill(task),
            picture=picture,
            max_tokens=self.protocol.max_tokens,
            picture_first=self.protocol.picture_first,
            probabilities=self.protocol.probabilities,
            tries=self.protocol.tries,
            extra=self.protocol.extra,
        )
        future = self.judges.ask(question, self.protocol.read)
        return lambda: self._score(future.result())

    def _score(self, settled: tuple[Verdict, Answer] | Failure) -> Score | Unscored:
        if isinstance(settled, Failure):
            return Unscored(settled.reason, self.name, final=settled.final)
        verdict, answer = settled
        return Score(
            value=verdict.value,
            reward=self.name,
            stop_at=self.stop_at,
            parts=verdict.parts,
            explanation=verdict.explanation,
            evidence={"answer": answer.text, "answered_by": answer.model},
        )


def choose_variant(reward: str, argument: str | None, variants: Mapping[str | None, VlmProtocol]) -> VlmProtocol:
    """The protocol that a name's argument asks for: ``gpt-4o:p-yes``.

    Raises:
        UsageError: No variant has that name.
    """
    if argument not in variants:
        raise unknown_name(f"variant of {reward!r}", str(argument), [name for name in variants if name])
    return variants[argument]
