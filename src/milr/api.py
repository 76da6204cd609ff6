"""`milr.generate`: prompts to results in one call."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from milr.errors import UsageError, unknown_name
from milr.jobs import Job, begin_run, resume_run
from milr.methods.needs import check_able
from milr.models import ModelSource, find_source, read_best_method, read_capabilities, reads_free_prompts
from milr.models.base import Model
from milr.models.devices import Placement
from milr.parts import Asked, load_parts
from milr.results import Result, Results
from milr.rewards import check_scorable, default_reward
from milr.rewards.base import Reward, RewardFunction, make_reward
from milr.runs import check_folder, default_folder, read_manifest, read_run, say_resume
from milr.runs.layout import MANIFEST
from milr.settings import find_settings
from milr.settings.best import take_best
from milr.settings.models import RunSettings, SamplingParams
from milr.tasks import tasks_from_prompts
from milr.types import StepRecord, Task

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient


@overload
def generate(
    prompts: str | Task,
    *,
    model: str | Model = ...,
    reward: str | Reward | RewardFunction | None = ...,
    method: str | None = ...,
    evaluator: str | Reward | RewardFunction | None = ...,
    out: Path | str | None = ...,
    resume: bool = ...,
    progress: bool | None = ...,
    device: str = ...,
    dtype: str | None = ...,
    profile: str | None = ...,
    vlm: VlmClient | None = ...,
    **settings: object,
) -> Result: ...
@overload
def generate(
    prompts: Iterable[str | Task],
    *,
    model: str | Model = ...,
    reward: str | Reward | RewardFunction | None = ...,
    method: str | None = ...,
    evaluator: str | Reward | RewardFunction | None = ...,
    out: Path | str | None = ...,
    resume: bool = ...,
    progress: bool | None = ...,
    device: str = ...,
    dtype: str | None = ...,
    profile: str | None = ...,
    vlm: VlmClient | None = ...,
    **settings: object,
) -> Results: ...
def generate(
    prompts: str | Task | Iterable[str | Task],
    *,
    model: str | Model = "embedded",
    reward: str | Reward | RewardFunction | None = None,
    method: str | None = None,
    evaluator: str | Reward | RewardFunction | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    profile: str | None = None,
    vlm: VlmClient | None = None,
    **settings: object,
) -> Result | Results:
    """Draw images that show what the prompts ask for.

    ``milr.generate("a red apple").image``; ``milr.generate(["two dogs", "three cats"], method="best-of-n", steps=4)``.

    Everything is kept in a run folder, as by the command `milr generate`. An interrupt (Ctrl-C) keeps the finished
    tasks and the best image of the others; the same call with ``out=FOLDER, resume=True`` continues.

    Args:
        prompts: Prompts or tasks: one, or any number of them.
        model: A name, as `milr.load_model` takes it, or a loaded model.
        reward: A name, as `milr.load_reward` takes it, or any callable ``(images, tasks) -> scores``; None takes the
            model's default.
        method: A name, as `milr.load_method` takes it; None takes the model's best measured method, "milr" is the
            paper's.
        evaluator: A reward that is never optimised and scores every image; None evaluates nothing.
        out: Folder of the run, new or empty; None takes ``runs/<time>-<prompt>``.
        resume: Continue the run in `out`, if there is one; prompts and settings must be the same.
        progress: Show a progress bar with the time left; None does on a terminal and in a notebook.
        device: Device of a model that is loaded by name and of rewards' networks, as torch names it.
        dtype: Number type of its weights; None is float32 on the CPU, bfloat16 elsewhere.
        profile: Prompt profile of a model that is loaded by name; None takes the checkpoint's own.
        vlm: Client of VLM judges, with their server and budget; None asks them with the default settings.
        settings: Settings of the method, sampling parameters and run settings by name: ``steps=4, seed=1``.

    Returns:
        One `Result` for one prompt, `Results` for several.

    Raises:
        UsageError: A name, a setting, a prompt or a folder cannot be used; nothing was drawn.
        RewardError: The reward does not return one score in [0, 1] per image.
        RunError: Nothing can be written any more.
    """
    single = isinstance(prompts, str | Task)
    _check_types(prompts, model, out)
    source: ModelSource | None = find_source(model) if isinstance(model, str) else None
    able, free, best = _read_facts(model, source, profile)
    tasks = tasks_from_prompts([prompts] if isinstance(prompts, str | Task) else prompts, free=free)
    method, given = take_best(method, settings, best)
    _check_settings(method, given)
    check_able(method, given, able)
    reward = default_reward(able) if reward is None else reward
    for role, scorer in (("reward", reward), ("evaluator", evaluator)):
        if scorer is not None:
            check_scorable(scorer if isinstance(scorer, str) else make_reward(scorer), tasks, able, role)
    if resume and out is None:
        raise UsageError("resume=True continues the run of a folder: give out, the folder that the run is in")
    folder = default_folder(tasks[0].shown) if out is None else Path(out)
    again = resume and (folder / MANIFEST).exists()
    if not again:
        check_folder(folder)
    placement = Placement(device, dtype)
    asked = Asked(model, reward, method, profile, evaluator)
    parts = load_parts(asked, placement, vlm, settings=given)
    chosen = parts.model.settings(method, **given)
    if again:
        manifest = read_manifest(folder)
        wrong = (
            "prompts" if manifest.tasks != tuple(tasks) else "settings" if manifest.settings.flat != chosen.flat else ""
        )
        if wrong:
            raise UsageError(f"the run in {folder} has other {wrong}: give the same, or another folder")
        writer = resume_run(folder, manifest, parts, asked.names, vlm)
    else:
        writer = begin_run(
            folder, tasks, chosen, parts, asked.names, placement, vlm, deterministic=parts.model.deterministic
        )
    job = Job(parts, writer)
    try:
        with _show(job, progress) as show, closing(job.run()) as records:
            for record, _, path in records:
                show(record, path)
    except KeyboardInterrupt as error:
        typed = f", or type: {say_resume(folder, benchmark=False)}" if asked.names else ""
        error.add_note(f"milr: what is finished is in {folder}; to go on, add out={str(folder)!r}, resume=True{typed}")
        raise
    results = Results(read_run(folder))
    if not single:
        return results
    if not len(results):
        raise UsageError(f"nothing was drawn before a total limit was reached ({job.stopped}): raise the limit")
    return results[0]


def _check_types(prompts: object, model: object, out: object) -> None:
    """Refuse prompts, models and folders of a wrong type."""
    if isinstance(prompts, Mapping | bytes) or not isinstance(prompts, str | Task | Iterable):
        said = f"{prompts!r} ({type(prompts).__name__})"  # pyright: ignore[reportUnknownArgumentType]
        raise UsageError(f"{said} is no prompt: give words, a milr.Task, or a list of them")
    if not isinstance(model, str) and (isinstance(model, type) or not hasattr(model, "draw")):
        raise UsageError(f"{model!r} is no model: give a name that milr info lists, or what milr.load_model returns")
    if not isinstance(out, str | Path | None):
        raise UsageError(f"out {out!r} ({type(out).__name__}) is no folder: give a path")


def _read_facts(
    model: str | Model, source: ModelSource | None, profile: str | None
) -> tuple[Any, bool, dict[str, str]]:
    """Return a model's capabilities, whether it reads any text, and its best measured method; nothing is loaded."""
    if source is not None:
        return read_capabilities(source, profile), reads_free_prompts(source), read_best_method(source)
    loaded = cast("Model", model)
    best = read_best_method(loaded.folder) if loaded.folder != Path() else {}
    return loaded.capabilities, loaded.reads_free_prompts, best


def _check_settings(method: str, given: Mapping[str, object]) -> None:
    """Refuse a name that is neither an argument of `generate` nor a setting that the method reads."""
    fields = [name for kind in (find_settings(method), SamplingParams, RunSettings) for name in kind.model_fields]
    own = [name for name in inspect.signature(generate).parameters if name != "settings"]
    for name in given:
        near = unknown_name("argument", name, [*own, *fields])
        if name not in fields and any(f"did you mean {one!r}" in str(near) for one in own):
            raise near


@contextmanager
def _show(job: Job, wanted: bool | None) -> Generator[Callable[[StepRecord, Path | None], None]]:
    """Yield a function of a record and a finished task's folder that moves a progress bar; in a notebook, one line."""
    screen = Console(file=sys.stderr, force_terminal=wanted)
    if not (screen.is_terminal or screen.is_jupyter if wanted is None else wanted):
        yield lambda record, path: None
        return
    manifest, ended, started = job.writer.manifest, job.writer.manifest.tasks_finished, time.monotonic()
    tasks, left = len(manifest.tasks), job.time_left()
    with _show_in_notebook() if screen.is_jupyter else _show_bar(screen, tasks, ended) as say:

        def show(record: StepRecord, path: Path | None) -> None:
            nonlocal ended
            ended += path is not None
            left.count(record, record.index)
            spent = timedelta(seconds=round(time.monotonic() - started))
            said = [manifest.method, f"{ended} of {tasks} prompts", f"step {record.step}", str(spent), left.say()]
            say(ended, ", ".join(filter(None, said)))

        yield show


@contextmanager
def _show_bar(screen: Console, tasks: int, ended: int) -> Generator[Callable[[int, str], None]]:
    """Yield a function of the finished tasks and a line that moves a bar on a terminal."""
    with Progress(TextColumn("{task.description}"), BarColumn(), console=screen, transient=True) as bar:
        done = bar.add_task("", total=tasks, completed=ended)
        yield lambda finished, line: bar.update(done, completed=finished, description=line)


@contextmanager
def _show_in_notebook() -> Generator[Callable[[int, str], None]]:
    """Yield the same function for a notebook, where it changes one line in place."""
    shown: Any = import_module("IPython.display")
    place = shown.display(shown.HTML("drawing ..."), display_id=True)
    try:
        yield lambda finished, line: place.update(shown.HTML(escape(line)))
    finally:
        place.update(shown.HTML(""))
