"""Sweeps: a recipe names runs that belong together; here they are planned, made and resumed.

A recipe is a TOML file of at most fifteen lines in the folder `recipes` beside this module, or anywhere. It states
hardware, duration and the expected score; values that were not measured say so.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.benchmarks import BENCHMARKS
from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings, check_names, check_settings
from milr.errors import UsageError, say_reason, unknown_name
from milr.files import LOCK, hold, write_text
from milr.methods import METHODS, POOLED
from milr.methods.latents import count_latents
from milr.models import MODELS, find_source
from milr.models.base import Description
from milr.registry import check_stored, is_named
from milr.report.controls import without_gradient
from milr.rewards import REWARDS
from milr.rewards.spec import check_stored_name
from milr.runs import read_manifest
from milr.runs.layout import MANIFEST
from milr.settings import (
    STRATEGIES,
    RunSettings,
    SamplingParams,
    StepSettings,
    all_fields,
    find_settings,
    make_settings,
)
from milr.untrusted import first_fault

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient
    from milr.workers import WorkerChoice

UNMEASURED = "not measured yet"
PLAN = "plan.json"
EVERY = "*"
"""Name that stands for every method, as the method of a run."""
_FOLDER = Path(__file__).parent / "recipes"

Values = Mapping[str, Any]
"""Fields of `BenchmarkSettings` and settings of methods side by side, and `image_latents`: a number, or "all".

A `pool` of 0 means no pool, even if a pool is given for all runs.
"""


class Recipe(BaseModel):
    """The contents of a recipe file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    benchmark: str = "icons"
    hardware: str
    """Hardware for which it is meant."""
    duration: str = UNMEASURED
    expected: str = UNMEASURED
    """Score with interval, and the run that gave it."""
    settings: dict[str, Any] = {}
    """Settings of all runs; a run whose method does not read one ignores it."""
    controls: bool = False
    """Add a zero-gradient control to every search over latents, unless another run of the sweep is one."""
    seeds: int = Field(default=1, ge=1)
    """Number of seeds, counted from the first."""
    then: tuple[str, ...] = ()
    """Recipes whose runs follow, on this recipe's benchmark; their settings override this one's."""
    runs: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Changes of each run; the first run is the baseline. A setting that the run's method does not read is an error."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    """Name of its folder."""
    settings: BenchmarkSettings


MakeRun = Callable[[BenchmarkSettings, Path], None]
"""A function that makes a run in that folder, or resumes the one in it."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with milr."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """Return a recipe by name, or from a file.

    Raises:
        UsageError: There is no such recipe, or the file is not one.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise unknown_name("recipe", name, recipe_names())
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error}): see milr ablate --help") from None
    except ValidationError as error:
        fields = ", ".join(Recipe.model_fields)
        raise UsageError(f"{path}: {first_fault(error)}; a recipe has {fields}") from None


def plan_runs(
    recipe: Recipe, given: Values | None = None, *, controls: bool | None = None, seeds: int | None = None
) -> list[PlannedRun]:
    """Return the runs of a sweep, the baseline first; only the model's config is loaded.

    All runs come under the first seed before any comes under the next.

    Args:
        recipe: The recipe; the recipes that it names follow it, seed by seed.
        given: The user's settings of all runs; they override the recipe's settings, but not the changes of a run.
        controls: If true, add zero-gradient controls; None leaves it to the recipe.
        seeds: Number of seeds of the recipe's own runs, and the most of runs of recipes that it names; None leaves it
            to the recipes.

    Raises:
        UsageError: An unknown setting, or one that a run changes and its method does not read.
    """
    given = given or {}
    typed = {value for value in given.values() if isinstance(value, str)}
    own = {"benchmark": recipe.benchmark, **recipe.settings, **given}
    parts: list[tuple[Recipe, Values, Values, int]] = [(recipe, own, {}, seeds or recipe.seeds)]
    for one in map(read_recipe, recipe.then):
        common = {**own, **one.settings, **given}
        told = {k: common[k] for k in one.settings if common[k] != own.get(k) or k not in recipe.settings}
        parts.append((one, common, told, min(one.seeds, seeds or one.seeds)))
    planned: dict[str, PlannedRun] = {}
    describe = cache(_describe)  # counting a model's parameters takes about a second
    for number in range(max(many for *_, many in parts)):
        for part, common, told, _ in (part for part in parts if number < part[-1]):
            later: Values = {"seed": int(common.get("seed", 0)) + number} if number else {}
            for change, is_control in _changes(part, common, part.controls if controls is None else controls):
                name = _name({**_read_by(told, common, change), **change, **later})
                run = PlannedRun(name, _settings({**_read_by(common, common, change), **change, **later}, describe))
                for kind, told_name, table in (
                    ("benchmark", run.settings.benchmark, BENCHMARKS),
                    ("model", run.settings.model, MODELS),
                    ("method", run.settings.method, METHODS),
                ):
                    if told_name is not None:
                        check_stored(kind, told_name, table, recipe.title, typed)
                for reward in filter(None, (run.settings.reward, run.settings.evaluator)):
                    check_stored_name(reward, REWARDS, recipe.title, typed)
                is_here = run.settings.model in MODELS or Path(run.settings.model).exists()
                (check_settings if is_here else check_names)(run.settings)
                if any(_same(run.settings, other.settings, as_controls=is_control) for other in planned.values()):
                    continue
                if run.name in planned:
                    raise UsageError(f"{recipe.title}: two runs would be called {run.name}: leave one of them out")
                planned[run.name] = run
    return list(planned.values())


def _changes(recipe: Recipe, common: Values, controls: bool) -> Iterator[tuple[Values, bool]]:
    """Yield the changes of each run, and whether it is an added control."""
    for change in recipe.runs:
        for one in _every_method(change, common):
            yield one, False
            for control in _control({**common, **one}, one) if controls else ():
                yield control, True


def _read_by(values: Values, common: Values, change: Values) -> Values:
    """Return the values that the method of a run reads, and all values that are not settings of methods."""
    run = {**common, **change}
    method, strategy = str(run.get("method") or "milr"), STRATEGIES.get(str(run.get("strategy", "joint")))
    known = all_fields()
    if not is_named("method", method, METHODS) or strategy is None:
        return values  # an unknown name is refused with its nearest match when the settings are checked
    kinds = (find_settings(method), SamplingParams, RunSettings)
    read = {name for kind in kinds for name in kind.model_fields}
    read -= {f"{modality}_ratio" for modality in {"text", "image"}.difference(strategy.latents)}
    read |= {"image_latents"} if "image_ratio" in read else set()
    return {name: value for name, value in values.items() if name in read or name not in (*known, "image_latents")}


def _same(one: BenchmarkSettings, other: BenchmarkSettings, *, as_controls: bool) -> bool:
    """Return true if two runs are the same; for controls also if they draw the same with a zero gradient."""
    one, other = (run.model_copy(update={"method": run.method or "milr"}) for run in (one, other))
    if not as_controls or one.model not in MODELS:
        return one == other
    plain = [run.model_copy(update={"settings": without_gradient(run.settings)}) for run in (one, other)]
    return plain[0] == plain[1]


def _every_method(change: Values, common: Values) -> Iterator[Values]:
    """Yield the change itself; for `EVERY`, one change per method, without the settings that the method does not read.

    Methods with independent drawings get a pool, unless the change forbids it.
    """
    if change.get("method") != EVERY:
        yield change
        return
    steps = int({**common, **change}.get("steps", StepSettings.model_fields["steps"].default))
    for name in METHODS:
        one = {**_read_by(change, common, {**change, "method": name}), "method": name}
        pooled = name in POOLED and "pool" not in change
        yield {**one, **({"pool": common.get("pool", steps + 1)} if pooled else {})}


def _control(values: Values, change: Values) -> Sequence[Values]:
    """Return the zero-gradient control; nothing for a run that is not a search with the reward's gradient."""
    is_search = values.get("method", "milr") == "milr" and values.get("gradient", "reward") == "reward"
    return [{**change, "gradient": "zero"}] if is_search else []


def _name(change: Values) -> str:
    """Return the name of a run's folder, from the run's changes."""
    parts = [f"{key}-{value}" for key, value in change.items() if (key, value) != ("pool", 0)]
    text = "_".join(parts) or "default"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)


def _settings(values: Values, describe: Callable[[str], Description]) -> BenchmarkSettings:
    """Split flat values into the benchmark's and the method's."""
    values = dict(values)
    if values.get("method", "milr") not in POOLED or not values.get("pool"):
        values.pop("pool", None)
    if "pool" in values:
        values.pop("steps", None)  # a pool sets its own number of drawings
    if "image_latents" in values:
        model = values.get("model", BenchmarkSettings.model_fields["model"].default)
        ratio = _ratio(values.pop("image_latents"), describe(str(model)))
        values |= {} if ratio is None else {"image_ratio": ratio}
    own = [name for name in BenchmarkSettings.model_fields if name != "settings"]
    known = all_fields()
    for name in values:
        if name not in own and name not in known:
            raise unknown_name("setting", name, [*own, *known, "image_latents"])
    try:
        return BenchmarkSettings.model_validate(
            {
                **{name: value for name, value in values.items() if name in own},
                "settings": {name: value for name, value in values.items() if name in known},
            }
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, wrong['loc']))} {wrong['input']!r}: {say_reason(wrong)}") from None


def _describe(model: str) -> Description:
    from milr.models import describe_model

    return describe_model(find_source(model, weights=False))


def _ratio(latents: int | str, described: Description) -> float | None:
    """Return the image_ratio that gives this many image latents; None if the model's own ratio already does."""
    many = described.capabilities.image_tokens
    if latents == "all":
        return 1.0
    if not isinstance(latents, int) or not 0 <= latents <= many:
        raise UsageError(f'image_latents {latents!r}: give a number from 0 to {many}, or "all"')
    usual: float = make_settings("milr", defaults=described.defaults).get("image_ratio")
    return None if count_latents(usual, many)[0] == latents else latents / many


def run_plan(planned: Sequence[PlannedRun], out: Path, run: MakeRun) -> Iterator[tuple[PlannedRun, Path, bool]]:
    """Make the runs that are not finished yet, one after another; other processes may do the same at the same time.

    A run that another process is making is skipped, and tried again while there is other work; a run that is never
    yielded was made by another process.

    Args:
        planned: The runs of one sweep.
        out: A folder for this sweep alone, with one folder per run.
        run: Makes or resumes a run.

    Yields:
        Each run and its folder before it is made, and true if it is already finished.

    Raises:
        UsageError: The folder holds a run of the same name with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    _note_plan(planned, out)
    waiting = list(planned)
    while waiting:
        taken: list[PlannedRun] = []
        for one in waiting:
            try:
                with hold(out, _Taken, name=f".{one.name}.{LOCK}"):
                    folder = out / one.name
                    done = (folder / MANIFEST).exists() and read_manifest(folder).status == "finished"
                    yield one, folder, done
                    if not done:
                        run(one.settings, folder)
            except _Taken:
                taken.append(one)
        if len(taken) == len(waiting):
            return
        waiting = taken


class _Taken(Exception):
    """The error for a run that another process is making."""


def _note_plan(planned: Sequence[PlannedRun], out: Path) -> None:
    """Add these runs to the sweep's plan."""
    wanted = {one.name: one.settings.model_dump(mode="json") for one in planned}
    kept = out / PLAN
    busy = UsageError(f"another process keeps the plan of {out} to itself: type the same command again")
    with hold(out, lambda: busy, patience=60):
        before: dict[str, object] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        for name, settings in wanted.items():
            if before.get(name, settings) != settings:
                raise UsageError(f"{out} holds {name} with other settings ({PLAN}): give --out another folder")
        if wanted.keys() - before.keys():
            write_text(kept, json.dumps({**before, **wanted}, indent=2) + "\n")


def start_or_resume(
    settings: BenchmarkSettings, folder: Path, vlm: VlmClient | None = None, workers: WorkerChoice | None = None
) -> BenchmarkJob:
    """Begin a run, or resume the one in the folder."""
    if (folder / MANIFEST).exists():
        named = (settings.benchmark, settings.model, settings.reward, settings.evaluator, settings.method)
        return BenchmarkJob.resume(folder, vlm=vlm, typed=[name for name in named if name is not None], workers=workers)
    return BenchmarkJob.begin(settings, folder, vlm=vlm, workers=workers)
