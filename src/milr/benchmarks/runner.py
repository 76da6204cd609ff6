"""A benchmark's run: chosen tasks, a method, a reward, a judge, into a run folder that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from milr.benchmarks import load_benchmark
from milr.benchmarks.base import Benchmark, Table
from milr.benchmarks.selection import select
from milr.benchmarks.tables import summarise_runs
from milr.config import SearchConfig
from milr.errors import UsageError
from milr.methods import METHODS, POOLED, load_method
from milr.models import load_model
from milr.models.base import Model
from milr.models.hub import HubAccess
from milr.registry import find
from milr.rewards import check_reward, load_reward, needs_model
from milr.rewards.base import Reward
from milr.rewards.icons.golden import check_scorer
from milr.runs import Manifest, RunError, RunWriter, check_folder, read_manifest, read_run
from milr.runs.layout import MANIFEST
from milr.runs.lock import check_unheld
from milr.types import StepRecord, Task

if TYPE_CHECKING:
    from milr.methods import Method
    from milr.rewards.vlm.client import VlmClient


class BenchmarkSettings(BaseModel):
    """What a benchmark's run is asked to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    """A name of `milr.benchmarks.BENCHMARKS`."""
    model: str = "embedded"
    """A name or a folder."""
    reward: str | None = None
    """What the method sees; None takes the benchmark's own scorer."""
    judge: str | None = None
    """What gives the headline numbers; the method never sees it. None lets the reward do it, which flatters."""
    method: str | None = None
    """A name of `milr.methods.METHODS`; None is "milr", and "best-of-n" for a pool."""
    tags: tuple[str, ...] = ()
    limit: int | None = None
    shard: str | None = None
    images_per_prompt: int = Field(default=1, ge=1)
    pool: int | None = Field(default=None, ge=1)
    """Draw that many pictures a prompt and never stop: every best-of-n curve can be cut from such a run."""
    data: Path | None = None
    device: str = "cpu"
    dtype: str | None = None
    profile: str | None = None
    """How the model is spoken to; None takes its checkpoint's own."""
    search: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Fields of `SearchConfig`; what is not given is the model's own."""


@dataclass(frozen=True)
class Parts:
    """Everything that a run needs loaded."""

    model: Model
    reward: Reward
    judge: Reward | None
    method: Method

    @property
    def scorer(self) -> Reward:
        """What gives the headline numbers."""
        return self.judge or self.reward


class BenchmarkJob:
    """One benchmark's run; iterate over `run`, then ask for its `table`."""

    def __init__(self, benchmark: Benchmark, parts: Parts, writer: RunWriter) -> None:
        """Take what `begin` or `resume` have made.

        Raises:
            SelfTestFailed: Reward or judge fail on pictures whose verdict is known: nothing is drawn for them.
        """
        for scorer in (parts.reward, parts.judge):
            if scorer is not None:
                check_scorer(scorer)
        self.benchmark, self.parts, self.writer = benchmark, parts, writer

    @classmethod
    def begin(
        cls, settings: BenchmarkSettings, folder: Path, judges: VlmClient | None = None, hub: HubAccess | None = None
    ) -> BenchmarkJob:
        """A new run in that folder.

        Args:
            settings: Whatever can be refused is refused before anything slow is loaded.
            folder: New or empty.
            judges: How judges behind an API are asked.
            hub: Whether the model may be fetched; None fetches nothing.

        Raises:
            UsageError: A name, a setting or the data cannot be taken.
        """
        benchmark, chosen, names = check_settings(settings)
        check_folder(folder)
        parts = _load(names, settings.device, settings.dtype, judges, hub or HubAccess())
        _check_language(benchmark, parts.model)
        config = make_search_config(settings, parts.model.search_defaults)
        writer = RunWriter(
            folder,
            tasks=[task for _, task in chosen],
            config=config,
            model=parts.model.name,
            reward=parts.reward.name,
            judge=parts.judge,
            judges=judges.spending if judges else lambda: None,
            machine=_machine(settings.device),
            method=names.method,
            benchmark=benchmark.name,
            data=None if settings.data is None else str(settings.data),
            places=tuple(place for place, _ in chosen),
            shard=settings.shard,
            images_per_prompt=settings.images_per_prompt,
            deterministic=True,
            model_asked=settings.model,
            model_folder=parts.model.folder,
            reward_asked=names.reward,
            judge_asked=names.judge,
            device=settings.device,
            dtype=settings.dtype,
            profile=settings.profile,
        )
        return cls(benchmark, parts, writer)

    @classmethod
    def resume(cls, folder: Path, judges: VlmClient | None = None, hub: HubAccess | None = None) -> BenchmarkJob:
        """The run in that folder, to be gone on with: all settings stand in its manifest.

        Raises:
            UsageError: It holds no benchmark's run, another process works on it, or what it was made with is not here.
        """
        manifest = read_manifest(folder)
        if manifest.benchmark is None or manifest.reward_asked is None or manifest.model_asked is None:
            raise UsageError(f"{folder} holds no benchmark's run: give a folder that milr benchmark named")
        check_unheld(folder, MANIFEST)
        benchmark = load_benchmark(manifest.benchmark)
        names = _Names(
            manifest.model_asked, manifest.profile, manifest.reward_asked, manifest.judge_asked, manifest.method
        )
        parts = _load(names, manifest.device, manifest.dtype, judges, hub or HubAccess())
        _check_same(folder, manifest, parts)
        writer = RunWriter.resume(
            folder,
            judge=parts.judge,
            judges=judges.spending if judges else lambda: None,
            machine=_machine(manifest.device),
        )
        return cls(benchmark, parts, writer)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.writer.folder

    def run(self) -> Iterator[tuple[StepRecord, int, Path | None]]:
        """Do what is left to do, image by image.

        Yields:
            A record, which of the prompt's images it belongs to, and the task's folder with the task's last record. The
            record's index is the task's place in the manifest.

        Raises:
            RunError: Nothing can be written, scored or judged any more; the finished tasks are kept.
        """
        with self.writer as writer:
            manifest = writer.manifest
            left = writer.remaining()
            for image in range(manifest.images_per_prompt):
                indices = [index for index, its_image in left if its_image == image]
                if indices:
                    yield from self._run_image(manifest, indices, image)

    def table(self) -> Table:
        """The table of all tasks that have finished, in this session and before."""
        return summarise_runs(self.benchmark, [read_run(self.folder)])

    def _run_image(
        self, manifest: Manifest, indices: list[int], image: int
    ) -> Iterator[tuple[StepRecord, int, Path | None]]:
        config = manifest.config.model_copy(update={"seed": manifest.config.seed + image})
        tasks = [manifest.tasks[index] for index in indices]
        for seen in self.parts.method(tasks, self.parts.model, self.parts.reward, config):
            if seen.finished == "unscored":
                # CachedPrefix, it would stand there as finished for ever; left out, resuming draws it again.
                raise RunError(f"{'; '.join(seen.notes)}; {self.parts.reward.name} scores nothing any more")
            record = replace(seen, index=indices[seen.index])
            yield record, image, self.writer.write(record, image)


@dataclass(frozen=True)
class _Names:
    model: str
    profile: str | None
    reward: str
    judge: str | None
    method: str


def check_settings(settings: BenchmarkSettings) -> tuple[Benchmark, list[tuple[int, Task]], _Names]:
    """What can be told without loading a model: the benchmark, the chosen tasks with their places, all names.

    Raises:
        UsageError: Something is not known, or does not go together.
    """
    benchmark = load_benchmark(settings.benchmark)
    method = settings.method or ("best-of-n" if settings.pool else "milr")
    find("method", method, METHODS)
    if settings.pool is not None:
        if method not in POOLED:
            raise UsageError(f"--pool draws by {' or '.join(POOLED)}, not by {method!r}: leave one of both out")
        for name in ("steps", "stop_at"):
            if name in settings.search:
                flag = name.replace("_", "-")
                raise UsageError(f"--pool {settings.pool} says itself how many are drawn: leave --{flag} out")
    reward = settings.reward or _own_reward(benchmark, settings.model)
    for name in (reward, settings.judge):
        if name is not None:
            check_reward(name)
    chosen = select(
        benchmark, benchmark.read(settings.data), tags=settings.tags, limit=settings.limit, shard=settings.shard
    )
    return benchmark, chosen, _Names(settings.model, settings.profile, reward, settings.judge, method)


def make_search_config(settings: BenchmarkSettings, defaults: Mapping[str, object]) -> SearchConfig:
    """The search's settings: the model's own, then those given, then what a pool asks for."""
    values = {**defaults, **settings.search}
    if settings.pool is not None:
        values |= {"steps": settings.pool - 1, "stop_at": 1.0}  # the stop is strict: no reward is above 1
    return SearchConfig.model_validate(values)


def _own_reward(benchmark: Benchmark, model: str) -> str:
    return "icons" if benchmark.in_icon_world and model == "embedded" else benchmark.reward


def _check_language(benchmark: Benchmark, model: Model) -> None:
    if not benchmark.in_icon_world and not model.reads_free_prompts:
        raise UsageError(
            f"{model.name} reads prompts of the icon world only, not those of {benchmark.name}: type milr benchmark "
            "icons, or give --model the folder of a model that reads any text"
        )


def _load(names: _Names, device: str, dtype: str | None, judges: VlmClient | None, hub: HubAccess) -> Parts:
    # A missing key, server or scorer is found before the model is loaded, where the scorer can do without it.
    early = {
        name: load_reward(name, judges=judges) for name in (names.reward, names.judge) if name and not needs_model(name)
    }
    # Batches of fixed shape: what a kill left over gives the same pictures as if it had not been left over.
    model = load_model(
        names.model,
        device=device,
        dtype=dtype,
        profile=names.profile,
        offline=hub.offline,
        confirm=hub.confirm,
        deterministic=True,
    )

    def scorer(name: str) -> Reward:
        return early.get(name) or load_reward(name, model=model, judges=judges)

    judge = None if names.judge is None else scorer(names.judge)
    return Parts(model, scorer(names.reward), judge, load_method(names.method))


def _check_same(folder: Path, manifest: Manifest, parts: Parts) -> None:
    judge = None if parts.judge is None else parts.judge.name
    for what, was, now in (
        ("model", manifest.model, parts.model.name),
        ("reward", manifest.reward, parts.reward.name),
        ("judge", manifest.judge, judge),
    ):
        if was != now:
            raise UsageError(f"{folder} was made with the {what} {was}, and here is {now}: begin a new run")


def _machine(device: str) -> dict[str, str | int]:
    import torch

    facts: dict[str, str | int] = {"threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda") and torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts
