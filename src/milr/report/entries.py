"""Entries of a comparison: runs with the same settings, over seeds and shards, as arrays.

The unit is a search: one task under one seed. An entry keeps for each image the spending so far and the scores of
reward and evaluator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np

from milr.errors import UsageError
from milr.methods import POOLED
from milr.models import MODELS, embedded_folder
from milr.report.statistics import Floats, answers, expected_best
from milr.runs import Manifest, Run, TaskRun, read_run
from milr.settings import Settings, all_fields
from milr.types import Score, Unscored

PLACES = ("seed", "batch_size", "total_drawings", "total_seconds", "total_reward_calls", "total_cost")
"""Settings that do not distinguish entries: the sample, the batch size, limits of the whole run."""
_WHAT = ("benchmark", "model", "reward", "evaluator", "dtype")
"""Fields of the manifest that distinguish entries beside method and settings."""


@dataclass(frozen=True)
class Outcomes:
    """Searches as rows of arrays; beyond a row's end `spent` is inf and the scores are NaN."""

    prompts: tuple[str, ...]
    """(T,) the tasks' keys."""
    tags: tuple[str, ...]
    """(T,) the tasks' tags; "" for none."""
    seeds: tuple[int, ...]
    """(T,)"""
    met: tuple[bool, ...]
    """(T,) true if the reward passed the stop value: such a search would not continue."""
    spent: Floats
    """(T, N) drawings spent when each image was made; fractions if a method paid for partial images."""
    step: Floats
    """(T, N) the step of the image; inf beyond the row's end."""
    reward: Floats
    """(T, N) in [0, 1]."""
    rank: Floats
    """(T, N) the bests of a search in the order in which its records name them, from 1; 0 for all other images."""
    evaluator: Floats
    """(T, N) in [0, 1]; the reward's own if the run had no evaluator."""

    @property
    def last_spent(self) -> Floats:
        """Return (T,): drawings of each search."""
        return np.where(np.isfinite(self.spent), self.spent, 0.0).max(axis=1)

    @property
    def limit(self) -> float:
        """Return the budget up to which answers are known: the spending of searches that were not met; inf if all were.

        It is rounded up: a search that ends with a fraction of a drawing left could not afford another one.
        """
        open_ended = [float(spent) for spent, met in zip(self.last_spent, self.met, strict=True) if not met]
        return float(np.ceil(max(open_ended) - 1e-9)) if open_ended else np.inf


@dataclass(frozen=True)
class Entry:
    """Runs that differ only in seed or shard."""

    label: str
    """The method, and the settings that distinguish the entry from others in a list."""
    runs: tuple[Run, ...]
    outcomes: Outcomes = field(repr=False)

    @property
    def manifest(self) -> Manifest:
        """Return the first run's manifest."""
        return self.runs[0].manifest

    @property
    def settings(self) -> Settings:
        """Return the first run's settings."""
        return self.manifest.settings

    @property
    def embedded(self) -> bool:
        """Return true if the embedded model drew: a small model, whose numbers do not represent any other."""
        asked, folder = self.manifest.model_asked, self.manifest.model_folder
        # a run may come from another installation: the folder's place in the package counts, not its whole path
        own = [name for name, entry in MODELS.items() if entry.is_checkpoint]
        places = {embedded_folder(name).parts[-3:] for name in own}
        return asked in own or (folder is not None and Path(folder).parts[-3:] in places)

    @property
    def evaluated(self) -> bool:
        """Return true if an evaluator that the method never saw gave the headline numbers, in all runs."""
        return all(run.manifest.evaluator is not None for run in self.runs)

    @cached_property
    def pooled(self) -> bool:
        """Return true for a pool of independent drawings without early stops, which gives every best of n."""
        spent = self.outcomes.spent
        counts = np.arange(1.0, spent.shape[1] + 1)
        return self.manifest.method in POOLED and len(counts) > 1 and bool((spent == counts).all())

    def answers(self, budgets: Sequence[float]) -> Floats:
        """Return (T, B): the evaluator's score of each search's answer after each budget; NaN if unknown.

        For a pool it is the mean over all subsets of that many drawings (`expected_best`).
        """
        outcomes = self.outcomes
        if self.pooled:
            many = outcomes.spent.shape[1]
            return expected_best(
                outcomes.reward, outcomes.evaluator, [many if np.isinf(b) else int(b) for b in budgets]
            )
        found = answers(outcomes.spent, outcomes.rank, outcomes.evaluator, budgets)
        known = [np.isinf(budget) or budget <= outcomes.limit for budget in budgets]
        return np.where(known, found, np.nan)

    @property
    def drawings(self) -> float:
        """Return the mean number of drawings per search."""
        return _mean(task.last.drawings_spent for task in self._tasks)

    @property
    def tokens(self) -> float:
        """Return the mean number of sampled tokens per search."""
        return _mean(task.last.tokens_spent for task in self._tasks)

    @property
    def reward_calls(self) -> float:
        """Return the mean number of images scored by the reward per search."""
        return _mean(task.last.reward_calls for task in self._tasks)

    @property
    def seconds(self) -> float:
        """Return the wall time per drawing without the evaluator's: all runs' time over all their drawings."""
        drawings = sum(run.manifest.drawings for run in self.runs)
        seconds = sum(run.manifest.seconds - run.manifest.evaluator_seconds for run in self.runs)
        return seconds / drawings if drawings else float("nan")

    @property
    def _tasks(self) -> list[TaskRun]:
        return [task for run in self.runs for task in run.tasks]


def read_entries(folders: Iterable[Path | str]) -> list[Entry]:
    """Read runs and join those that differ only in seed or shard, in the order of their first run.

    Raises:
        UsageError: A folder holds no run, a run has no finished task, or a search is there twice.
    """
    return make_entries([read_run(folder) for folder in folders])


def make_entries(runs: Sequence[Run]) -> list[Entry]:
    """Join runs that have been read, as `read_entries` does."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.tasks:
            raise UsageError(f"{run.folder} has no finished task yet: wait, or resume it with milr benchmark --resume")
        groups.setdefault(json.dumps(settings_of(run.manifest), sort_keys=True), []).append(run)
    labels = _label([settings_of(group[0].manifest) for group in groups.values()])
    return [
        Entry(label, tuple(group), _read_outcomes(group)) for label, group in zip(labels, groups.values(), strict=True)
    ]


def name_prompts(manifest: Manifest) -> str:
    """Return the benchmark's name; the user's own prompts are named by their content, in any order."""
    if manifest.benchmark is not None:
        return manifest.benchmark
    prompts = {task.key: task.shown for task in manifest.tasks}
    first = prompts[min(prompts)] if prompts else "none"
    if len(prompts) < 2:
        return f"own prompts: {first}"
    digest = blake2b("".join(sorted(prompts)).encode(), digest_size=3).hexdigest()
    return f"own prompts: {first} and {len(prompts) - 1} more ({digest})"


def settings_of(manifest: Manifest) -> dict[str, object]:
    """Return the fields that distinguish entries: method, benchmark, model, reward, evaluator and settings."""
    what: dict[str, object] = {"method": manifest.method, **{name: getattr(manifest, name) for name in _WHAT}}
    return what | {name: value for name, value in manifest.settings.flat.items() if name not in PLACES}


def _label(entries: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the method of each entry, and its settings that differ from those of most entries of that method.

    If two models have equally many entries, every entry names its model.
    """
    labels: list[str] = []
    models = Counter(json.dumps(entry.get("model")) for entry in entries)
    no_usual = {"model"} if len(models) > 1 and len({*models.values()}) == 1 else set[str]()
    for entry in entries:
        alike = [other for other in entries if other["method"] == entry["method"]]
        parts = [str(entry["method"])]
        for name, value in entry.items():
            if name in no_usual or json.dumps(value) != _usual(
                name, [other.get(name) for other in (entries if name in _WHAT else alike)]
            ):
                shown = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
                parts.append(f"{name.replace('_', ' ')} {shown}")
        labels.append(", ".join(parts))
    return labels


def _usual(name: str, values: Sequence[object]) -> str:
    """Return the most common value, as JSON; on a tie the paper's default, or else the first."""
    counts = Counter(json.dumps(value) for value in values)
    most = [value for value, times in counts.items() if times == max(counts.values())]
    field = all_fields().get(name)
    default = None if field is None else json.dumps(field.default)
    return default if default is not None and default in most else most[0]


def _rank_bests(task: TaskRun) -> list[float]:
    """Return each image's place among the images that were the best so far, from 1; 0 for all others.

    Of equal rewards the search chose, by a rule that its records do not have: the best image that they name is taken.
    """
    images = task.images
    rank, best, most, column = [0.0] * len(images), "", -1.0, 0
    for step in task.steps:
        begin = column
        for shown in step.images:
            value = value_of(images[column].reward)
            if value > most or column == 0:
                best, most = shown.file, max(value, most)
                rank[column] = max(rank) + 1
            column += 1
        named = next((i for i in range(begin, column) if images[i].image.file == step.best.file), None)
        if named is not None and step.best.file != best:
            best, rank[named] = step.best.file, max(rank) + 1
    return rank


def _read_outcomes(runs: Sequence[Run]) -> Outcomes:
    rows = [(run.manifest.settings.run.seed + task.image, run, task) for run in runs for task in run.tasks]
    seen = Counter((task.task.key, seed, task.index) for seed, _, task in rows)
    for (key, seed, index), times in seen.items():
        if times > 1:
            same = [(run, task) for own, run, task in rows if (task.task.key, own, task.index) == (key, seed, index)]
            folders = " and ".join(str(run.folder) for run, _ in same)
            raise UsageError(f"{same[0][1].task.shown!r} under seed {seed} is in {folders}: leave one of the runs out")
    images = [task.images for _, _, task in rows]
    shape = len(rows), max(map(len, images))
    spent, step = np.full(shape, np.inf), np.full(shape, np.inf)
    reward, rank, evaluator = np.full(shape, np.nan), np.zeros(shape), np.full(shape, np.nan)
    for row, (_, _, task) in enumerate(rows):
        place, before = 0, 0.0
        for taken in task.steps:
            many = len(taken.images)
            paid = before + (taken.drawings_spent - before) * np.arange(1, many + 1) / max(many, 1)
            spent[row, place : place + many], step[row, place : place + many] = paid, taken.step
            place, before = place + many, float(taken.drawings_spent)
        rank[row, : len(images[row])] = _rank_bests(task)
        for column, image in enumerate(images[row]):
            reward[row, column] = value_of(image.reward)
            evaluator[row, column] = value_of(image.reward if image.evaluator is None else image.evaluator)
    return Outcomes(
        prompts=tuple(task.task.key for _, _, task in rows),
        tags=tuple(task.task.tag or "" for _, _, task in rows),
        seeds=tuple(seed for seed, _, _ in rows),
        met=tuple(task.last.finished == "met" for _, _, task in rows),
        spent=spent,
        step=step,
        reward=reward,
        rank=rank,
        evaluator=evaluator,
    )


def value_of(score: Score | Unscored) -> float:
    """Return the score's value; NaN if unscored."""
    return score.value if isinstance(score, Score) else float("nan")


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))
