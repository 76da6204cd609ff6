"""The parts of a run: model, reward, evaluator and method, by their names and as loaded objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from milr.methods import load_method
from milr.methods.queue import Assigned
from milr.methods.runner import Runner
from milr.models import load_model
from milr.models.base import Model
from milr.models.devices import Placement
from milr.models.hub import HubAccess
from milr.rewards import check_installed, load_reward, needs_model
from milr.rewards.base import Reward, RewardFunction, make_reward
from milr.rewards.icons.golden import check_scorer
from milr.rewards.panel import watch
from milr.runs.schema import EvaluatedImage
from milr.runs.sessions import Spending
from milr.settings import Settings
from milr.types import Finished, KnownStep, StepRecord

if TYPE_CHECKING:
    from milr.methods.context import Method
    from milr.rewards.vlm.client import VlmClient


@dataclass(frozen=True)
class Asked:
    """A run's parts as given: names, and objects of a program."""

    model: str | Model
    reward: str | Reward | RewardFunction
    method: str
    profile: str | None = None
    evaluator: str | Reward | RewardFunction | None = None
    panel: tuple[str, ...] = ()

    @property
    def names(self) -> Names | None:
        """Return the names; None if there is an object among the parts, which nothing but its program can load."""
        model, reward, evaluator = self.model, self.reward, self.evaluator
        if isinstance(model, str) and isinstance(reward, str) and isinstance(evaluator, str | None):
            return Names(model, reward, self.method, self.profile, evaluator, self.panel)
        return None


@dataclass(frozen=True)
class Names(Asked):
    """The names of a run's parts; resuming loads them again."""

    model: str
    reward: str
    method: str
    profile: str | None = None
    evaluator: str | None = None
    panel: tuple[str, ...] = ()


class Records(Protocol):
    """The records of a run's tasks, from a `Runner` or from workers; a record's index is a place in the source."""

    @property
    def stopped(self) -> str | None:
        """Reason why the whole run stopped; None if it did not."""
        ...

    @property
    def cut(self) -> Collection[int]:
        """Return the tasks that a total limit ended."""
        ...

    def __iter__(self) -> Iterator[StepRecord]:
        """Return the records."""
        ...

    def cancel(self, index: int, why: Finished = "cancelled") -> None:
        """End a task at its next record, with its best image so far; it may be called from another thread."""
        ...

    def close(self) -> None:
        """Abandon the tasks in progress."""
        ...


@dataclass(frozen=True)
class Hooks:
    """Messages and questions of workers to a job, besides records; a position is one in the job's source."""

    evaluated: Callable[[int, Sequence[EvaluatedImage]], None]
    """Gets the evaluator's scores of the next record's images."""
    recall: Callable[[int], Sequence[KnownStep]]
    """Returns the steps of a task in progress that are recorded."""
    set_aside: Callable[[int, str], None]
    """Gets a task that failed twice, and its error."""
    drawn: Callable[[int, bytes], None] | None = None
    """Gets the strip of a task's images, as PNG, before its last record; None if nobody wants strips."""
    lost: Callable[[int], None] = lambda place: None
    """Gets a task that was cancelled before it had an image."""
    begun: Callable[[int, int | None], None] = lambda place, tokens: None
    """Gets a task that a worker has begun, and the number of its prompt's tokens where the model counts them."""
    watched: Callable[[int], bool] = lambda place: False
    """Returns true if somebody watches a task's images grow."""
    grown: Callable[[int, int, Image.Image], None] = lambda place, tokens, image: None
    """Gets an unfinished image of such a task, and how many of its tokens are there."""


@dataclass(frozen=True)
class Parts:
    """The loaded objects of a run."""

    model: Model
    reward: Reward
    evaluator: Reward | None
    method: Method
    panel: Mapping[str, Reward] = field(default_factory=dict[str, Reward])
    """Rewards that are only watched, by name."""
    ends: Callable[[], None] | None = None
    """Ends what was started for the run: reward servers."""

    @property
    def scorer(self) -> Reward:
        """Return the reward that gives the headline numbers."""
        return self.evaluator or self.reward

    @property
    def evaluates(self) -> bool:
        """Return true if the evaluator's scores come with the records, and not from the writer."""
        return False

    def start(self, source: Assigned, settings: Settings, hooks: Hooks) -> Records:
        """Return the records of these tasks; total limits and batch size are those of the settings."""
        return Runner(self.method, source, self.model, self.reward, settings)

    def watch(self, records: Records) -> Iterable[StepRecord]:
        """Return the records with the panel's scores."""
        return watch(records, self.panel)

    @property
    def facts(self) -> Mapping[str, str | int]:
        """Return facts about the machines, for the manifest."""
        return {}

    def spending(self, vlm: VlmClient | None) -> Spending:
        """Return a function of the usage of VLM judges so far; `vlm` is the client in this process."""
        return vlm.usage if vlm else lambda: None

    def report(self) -> list[str]:
        """Return the workers' progress: one line for all, then one for each; empty if there are none."""
        return []

    def close(self) -> None:
        """End the workers and the reward servers that were started for the run."""
        if self.ends is not None:
            self.ends()

    def __post_init__(self) -> None:
        """Let reward and evaluator test themselves on images with a known score.

        Raises:
            SelfTestFailed: One of them fails; nothing is drawn.
        """
        for scorer in (self.reward, self.evaluator):
            if scorer is not None:
                check_scorer(scorer)


def load_parts(
    asked: Asked,
    placement: Placement,
    vlm: VlmClient | None = None,
    hub: HubAccess | None = None,
    *,
    deterministic: bool = True,
    settings: Mapping[str, object] | None = None,
) -> Parts:
    """Load a run's parts: first rewards that do not need the model, so that missing files are found early.

    Args:
        asked: Names, which are loaded, and objects, which are taken as they are.
        placement: Device and dtype.
        vlm: Client of VLM judges.
        hub: Consent to downloads from the hub; None fetches nothing.
        deterministic: As in `milr.load_model`: a resumed run then gives the same images in half precision too.
        settings: Settings that a user gives: latents that the model does not have are refused.

    Raises:
        UsageError: A part cannot be loaded.
    """
    hub = hub or HubAccess()
    names = [one for one in (asked.reward, asked.evaluator, *asked.panel) if isinstance(one, str)]
    check_installed(*names)
    scorers = {name: load_reward(name, vlm=vlm, placement=placement) for name in names if not needs_model(name)}
    model = asked.model
    if isinstance(model, str):
        model = load_model(
            model,
            device=placement.device,
            dtype=placement.dtype,
            profile=asked.profile,
            offline=hub.offline,
            confirm=hub.confirm,
            deterministic=deterministic,
            graphs=placement.graphs,
            settings=settings,
        )
    for name in names:
        if name not in scorers:
            scorers[name] = load_reward(name, model=model, vlm=vlm, placement=placement)

    def find(scorer: str | Reward | RewardFunction) -> Reward:
        return scorers[scorer] if isinstance(scorer, str) else make_reward(scorer)

    evaluator = None if asked.evaluator is None else find(asked.evaluator)
    panel = {name: scorers[name] for name in asked.panel}
    return Parts(model, find(asked.reward), evaluator, load_method(asked.method), panel)
