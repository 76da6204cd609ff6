"""A panel: rewards that are watched but not optimised, to notice a search that exploits its own reward.

`watch` passes a search's records on, with the panel's scores of the first and of the best image. The panel is asked
only when one of them is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from milr.rewards.base import Reward, begin_scoring
from milr.types import ImageSample, Score, StepRecord, Task, Unscored

ALARM_ABOVE = 0.1
"""Growth of the gap that raises an alarm, on the [0, 1] scale."""


@dataclass(frozen=True)
class Gap:
    """The difference between a reward and one panel reward, at the first and at the best image; means over tasks."""

    watched: str
    first_reward: float
    best_reward: float
    first_watched: float
    best_watched: float
    images: int
    """Number of tasks for which all four scores are known."""

    @property
    def first(self) -> float:
        """Return the gap at the first image."""
        return self.first_reward - self.first_watched

    @property
    def best(self) -> float:
        """Return the gap at the best image."""
        return self.best_reward - self.best_watched

    @property
    def alarm(self) -> bool:
        """Return true if the gap grows while the reward rises: the search may be exploiting its reward."""
        return self.best_reward > self.first_reward and self.best - self.first > ALARM_ABOVE

    def __str__(self) -> str:
        """Return one line of text."""
        line = (
            f"{self.watched}: {self.first_watched:.2f} at the first image, {self.best_watched:.2f} at the best; "
            f"the reward {self.first_reward:.2f} and {self.best_reward:.2f}; gap {self.first:+.2f} and {self.best:+.2f}"
        )
        return f"{line} - ALARM: the gap grows while the reward rises" if self.alarm else line


class Watcher:
    """A panel and its scores of the tasks in progress."""

    def __init__(self, panel: Mapping[str, Reward]) -> None:
        """Take the watched rewards, by name; without any, records pass unchanged."""
        self.panel = panel
        self._firsts: dict[int, tuple[Score | Unscored, Mapping[str, Score | Unscored]]] = {}
        self._bests: dict[int, tuple[ImageSample, Mapping[str, Score | Unscored]]] = {}

    def look(self, record: StepRecord) -> StepRecord:
        """Return the record with `panel_first` and `panel_best` filled in; a task's last record notes the alarms."""
        panel, index = self.panel, record.index
        if not panel:
            return record
        if index not in self._firsts:
            first = record.images[0]
            self._firsts[index] = record.scores[0], _look(first, record.task, panel)
            self._bests[index] = first, self._firsts[index][1]
        if self._bests[index][0] is not record.best:
            self._bests[index] = record.best, _look(record.best, record.task, panel)
        first_score, first_seen = self._firsts[index]
        seen = self._bests[index][1]
        notes = record.notes
        if record.finished is not None:
            gaps = [_gap(name, [(first_score, record.best_score, first_seen[name], seen[name])]) for name in panel]
            notes += tuple(f"panel {gap}" for gap in gaps if gap is not None and gap.alarm)
            self.forget(index)
        return replace(record, panel_first=first_seen, panel_best=seen, notes=notes)

    def forget(self, index: int) -> None:
        """Drop the scores of a task that will have no more records."""
        self._firsts.pop(index, None)
        self._bests.pop(index, None)


def watch(records: Iterable[StepRecord], panel: Mapping[str, Reward]) -> Iterator[StepRecord]:
    """Yield the records as a `Watcher` of this panel returns them.

    Args:
        records: Records of any method.
        panel: The watched rewards by name.
    """
    return map(Watcher(panel).look, records)


def measure_gaps(ends: Sequence[tuple[Score | Unscored, StepRecord]]) -> list[Gap]:
    """Return the mean gaps of a run, one per panel reward, over the tasks with all scores.

    Args:
        ends: For each finished task the score of its first image and its last record.
    """
    names = list(dict.fromkeys(name for _, last in ends for name in last.panel_best))
    gaps = [
        _gap(name, [(first, last.best_score, last.panel_first[name], last.panel_best[name]) for first, last in ends])
        for name in names
    ]
    return [gap for gap in gaps if gap is not None]


def _look(sample: ImageSample, task: Task, panel: Mapping[str, Reward]) -> dict[str, Score | Unscored]:
    begun = {name: begin_scoring(reward, [sample.image], [task]) for name, reward in panel.items()}
    return {name: finish()[0] for name, finish in begun.items()}


def _gap(
    name: str, seen: Sequence[tuple[Score | Unscored, Score | Unscored, Score | Unscored, Score | Unscored]]
) -> Gap | None:
    known = [[s.value for s in scores if isinstance(s, Score)] for scores in seen]
    known = [values for values in known if len(values) == 4]
    if not known:
        return None
    first_reward, best_reward, first_watched, best_watched = (
        sum(values) / len(known) for values in zip(*known, strict=True)
    )
    return Gap(name, first_reward, best_reward, first_watched, best_watched, len(known))
