"""Sweeps: a recipe says which runs belong together; here they are planned, made and resumed.

A recipe is a TOML file of at most fifteen lines in assets/recipes, or anywhere. It states hardware, duration and the
score to expect; what nobody has measured says so.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings, check_settings
from milr.config import SearchConfig
from milr.errors import UsageError, unknown_name
from milr.files import LOCK, hold, write_text
from milr.methods import METHODS, POOLED
from milr.methods.latents import count_latents
from milr.models import MODELS, embedded_folder
from milr.report.comparison import without_credit
from milr.runs import read_manifest
from milr.runs.layout import MANIFEST

UNMEASURED = "not measured yet"
PLAN = "plan.json"
EMBEDDED = "embedded"
EVERY = "*"
"""As a run's method: every method there is."""
_FOLDER = Path(__file__).parent.parent / "assets" / "recipes"

Settings = Mapping[str, Any]
"""Fields of `BenchmarkSettings` and of `SearchConfig` side by side, and `image_latents`: a number, or "all".

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
    """Of all runs."""
    twins: bool = False
    """Add to every search of latents its twin without credit, which a result needs, where no other run is that twin."""
    seeds: int = Field(default=1, ge=1)
    """How many seeds, counted from the first."""
    then: tuple[str, ...] = ()
    """Recipes whose runs follow, on this one's benchmark; their settings go before this one's."""
    runs: tuple[dict[str, Any], ...] = Field(min_length=1)
    """What each run changes; the first is the baseline."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    settings: BenchmarkSettings


Runner = Callable[[BenchmarkSettings, Path], None]
"""Makes a run in that folder, or goes on with the one that it holds."""


def recipe_names() -> list[str]:
    """Of the recipes that come with milr."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """A recipe by name, or from a file.

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
    recipe: Recipe, given: Settings | None = None, *, twins: bool | None = None, seeds: int | None = None
) -> list[PlannedRun]:
    """The runs of a sweep, the baseline first; nothing is loaded but the model's config.

    All runs come under the first seed before any comes under the next.

    Args:
        recipe: What to sweep; the recipes that it names follow it, seed by seed.
        given: What the user says of all runs; goes before the recipe's own settings, not before what a run changes.
        twins: None leaves it to the recipe.
        seeds: How many, for the recipe's own runs; None leaves it to the recipe.

    Raises:
        UsageError: A setting that there is not, or one that no run can take.
    """
    given = given or {}
    own = {"benchmark": recipe.benchmark, **recipe.settings, **given}
    parts: list[tuple[Recipe, Settings, Settings, int]] = [(recipe, own, {}, seeds or recipe.seeds)]
    for one in map(read_recipe, recipe.then):
        common = {**own, **one.settings, **given}
        told = {k: common[k] for k in one.settings if common[k] != own.get(k) or k not in recipe.settings}
        parts.append((one, common, told, one.seeds))
    planned: dict[str, PlannedRun] = {}
    for number in range(max(many for *_, many in parts)):
        for part, common, told, _ in (part for part in parts if number < part[-1]):
            later: Settings = {"seed": int(common.get("seed", 0)) + number} if number else {}
            for change, is_twin in _changes(part, common, part.twins if twins is None else twins):
                run = PlannedRun(_name({**told, **change, **later}), _settings({**common, **change, **later}))
                check_settings(run.settings)
                if any(_same(run.settings, other.settings, as_twins=is_twin) for other in planned.values()):
                    continue
                if run.name in planned:
                    raise UsageError(f"{recipe.title}: two runs would be called {run.name}: leave one of them out")
                planned[run.name] = run
    return list(planned.values())


def _changes(recipe: Recipe, common: Settings, twins: bool) -> Iterator[tuple[Settings, bool]]:
    """What each run changes, and whether it is a twin that was added."""
    for change in recipe.runs:
        for one in _every_method(change, common):
            yield one, False
            for twin in _twin({**common, **one}, one) if twins else ():
                yield twin, True


def _same(one: BenchmarkSettings, other: BenchmarkSettings, *, as_twins: bool) -> bool:
    """Whether two runs are the same; as twins also where they draw the same without credit."""
    one, other = (run.model_copy(update={"method": run.method or "milr"}) for run in (one, other))
    if not as_twins or one.model != EMBEDDED:
        return one == other
    plain = [run.model_copy(update={"search": without_credit(run.search)}) for run in (one, other)]
    return plain[0] == plain[1]


def _every_method(change: Settings, common: Settings) -> Iterator[Settings]:
    """The change itself; for `EVERY`, one for each method, pools where drawings are independent, unless it says not."""
    if change.get("method") != EVERY:
        yield change
        return
    steps = int(common.get("steps", SearchConfig.model_fields["steps"].default))
    for name in METHODS:
        pooled = name in POOLED and "pool" not in change
        yield {**change, "method": name, **({"pool": common.get("pool", steps + 1)} if pooled else {})}


def _twin(settings: Settings, change: Settings) -> Sequence[Settings]:
    """The same search without credit; nothing for what is no search with the reward's credit."""
    is_search = settings.get("method", "milr") == "milr" and settings.get("credit", "reward") == "reward"
    return [{**change, "credit": "zero"}] if is_search else []


def _name(change: Settings) -> str:
    """What a run's folder is called: what it changes."""
    parts = [f"{key}-{value}" for key, value in change.items() if (key, value) != ("pool", 0)]
    text = "_".join(parts) or "default"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)


def _settings(values: Settings) -> BenchmarkSettings:
    """Sort flat settings into the benchmark's and the search's."""
    values = dict(values)
    if values.get("method", "milr") not in POOLED or not values.get("pool"):
        values.pop("pool", None)
    if "pool" in values:
        values.pop("steps", None)  # a pool says itself how many are drawn
    if "image_latents" in values:
        ratio = _ratio(values.pop("image_latents"), str(values.get("model", EMBEDDED)))
        values |= {} if ratio is None else {"image_ratio": ratio}
    known = [name for name in BenchmarkSettings.model_fields if name != "search"]
    for name in values:
        if name not in known and name not in SearchConfig.model_fields:
            raise unknown_name("setting", name, [*known, *SearchConfig.model_fields, "image_latents"])
    search = {name: value for name, value in values.items() if name in SearchConfig.model_fields}
    rest = {name: value for name, value in values.items() if name in known}
    try:
        SearchConfig.model_validate(search)
        return BenchmarkSettings.model_validate({**rest, "search": search})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, wrong['loc']))} {wrong['input']!r}: {wrong['msg']}") from None


def _ratio(latents: int | str, model: str) -> float | None:
    """The image_ratio that makes so many positions of the model's drawings latents; None where its own does already."""
    from milr.models.checkpoint import open_checkpoint

    folder = embedded_folder(model) if model in MODELS else Path(model)
    checkpoint = open_checkpoint(folder)
    many = checkpoint.capabilities.image_tokens
    if latents == "all":
        return 1.0
    if not isinstance(latents, int) or not 0 <= latents <= many:
        raise UsageError(f'image_latents {latents!r}: give a number from 0 to {many}, or "all"')
    usual = SearchConfig.model_validate(dict(checkpoint.settings.search)).image_ratio
    return None if count_latents(usual, many)[0] == latents else latents / many


def run_plan(planned: Sequence[PlannedRun], out: Path, run: Runner) -> Iterator[tuple[PlannedRun, Path, bool]]:
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


def start_or_resume(settings: BenchmarkSettings, folder: Path, **judges: Any) -> BenchmarkJob:
    """The run's job: begun, or gone on with where the folder holds one."""
    if (folder / MANIFEST).exists():
        return BenchmarkJob.resume(folder, **judges)
    return BenchmarkJob.begin(settings, folder, **judges)
