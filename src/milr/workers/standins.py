"""The coordinator's replacement for model and rewards, which only its workers load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from milr.methods import load_method
from milr.methods.queue import Assigned, TaskQueue
from milr.models.base import Model
from milr.parts import Hooks, Names, Parts, Records
from milr.runs.sessions import Spending
from milr.settings import Settings, make_settings
from milr.types import Score, StepRecord, Task, Unscored
from milr.workers.messages import Ready
from milr.workers.team_runner import TeamRunner

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient
    from milr.workers.team import Team

Scorer = Callable[[Sequence[Image.Image], Sequence[Task]], list[Score | Unscored]]


class FarModel:
    """A model that workers have loaded: its name, its capabilities, its settings. It draws nothing here."""

    def __init__(self, ready: Ready) -> None:
        """Store a worker's facts about it."""
        self.name, self.folder, self.capabilities = ready.model, Path(ready.folder), ready.capabilities
        self.defaults, self.reads_free_prompts = ready.defaults, ready.reads_free_prompts
        self.deterministic = ready.deterministic

    def settings(self, method: str = "milr", **changes: object) -> Settings:
        """Return a method's settings: the model's defaults with these changes."""
        return make_settings(method, changes, self.defaults)


class FarReward:
    """A reward that workers have loaded. A call asks one of them. Implements `milr.rewards.base.Reward`."""

    def __init__(self, name: str, stop_at: float, score: Scorer) -> None:
        """Take its name and the call that asks a worker."""
        self.name, self.stop_at, self._score = name, stop_at, score

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return self._score(images, tasks)


@dataclass(frozen=True)
class TeamParts(Parts):
    """A run's parts, loaded by workers. Each worker has tested its scorers."""

    team: Any = None  # the `Team`

    @classmethod
    def of(cls, team: Team, names: Names, ready: Ready) -> TeamParts:
        """Return facts about a worker's parts."""
        reward = FarReward(*ready.reward, team.score)
        evaluator = None if ready.evaluator is None else FarReward(*ready.evaluator, team.evaluate)
        panel = {asked: FarReward(name, 1.0, team.refuse) for asked, name in ready.panel.items()}
        model = cast("Model", FarModel(ready))
        return cls(model, reward, evaluator, load_method(names.method), panel, team=team)

    def __post_init__(self) -> None:
        """Test nothing: the workers have."""

    @property
    def evaluates(self) -> bool:
        """Return true: workers evaluate the images that they draw."""
        return self.evaluator is not None

    def start(self, source: Assigned | TaskQueue, settings: Settings, hooks: Hooks) -> TeamRunner:
        """See `Parts`."""
        return TeamRunner(self.team, source, settings, hooks)

    def watch(self, records: Records) -> Iterable[StepRecord]:
        """Return the records, which have the panel's scores already."""
        return records

    @property
    def facts(self) -> Mapping[str, str | int]:
        """Return the number of workers, their kind, and the first worker's facts about its machine."""
        ready = self.team.ready
        return {
            **ready.machine,
            "workers": self.team.backend.count,
            "backend": type(self.team.backend).__name__.lower(),
        }

    def spending(self, vlm: VlmClient | None) -> Spending:
        """Return the usage of VLM judges by all workers."""
        return self.team.usage

    def report(self) -> list[str]:
        """See `Parts`."""
        return self.team.report()

    def close(self) -> None:
        """End the workers, and reward servers after them."""
        self.team.close()
        super().close()
