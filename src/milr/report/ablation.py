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
from milr.files import write_text
from milr.methods import METHODS, POOLED
from milr.models import embedded_folder
from milr.runs import read_manifest
from milr.runs.writer import MANIFEST

UNMEASURED = "not measured yet"
PLAN = "plan.json"
EVERY = "*"
"""As a run's method: every method there is."""
_FOLDER = Path(__file__).parent.parent / "assets" / "recipes"

Settings = Mapping[str, Any]
"""Fields of `BenchmarkSettings` and of `SearchConfig` side by side, and `image_latents`: a number, or "all"."""


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
    """Add to every search of latents its twin without credit, which a result needs."""
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


def plan_runs(recipe: Recipe, given: Settings | None = None, *, twins: bool | None = None) -> list[PlannedRun]:
    """The runs of a sweep, the baseline first; nothing is loaded but the model's config.

    Args:
        recipe: What to sweep.
        given: What the user says of all runs; goes before the recipe's own settings, not before what a run changes.
        twins: None leaves it to the recipe.

    Raises:
        UsageError: A setting that there is not, or one that no run can take.
    """
    common = {"benchmark": recipe.benchmark, **recipe.settings, **(given or {})}
    changes = [expanded for change in recipe.runs for expanded in _every_method(change, common)]
    if recipe.twins if twins is None else twins:
        changes = [one for change in changes for one in (change, *_twin({**common, **change}, change))]
    planned: dict[str, PlannedRun] = {}
    for change in changes:
        run = PlannedRun(_name(change), _settings({**common, **change}))
        check_settings(run.settings)
        if all(run.settings != other.settings for other in planned.values()):
            planned[run.name] = run
    return list(planned.values())


def _every_method(change: Settings, common: Settings) -> Iterator[Settings]:
    """The change itself; for `EVERY`, one for each method, pools where drawings are independent."""
    if change.get("method") != EVERY:
        yield change
        return
    steps = int(common.get("steps", SearchConfig.model_fields["steps"].default))
    for name in METHODS:
        pool: Settings = {"pool": common.get("pool", steps + 1)} if name in POOLED else {}
        yield {**change, "method": name, **pool}


def _twin(settings: Settings, change: Settings) -> Sequence[Settings]:
    """The same search without credit; nothing for what is no search with the reward's credit."""
    is_search = settings.get("method", "milr") == "milr" and settings.get("credit", "reward") == "reward"
    return [{**change, "credit": "zero"}] if is_search else []


def _name(change: Settings) -> str:
    """What a run's folder is called: what it changes."""
    parts = [f"{key}-{value}" for key, value in change.items()]
    text = "_".join(parts) or "default"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)


def _settings(values: Settings) -> BenchmarkSettings:
    """Sort flat settings into the benchmark's and the search's."""
    values = dict(values)
    if values.get("method", "milr") not in POOLED:
        values.pop("pool", None)
    if "pool" in values:
        values.pop("steps", None)  # a pool says itself how many are drawn
    if "image_latents" in values:
        values["image_ratio"] = _ratio(values.pop("image_latents"), str(values.get("model", "embedded")))
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


def _ratio(latents: int | str, model: str) -> float:
    """The image_ratio that makes so many positions of the model's drawings latents."""
    from milr.models.checkpoint import open_checkpoint

    folder = embedded_folder() if model == "embedded" else Path(model)
    many = open_checkpoint(folder).capabilities.image_tokens
    if latents == "all":
        return 1.0
    if not isinstance(latents, int) or not 0 <= latents <= many:
        raise UsageError(f'image_latents {latents!r}: give a number from 0 to {many}, or "all"')
    return latents / many


def run_plan(planned: Sequence[PlannedRun], out: Path, run: Runner) -> Iterator[tuple[PlannedRun, Path, bool]]:
    """Make the runs that are not finished yet, one after another.

    Args:
        planned: Of one sweep.
        out: A folder of this sweep alone; each run has a folder in it.
        run: Makes or resumes one.

    Yields:
        Each run and its folder before it is made; and whether it is finished already, so that nothing is done.

    Raises:
        UsageError: The folder holds a sweep of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({one.name: one.settings.model_dump(mode="json") for one in planned}, indent=2) + "\n"
    kept = out / PLAN
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise UsageError(f"{out} holds a sweep of other settings ({PLAN}): give --out another folder")
    if not kept.exists():
        write_text(kept, text)
    for one in planned:
        folder = out / one.name
        done = (folder / MANIFEST).exists() and read_manifest(folder).status == "finished"
        yield one, folder, done
        if not done:
            run(one.settings, folder)


def start_or_resume(settings: BenchmarkSettings, folder: Path, **judges: Any) -> BenchmarkJob:
    """The run's job: begun, or gone on with where the folder holds one."""
    if (folder / MANIFEST).exists():
        return BenchmarkJob.resume(folder, **judges)
    return BenchmarkJob.begin(settings, folder, **judges)
