"""Sweeps: a recipe says which runs belong together; here they are planned, made and resumed.

A recipe is a TOML file of at most fifteen lines in the folder `recipes` beside this module, or anywhere. It states
hardware, duration and the score to expect; what nobody has measured says so.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.benchmarks import BENCHMARKS
from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings, check_names, check_settings
from milr.errors import UsageError, unknown_name
from milr.files import LOCK, hold, write_text
from milr.methods import METHODS, POOLED
from milr.methods.latents import count_latents
from milr.models import MODELS, find_model
from milr.registry import check_stored, is_named
from milr.report.comparison import without_gradient
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

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient

UNMEASURED = "not measured yet"
PLAN = "plan.json"
EVERY = "*"
"""As a run's method: every method there is."""
_FOLDER = Path(__file__).parent / "recipes"

Values = Mapping[str, Any]
"""Fields of `BenchmarkSettings` and settings of methods side by side, and `image_latents`: a number, or "all".

A `pool` of 0 is none: then no pool that is given for all runs is either."""


class Recipe(BaseModel):
    """What a recipe's file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    benchmark: str = "icons"
    hardware: str
    """What it is meant for."""
    duration: str = UNMEASURED
    expected: str = UNMEASURED
    """Score with interval, and the run that it comes from."""
    settings: dict[str, Any] = {}
    """Of all runs; a run whose method does not read one does without it."""
    controls: bool = False
    """Add to every search of latents its zero-gradient control, which a result needs, unless another run is it."""
    seeds: int = Field(default=1, ge=1)
    """How many seeds, counted from the first."""
    then: tuple[str, ...] = ()
    """Recipes whose runs follow, on this one's benchmark; their settings go before this one's."""
    runs: tuple[dict[str, Any], ...] = Field(min_length=1)
    """What each run changes; the first is the baseline. A setting that the run's method does not read is an error."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    settings: BenchmarkSettings


MakeRun = Callable[[BenchmarkSettings, Path], None]
"""Makes a run in that folder, or goes on with the one that it holds."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with milr."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """Return a recipe by name, or from a file.

    Raises:
        UsageError: No such recipe, or a file that is none.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise unknown_name("recipe", name, recipe_names())
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error}): see milr ablate --help") from None
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UsageError(f"{path}: {where}: {wrong['msg']}; a recipe has {', '.join(Recipe.model_fields)}") from None


def plan_runs(
    recipe: Recipe, given: Values | None = None, *, controls: bool | None = None, seeds: int | None = None
) -> list[PlannedRun]:
    """Return the runs of a sweep, the baseline first; nothing is loaded but the model's config.

    All runs come under the first seed before any comes under the next.

    Args:
        recipe: What to sweep; the recipes that it names follow it, seed by seed.
        given: What the user asks of all runs; goes before the recipe's own settings, not before what a run changes.
        controls: Whether to add zero-gradient controls; None leaves it to the recipe.
        seeds: How many, for the recipe's own runs; None leaves it to the recipe.

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
        parts.append((one, common, told, one.seeds))
    planned: dict[str, PlannedRun] = {}
    for number in range(max(many for *_, many in parts)):
        for part, common, told, _ in (part for part in parts if number < part[-1]):
            later: Values = {"seed": int(common.get("seed", 0)) + number} if number else {}
            for change, is_control in _changes(part, common, part.controls if controls is None else controls):
                name = _name({**_read_by(told, common, change), **change, **later})
                run = PlannedRun(name, _settings({**_read_by(common, common, change), **change, **later}))
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
    """Yield what each run changes, and whether it is a control that was added."""
    for change in recipe.runs:
        for one in _every_method(change, common):
            yield one, False
            for control in _control({**common, **one}, one) if controls else ():
                yield control, True


def _read_by(values: Values, common: Values, change: Values) -> Values:
    """Return those of the values that the method of a run reads, and all that are no settings of methods."""
    run = {**common, **change}
    method, strategy = str(run.get("method") or "milr"), STRATEGIES.get(str(run.get("strategy", "joint")))
    known = all_fields()
    if not is_named("method", method, METHODS) or strategy is None:
        return values  # an unknown name is refused with its nearest match where the settings are checked
    kinds = (find_settings(method), SamplingParams, RunSettings)
    read = {name for kind in kinds for name in kind.model_fields}
    read -= {f"{modality}_ratio" for modality in {"text", "image"}.difference(strategy.latents)}
    read |= {"image_latents"} if "image_ratio" in read else set()
    return {name: value for name, value in values.items() if name in read or name not in (*known, "image_latents")}


def _same(one: BenchmarkSettings, other: BenchmarkSettings, *, as_controls: bool) -> bool:
    """Return whether two runs are the same; as controls also if they draw the same with a zero gradient."""
    one, other = (run.model_copy(update={"method": run.method or "milr"}) for run in (one, other))
    if not as_controls or one.model not in MODELS:
        return one == other
    plain = [run.model_copy(update={"settings": without_gradient(run.settings)}) for run in (one, other)]
    return plain[0] == plain[1]


def _every_method(change: Values, common: Values) -> Iterator[Values]:
    """Yield the change itself; for `EVERY`, one for each method, without the settings that the method does not read.

    Methods whose drawings are independent get a pool, unless the change says not.
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
    """Return the zero-gradient control; nothing for what is no search with the reward's gradient."""
    is_search = values.get("method", "milr") == "milr" and values.get("gradient", "reward") == "reward"
    return [{**change, "gradient": "zero"}] if is_search else []


def _name(change: Values) -> str:
    """Return the name of a run's folder: what the run changes."""
    parts = [f"{key}-{value}" for key, value in change.items() if (key, value) != ("pool", 0)]
    text = "_".join(parts) or "default"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)


def _settings(values: Values) -> BenchmarkSettings:
    """Sort flat values into the benchmark's and the method's."""
    values = dict(values)
    if values.get("method", "milr") not in POOLED or not values.get("pool"):
        values.pop("pool", None)
    if "pool" in values:
        values.pop("steps", None)  # a pool says itself how many are drawn
    if "image_latents" in values:
        model = values.get("model", BenchmarkSettings.model_fields["model"].default)
        ratio = _ratio(values.pop("image_latents"), str(model))
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
        raise UsageError(f"{'.'.join(map(str, wrong['loc']))} {wrong['input']!r}: {wrong['msg']}") from None


def _ratio(latents: int | str, model: str) -> float | None:
    """Return the image_ratio that makes so many image positions of the model latents; None if its own does already."""
    from milr.models.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(find_model(model, weights=False), weights=False)
    many = checkpoint.capabilities.image_tokens
    if latents == "all":
        return 1.0
    if not isinstance(latents, int) or not 0 <= latents <= many:
        raise UsageError(f'image_latents {latents!r}: give a number from 0 to {many}, or "all"')
    usual: float = make_settings("milr", defaults=checkpoint.settings.search).get("image_ratio")
    return None if count_latents(usual, many)[0] == latents else latents / many


def run_plan(planned: Sequence[PlannedRun], out: Path, run: MakeRun) -> Iterator[tuple[PlannedRun, Path, bool]]:
    """Make the runs that are not finished yet, one after another; other processes may do the same at the same time.

    A run that another process is making is passed over, and asked for again while there is anything else to do: what
    is never yielded was another's to the end.

    Args:
        planned: Of one sweep.
        out: A folder of this sweep alone; each run has a folder in it.
        run: Makes or resumes one.

    Yields:
        Each run and its folder before it is made; and whether it is finished already, so that nothing is done.

    Raises:
        UsageError: The folder holds a run of the same name and of other settings.
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
    """Another process makes this run."""


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


def start_or_resume(settings: BenchmarkSettings, folder: Path, vlm: VlmClient | None = None) -> BenchmarkJob:
    """Begin a run, or go on with the one that the folder holds."""
    if (folder / MANIFEST).exists():
        return BenchmarkJob.resume(folder, vlm=vlm)
    return BenchmarkJob.begin(settings, folder, vlm=vlm)
