"""A benchmark's run: selected tasks, a method, a reward and an evaluator fill a run folder that can be resumed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from milr.benchmarks import BENCHMARKS, load_benchmark
from milr.benchmarks.base import Benchmark, Table
from milr.benchmarks.selection import select
from milr.benchmarks.tables import summarise_runs
from milr.errors import UsageError
from milr.jobs import Job, begin_run, read_names, resume_run
from milr.methods import METHODS, POOLED, choose_method
from milr.methods.needs import check_able
from milr.models import find_source, read_capabilities, reads_free_prompts
from milr.models.base import Capabilities, Model
from milr.models.devices import Placement
from milr.models.hub import HubAccess
from milr.parts import Names, Parts
from milr.registry import check_stored, find
from milr.rewards import (
    check_reward,
    check_scorable,
)
from milr.runs import RunWriter, check_folder, read_manifest, read_run, say_resume
from milr.settings import Settings, make_settings
from milr.types import Task
from milr.workers import RewardChoice, WorkerChoice, load_chosen

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient


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
    graphs: bool = True
    """Option of `milr.load_model`; no result depends on it."""
    settings: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of the method, by name; the model's defaults apply to the others."""


class BenchmarkJob(Job):
    """One benchmark's run: iterate over `run`, then ask for its `table`."""

    def __init__(self, benchmark: Benchmark, parts: Parts, writer: RunWriter) -> None:
        """Take the results of `begin` or `resume`."""
        super().__init__(parts, writer, keeps_cut=False)
        self.benchmark = benchmark

    @classmethod
    def begin(
        cls,
        settings: BenchmarkSettings,
        folder: Path,
        vlm: VlmClient | None = None,
        hub: HubAccess | None = None,
        workers: WorkerChoice | None = None,
        rewards: RewardChoice | None = None,
    ) -> BenchmarkJob:
        """Begin a new run in that folder.

        Args:
            settings: Settings; errors are found before anything slow is loaded.
            folder: New or empty.
            vlm: Settings of VLM judges.
            hub: Consent to downloads from the hub; None fetches nothing.
            workers: Workers that draw and score; None does it in this process.
            rewards: Servers of the reward, started for the run; None scores where the images are drawn.

        Raises:
            UsageError: A name, a setting or the data cannot be used.
            SelfTestFailed: Reward or evaluator fail on images with a known score; nothing is drawn.
        """
        hub = hub or HubAccess()
        benchmark, chosen, names = check_settings(settings, offline=hub.offline)
        check_folder(folder)
        placement = Placement(settings.device, settings.dtype, settings.graphs)
        parts = load_chosen(workers, names, placement, vlm, hub, rewards=rewards, settings=settings.settings)
        writer = begin_run(
            folder,
            [task for _, task in chosen],
            _make_settings(settings, names.method, parts.model),
            parts,
            names,
            placement,
            vlm,
            benchmark=settings.benchmark,
            data=None if settings.data is None else str(settings.data),
            places=tuple(place for place, _ in chosen),
            shard=settings.shard,
            images_per_prompt=settings.images_per_prompt,
            deterministic=True,
        )
        return cls(benchmark, parts, writer)

    @classmethod
    def resume(
        cls,
        folder: Path,
        vlm: VlmClient | None = None,
        hub: HubAccess | None = None,
        typed: Collection[str] = (),
        graphs: bool = True,
        workers: WorkerChoice | None = None,
        rewards: RewardChoice | None = None,
    ) -> BenchmarkJob:
        """Continue the run in that folder; all settings are in its manifest.

        Args:
            folder: The run's folder.
            vlm: Settings of VLM judges.
            hub: Consent to downloads from the hub; None fetches nothing.
            typed: Code (``./file.py:attribute``) that may be loaded if the run names it; a run alone loads none.
            graphs: As in `milr.load_model`; no result depends on it.
            workers: As in `begin`; the run may have been begun with others, or none.
            rewards: The same.

        Raises:
            UsageError: It holds no benchmark's run, one of milr 0.1, another process works on it, or a part of it is
                missing.
        """
        if read_manifest(folder).benchmark is None:
            raise UsageError(f"{folder} holds no benchmark's run: type {say_resume(folder, benchmark=False)}")
        manifest, names = read_names(folder, typed)
        assert manifest.benchmark is not None
        check_stored("benchmark", manifest.benchmark, BENCHMARKS, folder, typed)
        benchmark = load_benchmark(manifest.benchmark)
        placement = Placement(manifest.device, manifest.dtype, graphs)
        given = manifest.settings.flat
        parts = load_chosen(workers, names, placement, vlm, hub, rewards=rewards, settings=given)
        return cls(benchmark, parts, resume_run(folder, manifest, parts, names, vlm))

    def table(self) -> Table:
        """Return the table of all tasks that have finished, in this session and before."""
        return summarise_runs(self.benchmark, [read_run(self.folder)])


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
    headline = settings.evaluator or settings.reward
    if headline is not None:
        benchmark.check_scorer(headline, "--evaluator" if settings.evaluator else "--reward")
    chosen = select(
        benchmark, benchmark.read(settings.data), tags=settings.tags, limit=settings.limit, shard=settings.shard
    )
    return benchmark, chosen, method


def check_settings(
    settings: BenchmarkSettings, *, offline: bool = False
) -> tuple[Benchmark, list[tuple[int, Task]], Names]:
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
    check_able(method, settings.settings, capabilities)
    reward, tasks = settings.reward or _own_reward(benchmark, capabilities), [task for _, task in chosen]
    check_scorable(reward, tasks, capabilities)
    if settings.evaluator is not None:
        check_scorable(settings.evaluator, tasks, capabilities, "--evaluator")
    return benchmark, chosen, Names(settings.model, reward, method, settings.profile, settings.evaluator)


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
