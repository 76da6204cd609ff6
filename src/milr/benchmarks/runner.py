"""A benchmark's run: selected tasks, a method, a reward and an evaluator fill a run folder that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from milr.benchmarks import BENCHMARKS, load_benchmark
from milr.benchmarks.base import Benchmark, Table
from milr.benchmarks.selection import select
from milr.benchmarks.tables import summarise_runs
from milr.errors import UsageError
from milr.methods import METHODS, POOLED, choose_method, load_method
from milr.methods.runner import Runner
from milr.models import MODELS, find_source, load_model, read_capabilities, reads_free_prompts
from milr.models.base import Capabilities, Model
from milr.models.devices import Placement, machine_facts
from milr.models.hub import HubAccess
from milr.registry import check_stored, find
from milr.rewards import (
    REWARDS,
    check_installed,
    check_reward,
    check_scorable,
    load_reward,
    locate_reward,
    needs_model,
)
from milr.rewards.base import Reward
from milr.rewards.icons.golden import check_scorer
from milr.rewards.spec import check_stored_name
from milr.runs import Manifest, NotScored, RunWriter, check_folder, check_resumable, read_manifest, read_run
from milr.runs.layout import MANIFEST
from milr.runs.lock import check_unheld
from milr.settings import LIMITS, Settings, make_settings
from milr.types import StepRecord, Task, Unscored

if TYPE_CHECKING:
    from milr.methods.context import Method
    from milr.rewards.vlm.client import VlmClient


MOST_UNSCORED = 8
"""Tasks in a row of which the reward scores no image; then the run stops."""


class BenchmarkSettings(BaseModel):
    """The settings of a benchmark's run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    """Name, as `milr.benchmarks.load_benchmark` takes it."""
    model: str = "embedded"
    """Name, as `milr.load_model` takes it."""
    reward: str | None = None
    """The reward that the method sees; None takes the benchmark's own scorer."""
    evaluator: str | None = None
    """The reward that gives the headline numbers; the method never sees it. None takes the scores of `reward`, which
    are biased upwards."""
    method: str | None = None
    """Name, as `milr.load_method` takes it; None is "milr", or "best-of-n" for a pool."""
    tags: tuple[str, ...] = ()
    limit: int | None = None
    shard: str | None = None
    images_per_prompt: int = Field(default=1, ge=1)
    pool: int | None = Field(default=None, ge=1)
    """Draw this many images per prompt and never stop: every best-of-n curve can be computed from such a run."""
    data: Path | None = None
    device: str = "cpu"
    dtype: str | None = None
    profile: str | None = None
    """The prompt profile; None takes the checkpoint's own."""
    settings: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of the method, by name; the model's defaults apply to the others."""


@dataclass(frozen=True)
class Parts:
    """The loaded objects of a run."""

    model: Model
    reward: Reward
    evaluator: Reward | None
    method: Method

    @property
    def scorer(self) -> Reward:
        """Return the reward that gives the headline numbers."""
        return self.evaluator or self.reward


class BenchmarkJob:
    """One benchmark's run: iterate over `run`, then ask for its `table`."""

    def __init__(self, benchmark: Benchmark, parts: Parts, writer: RunWriter) -> None:
        """Take the results of `begin` or `resume`.

        Raises:
            SelfTestFailed: Reward or evaluator fail on images with a known score; nothing is drawn.
        """
        for scorer in (parts.reward, parts.evaluator):
            if scorer is not None:
                check_scorer(scorer)
        self.benchmark, self.parts, self.writer = benchmark, parts, writer
        self._unscored = 0  # tasks in a row
        self.stopped: str | None = None
        """Reason why `run` ended before all tasks had finished, in the words of `Finished`; None if it did not."""

    @classmethod
    def begin(
        cls, settings: BenchmarkSettings, folder: Path, vlm: VlmClient | None = None, hub: HubAccess | None = None
    ) -> BenchmarkJob:
        """Begin a new run in that folder.

        Args:
            settings: Settings; errors are found before anything slow is loaded.
            folder: New or empty.
            vlm: Settings of VLM judges.
            hub: Consent to downloads from the hub; None fetches nothing.

        Raises:
            UsageError: A name, a setting or the data cannot be used.
        """
        hub = hub or HubAccess()
        benchmark, chosen, names = check_settings(settings, offline=hub.offline)
        check_folder(folder)
        placement = Placement(settings.device, settings.dtype)
        parts = _load(names, placement, vlm, hub)
        writer = RunWriter(
            folder,
            tasks=[task for _, task in chosen],
            settings=_make_settings(settings, names.method, parts.model),
            model=parts.model.name,
            reward=parts.reward.name,
            evaluator=parts.evaluator,
            vlm_usage=vlm.usage if vlm else lambda: None,
            machine=_machine(names, placement),
            benchmark=settings.benchmark,
            data=None if settings.data is None else str(settings.data),
            places=tuple(place for place, _ in chosen),
            shard=settings.shard,
            images_per_prompt=settings.images_per_prompt,
            deterministic=True,
            model_asked=settings.model,
            model_folder=parts.model.folder,
            reward_asked=names.reward,
            evaluator_asked=names.evaluator,
            device=settings.device,
            dtype=settings.dtype,
            profile=settings.profile,
        )
        return cls(benchmark, parts, writer)

    @classmethod
    def resume(
        cls, folder: Path, vlm: VlmClient | None = None, hub: HubAccess | None = None, typed: Collection[str] = ()
    ) -> BenchmarkJob:
        """Continue the run in that folder; all settings are in its manifest.

        Args:
            folder: The run's folder.
            vlm: Settings of VLM judges.
            hub: Consent to downloads from the hub; None fetches nothing.
            typed: Code (``./file.py:attribute``) that may be loaded if the run names it; a run alone loads none.

        Raises:
            UsageError: It holds no benchmark's run, one of milr 0.1, another process works on it, or a part of it is
                missing.
        """
        manifest = read_manifest(folder)
        if manifest.benchmark is None or manifest.reward_asked is None or manifest.model_asked is None:
            raise UsageError(f"{folder} holds no benchmark's run: give a folder that milr benchmark named")
        check_resumable(folder)
        check_unheld(folder, MANIFEST)
        for kind, name, table in (
            ("benchmark", manifest.benchmark, BENCHMARKS),
            ("model", manifest.model_asked, MODELS),
            ("method", manifest.method, METHODS),
        ):
            check_stored(kind, name, table, folder, typed)
        for name in filter(None, (manifest.reward_asked, manifest.evaluator_asked)):
            check_stored_name(name, REWARDS, folder, typed)
        benchmark = load_benchmark(manifest.benchmark)
        names = _Names(
            manifest.model_asked, manifest.profile, manifest.reward_asked, manifest.evaluator_asked, manifest.method
        )
        placement = Placement(manifest.device, manifest.dtype)
        parts = _load(names, placement, vlm, hub or HubAccess())
        _check_same(folder, manifest, parts)
        writer = RunWriter.resume(
            folder,
            evaluator=parts.evaluator,
            vlm_usage=vlm.usage if vlm else lambda: None,
            machine=_machine(names, placement),
        )
        return cls(benchmark, parts, writer)

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.writer.folder

    def run(self) -> Iterator[tuple[StepRecord, int, Path | None]]:
        """Draw and score the remaining images; images that could not be scored are tried again.

        A total limit of the settings ends the run cleanly, and `stopped` says so. It holds for this call: tasks that it
        cut short, or that never began, are left for `resume`, which begins them again.

        Yields:
            A record, which of the prompt's images it belongs to, and the task's folder with the task's last record. The
            record's index is the task's place in the manifest. A task that a total limit cut short has no folder.

        Raises:
            RunError: Nothing can be written any more; the finished tasks are kept.
            NotScored: Nothing is scored or evaluated any more; the same.
        """
        with self.writer as writer:
            manifest = writer.manifest
            writer.evaluate_missing()
            remaining = writer.remaining()
            totals = _Totals(manifest.settings)
            for image in range(manifest.images_per_prompt):
                indices = [index for index, its_image in remaining if its_image == image]
                allowed = totals.left()
                self.stopped = next((LIMITS[kind] for kind, left in allowed.items() if left <= 0), self.stopped)
                if indices and self.stopped is None:
                    totals_left = {f"total_{kind}": left for kind, left in allowed.items()}
                    settings = manifest.settings.change(seed=manifest.settings.run.seed + image, **totals_left)
                    yield from self._run_image(manifest, settings, indices, image, totals)
            if not writer.remaining():
                self.stopped = None

    def table(self) -> Table:
        """Return the table of all tasks that have finished, in this session and before."""
        return summarise_runs(self.benchmark, [read_run(self.folder)])

    def _run_image(
        self, manifest: Manifest, settings: Settings, indices: Sequence[int], image: int, totals: _Totals
    ) -> Iterator[tuple[StepRecord, int, Path | None]]:
        parts, tasks = self.parts, [manifest.tasks[index] for index in indices]
        with closing(Runner(parts.method, tasks, parts.model, parts.reward, settings)) as runner:
            for seen in runner:
                if seen.finished == "unscored":
                    # stored, it would count as finished for ever; left out, resuming draws it again
                    raise NotScored(f"{'; '.join(seen.notes)}; {parts.reward.name} scores nothing any more")
                record = replace(seen, index=indices[seen.index])
                totals.count(record, image)
                if runner.stopped is not None and seen.finished in LIMITS.values():
                    self.writer.write(replace(record, finished=None), image)  # unfinished, for the same reason
                    yield record, image, None
                else:
                    yield record, image, self.writer.write(record, image)
                    self._count_unscored(record)
            self.stopped = runner.stopped

    def _count_unscored(self, record: StepRecord) -> None:
        """Stop the run when the reward scored no image of several tasks in a row: it is down, whatever it says."""
        if record.finished is None:
            return
        best = record.best_score
        self._unscored = self._unscored + 1 if isinstance(best, Unscored) else 0
        if isinstance(best, Unscored) and self._unscored >= MOST_UNSCORED:
            raise NotScored(f"{self._unscored} tasks in a row could not be scored, the last one: {best.reason}")


class _Totals:
    """The remaining total limits of a run, shared by the runners of its images."""

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.run.limits("total")
        self._started = time.monotonic()
        self._spent: dict[tuple[int, int], tuple[float, int, float]] = {}  # drawings, reward calls, US dollars

    def count(self, record: StepRecord, image: int) -> None:
        self._spent[record.index, image] = record.drawings_spent, record.reward_calls, record.cost

    def left(self) -> dict[str, float]:
        """Return the limits minus the amounts spent, by the names of `LIMITS`."""
        drawings, calls, cost = (sum(spent[which] for spent in self._spent.values()) for which in range(3))
        seconds = time.monotonic() - self._started
        spent = {"drawings": drawings, "seconds": seconds, "reward_calls": calls, "cost": cost}
        return {kind: limit - spent[kind] for kind, limit in self._limits.items()}


@dataclass(frozen=True)
class _Names:
    model: str
    profile: str | None
    reward: str
    evaluator: str | None
    method: str


def check_names(settings: BenchmarkSettings) -> tuple[Benchmark, list[tuple[int, Task]], str]:
    """Check everything that does not need the model, so that a plan for a model at the hub needs no network.

    Returns:
        The benchmark, the chosen tasks with their places, and the method's name.

    Raises:
        UsageError: A name or setting is unknown, or two do not go together.
    """
    benchmark = load_benchmark(settings.benchmark)
    method = choose_method(settings.method, settings.pool)
    find("method", method, METHODS)
    if settings.pool is not None:
        if method not in POOLED:
            raise UsageError(f"--pool draws by {' or '.join(POOLED)}, not by {method!r}: leave one of both out")
        for name in ("steps", "stop_at"):
            if name in settings.settings:
                flag = name.replace("_", "-")
                raise UsageError(f"--pool {settings.pool} says itself how many are drawn: leave --{flag} out")
    make_settings(method, settings.settings)
    for name in (settings.reward, settings.evaluator):
        if name is not None:
            check_reward(name)
    chosen = select(
        benchmark, benchmark.read(settings.data), tags=settings.tags, limit=settings.limit, shard=settings.shard
    )
    return benchmark, chosen, method


def check_settings(
    settings: BenchmarkSettings, *, offline: bool = False
) -> tuple[Benchmark, list[tuple[int, Task]], _Names]:
    """Check everything that does not need the model's weights, including its config.

    Returns:
        The benchmark, the chosen tasks with their places, and all names.

    Raises:
        UsageError: As `check_names`; there is no such model, or it and the prompts or a reward do not go together.
    """
    benchmark, chosen, method = check_names(settings)
    source = find_source(settings.model, weights=False, offline=offline)
    if not benchmark.in_icon_world and not reads_free_prompts(source):
        raise UsageError(
            f"{settings.model} reads prompts of the icon world only, not those of {benchmark.name}: type milr "
            "benchmark icons, or give --model the folder of a model that reads any text"
        )
    capabilities = read_capabilities(source, settings.profile)
    reward, tasks = settings.reward or _own_reward(benchmark, capabilities), [task for _, task in chosen]
    check_scorable(reward, tasks, capabilities)
    if settings.evaluator is not None:
        check_scorable(settings.evaluator, tasks, capabilities, "--evaluator")
    return benchmark, chosen, _Names(settings.model, settings.profile, reward, settings.evaluator, method)


def _make_settings(settings: BenchmarkSettings, method: str, model: Model) -> Settings:
    """Return the method's settings: the model's defaults, then those given, then those of a pool."""
    given = dict(settings.settings)
    if settings.pool is not None:
        given |= {"steps": settings.pool - 1, "stop_at": 1.0}  # the stop value is strict: no reward is above 1
    return model.settings(method, **given)


def _own_reward(benchmark: Benchmark, capabilities: Capabilities) -> str:
    """Return the benchmark's own scorer, or the icon world's for a model that draws icons."""
    in_icons = benchmark.in_icon_world and capabilities.image_language == "icons"
    return "icons" if in_icons else benchmark.reward


def _load(names: _Names, placement: Placement, vlm: VlmClient | None, hub: HubAccess) -> Parts:
    check_installed(names.reward, names.evaluator)
    # a missing key, server or scorer is found before the model is loaded, if the scorer does not need it
    early = {
        name: load_reward(name, vlm=vlm, placement=placement)
        for name in (names.reward, names.evaluator)
        if name and not needs_model(name)
    }
    # batches of fixed shape: a resumed run gives the same images as an uninterrupted one
    model = load_model(
        names.model,
        device=placement.device,
        dtype=placement.dtype,
        profile=names.profile,
        offline=hub.offline,
        confirm=hub.confirm,
        deterministic=True,
    )

    def scorer(name: str) -> Reward:
        return early.get(name) or load_reward(name, model=model, vlm=vlm, placement=placement)

    evaluator = None if names.evaluator is None else scorer(names.evaluator)
    return Parts(model, scorer(names.reward), evaluator, load_method(names.method))


def _check_same(folder: Path, manifest: Manifest, parts: Parts) -> None:
    evaluator = None if parts.evaluator is None else parts.evaluator.name
    for what, was, now in (
        ("model", manifest.model, parts.model.name),
        ("reward", manifest.reward, parts.reward.name),
        ("evaluator", manifest.evaluator, evaluator),
    ):
        if was != now:
            raise UsageError(f"{folder} was made with the {what} {was}, and here is {now}: begin a new run")


def _machine(names: _Names, placement: Placement) -> dict[str, str | int]:
    places = {"reward_device": locate_reward(names.reward, placement)}
    if names.evaluator is not None:
        places["evaluator_device"] = locate_reward(names.evaluator, placement)
    return machine_facts(placement, places)
