"""`milr generate`: prompts to images, by any method."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from milr.cli.look import Open, show_page
from milr.cli.options import (
    DEFAULT_MODEL,
    INTERRUPTED,
    Device,
    Dtype,
    FailUnder,
    ModelName,
    Offline,
    Profile,
    Quiet,
    Reward,
    Verbose,
    Yes,
    ask,
    check_names,
    choose_search,
    end_by_scores,
    make_screen,
    name_search,
    read_with_resume,
    with_settings,
)
from milr.cli.progress import SearchProgress
from milr.cli.vlm import Panel, VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl, most_images
from milr.errors import MilrError, UsageError
from milr.methods import METHODS
from milr.models import MODELS, ModelSource, find_source, reads_free_prompts
from milr.models.hub import HubAccess
from milr.registry import check_stored
from milr.rewards import (
    REWARDS,
    check_installed,
    check_scorable,
    default_reward,
    locate_reward,
    needs_model,
)
from milr.rewards.spec import check_stored_name
from milr.runs import RunWriter, check_folder, check_resumable, default_folder, read_manifest, read_run
from milr.runs.layout import MANIFEST
from milr.runs.lock import check_unheld
from milr.settings import make_settings
from milr.tasks import PromptFile, explain, read_prompt_file, tasks_from_prompts
from milr.types import Score

if TYPE_CHECKING:
    from milr.models.base import Model  # imports torch
    from milr.rewards import Reward as RewardLike
    from milr.runs import TaskRun

_WITH_RESUME = (
    *("resume", "quiet", "verbose", "as_json", "open_page", "offline", "yes", "fail_under"),
    *("panel", "vlm_url", "vlm_model", "vlm_budget", "vlm_price"),
)


@with_settings()
def generate(
    context: typer.Context,
    given: dict[str, object],
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="More prompts: one per line, JSON, JSONL, CSV or TSV; - is standard input.",
        ),
    ] = None,
    model: ModelName = DEFAULT_MODEL,
    reward: Reward = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How drawings are spent: a name that milr info lists. Default: the model's best measured one; "
            "milr is the paper's."
        ),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    panel: Panel = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    profile: Profile = None,
    offline: Offline = False,
    yes: Yes = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Images never depend on their neighbours in a batch, in bfloat16 too."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run; default: runs/<time>-<prompt>.")
    ] = None,
    open_page: Open = False,
    fail_under: FailUnder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per task on standard output.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Go on with an interrupted run; default: begin a new one."),
    ] = None,
) -> None:
    """Draw images that show what the prompts say. Settings that are not given are the model's own."""
    # errors are found before seconds are spent on loading a model
    screen, result = make_screen(quiet, verbose, stderr=as_json), make_screen(quiet=False, stderr=as_json)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price, panel)
    if resume is not None:
        typed = read_with_resume(context, _WITH_RESUME)
        search = _resume(resume, typed, vlm, HubAccess(offline, ask(screen, yes)), screen)
        _draw(search, vlm, screen, result, as_json, verbose, open_page, fail_under)
        return
    make_settings(method or "milr", given)
    prompts = prompts or []
    _check_prompts(prompts, prompts_file)
    check_names(model, reward, dtype)
    if out is not None:
        check_folder(out)
    source = find_source(model, weights=False, offline=offline)
    read = _read_prompts(prompts, prompts_file, source)
    method, given = choose_search(method, given, source)
    make_settings(method, given)
    tasks = read.tasks
    for line in (*read.notes, *filter(None, map(explain, tasks)), *_ask_for_quotes(prompts)):
        screen.print(f"milr: {line}")
    screen.print(f"milr: loading {_the_model(model)} ...")
    from milr import load_model, load_reward
    from milr.models import read_capabilities
    from milr.models.devices import Placement, machine_facts

    capabilities, placement = read_capabilities(source, profile), Placement(device, dtype)
    reward = reward or default_reward(capabilities)
    check_scorable(reward, tasks, capabilities)
    for name in vlm.panel:
        check_scorable(name, tasks, capabilities, "--panel")
    check_installed(reward, *vlm.panel)
    # a missing key or server is found before the model is loaded, if the reward does not ask the model
    scorer = None if needs_model(reward) else load_reward(reward, vlm=vlm.client, placement=placement)
    loaded = load_model(
        model,
        device=device,
        dtype=dtype,
        profile=profile,
        offline=offline,
        confirm=ask(screen, yes),
        deterministic=deterministic,
        settings=given,
    )
    settings = loaded.settings(method, **given)
    scorer = scorer or load_reward(reward, model=loaded, vlm=vlm.client, placement=placement)
    watched = vlm.load_panel(loaded, placement)
    writer = RunWriter(
        out or default_folder(tasks[0].shown),
        tasks=tasks,
        settings=settings,
        model=loaded.name,
        model_folder=loaded.folder,
        reward=scorer.name,
        panel=[one.name for one in watched.values()],
        vlm_usage=vlm.client.usage,
        machine=machine_facts(placement, {"reward_device": locate_reward(reward, placement)}),
        model_asked=model,
        reward_asked=reward,
        profile=profile,
        device=device,
        dtype=dtype,
        deterministic=deterministic,
    )
    search = _Search(loaded, scorer, watched, writer, ())
    _draw(search, vlm, screen, result, as_json, verbose, open_page, fail_under)


@dataclass(frozen=True)
class _Search:
    """A run to draw, new or resumed."""

    model: Model
    reward: RewardLike
    panel: Mapping[str, RewardLike]
    writer: RunWriter
    finished: Sequence[TaskRun]
    """Tasks that earlier sessions have finished."""


def _resume(folder: Path, typed: Sequence[str], vlm: VlmOptions, hub: HubAccess, screen: Console) -> _Search:
    """Load what an interrupted run was made with.

    Raises:
        UsageError: The folder holds no run of milr generate, or what it was made with is not here.
    """
    manifest = read_manifest(folder)
    if manifest.benchmark is not None:
        raise UsageError(f"{folder} is a benchmark's run: type milr benchmark --resume {folder}")
    if manifest.model_asked is None or manifest.reward_asked is None:
        raise UsageError(f"{folder} is no run of milr generate: give a folder that milr generate named")
    check_resumable(folder)
    check_unheld(folder, MANIFEST)
    check_stored("model", manifest.model_asked, MODELS, folder, typed)
    check_stored("method", manifest.method, METHODS, folder, typed)
    check_stored_name(manifest.reward_asked, REWARDS, folder, typed)
    screen.print(f"milr: going on with {folder}: loading {_the_model(manifest.model_asked)} ...")
    from milr import load_model, load_reward
    from milr.models.devices import Placement, machine_facts

    check_installed(manifest.reward_asked, *vlm.panel)
    placement = Placement(manifest.device, manifest.dtype)
    model = load_model(
        manifest.model_asked,
        device=manifest.device,
        dtype=manifest.dtype,
        profile=manifest.profile,
        offline=hub.offline,
        confirm=hub.confirm,
        deterministic=manifest.deterministic,
    )
    reward = load_reward(manifest.reward_asked, model=model, vlm=vlm.client, placement=placement)
    watched = vlm.load_panel(model, placement)
    for what, was, now in (
        ("model", manifest.model, model.name),
        ("reward", manifest.reward, reward.name),
        ("panel", ", ".join(manifest.panel) or "none", ", ".join(one.name for one in watched.values()) or "none"),
    ):
        if was != now:
            way_out = "type --panel as you did then" if what == "panel" else "begin a new run"
            raise UsageError(f"{folder} was made with the {what} {was}, and here is {now}: {way_out}")
    machine = machine_facts(placement, {"reward_device": locate_reward(manifest.reward_asked, placement)})
    writer = RunWriter.resume(folder, vlm_usage=vlm.client.usage, machine=machine, redo_cancelled=True)
    left = set(writer.remaining())
    done = [task for task in read_run(folder).tasks if (task.index, task.image) not in left]
    return _Search(model, reward, watched, writer, done)


def _draw(
    search: _Search,
    vlm: VlmOptions,
    screen: Console,
    result: Console,
    as_json: bool,
    verbose: bool,
    open_page: bool,
    fail_under: float | None,
) -> None:
    """Draw what is left of a run, and say what was reached."""
    from milr.methods import load_method
    from milr.methods.runner import Runner
    from milr.rewards.panel import watch

    writer, settings = search.writer, search.writer.manifest.settings
    tasks, go_on = writer.manifest.tasks, f"to go on, type: milr generate --resume {shlex.quote(str(writer.folder))}"
    screen.print(f"milr: by the method {name_search(settings)}")
    images = most_images(settings, len(tasks) - len(search.finished))
    for line in vlm.costs(search.reward, search.panel, search.model, images):
        screen.print(f"milr: {line}")
    progress = SearchProgress(screen, tasks, settings, verbose=verbose, finished=search.finished)
    runner = Runner(load_method(settings.method), tasks, search.model, search.reward, settings)
    # a repeated prompt's random streams depend on the prompts before it: the runner gets all, and skips the finished
    for task in search.finished:
        runner.cancel(task.index)
    try:
        with writer, progress, closing(runner):
            try:
                for record in watch(runner, search.panel):
                    progress.show(record, writer.write(record))
            except KeyboardInterrupt:
                for record, path in writer.conclude_begun():
                    progress.show(record, path)
                raise
    except KeyboardInterrupt:
        result.print(f"milr: interrupted; {progress.kept()} in {writer.folder}{_say_cut(progress)}")
        result.print(f"milr: {go_on}")
        show_page(writer.folder, result.print, open_page)
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise error.extend(f" ({progress.kept()} in {writer.folder}; {go_on})") from error
    finally:
        if as_json:
            for outcome in progress.outcomes(writer.folder):
                print(json.dumps(outcome, ensure_ascii=False))
        vlm.client.close()
    progress.conclude(writer.folder, vlm.conclusion(progress.ends()), result)
    if progress.unfinished():
        result.print(f"milr: {go_on}")
    show_page(writer.folder, result.print, open_page)
    bests = [last.best_score for _, last in progress.ends()]
    end_by_scores([best.value if isinstance(best, Score) else None for best in bests], fail_under)


def _check_prompts(prompts: Sequence[str], file: Path | None) -> None:
    example = 'milr generate "a photo of a red apple left of a blue clock"'
    if any(not prompt.strip() for prompt in prompts):
        raise UsageError(f"a prompt is empty: say what to draw, for instance {example}")
    if not prompts and file is None:
        raise UsageError(f"no prompt given: type {example}, or --prompts FILE")


def _read_prompts(prompts: Sequence[str], file: Path | None, source: ModelSource) -> PromptFile:
    """Return the tasks of prompts and file, in the form that the model reads, without loading it."""
    free = reads_free_prompts(source)
    try:
        tasks = tasks_from_prompts(prompts, free=free) if prompts else []
    except UsageError as error:
        raise UsageError("; ".join((str(error), *_ask_for_quotes(prompts)))) from error
    more = read_prompt_file(file, free=free) if file else PromptFile(())
    return PromptFile((*tasks, *more.tasks), more.notes)


def _ask_for_quotes(prompts: Sequence[str]) -> list[str]:
    """Return a hint if several prompts of one word each may be one prompt without quotes."""
    if len(prompts) < 2 or any(len(prompt.split()) > 1 for prompt in prompts):
        return []
    return [f'{len(prompts)} prompts of one word each: did you mean milr generate "{" ".join(prompts)}"?']


def _say_cut(progress: SearchProgress) -> str:
    cut = sum(last.finished == "cancelled" for _, last in progress.ends())
    return f", {cut} of them early, with the best image so far" if cut else ""


def _the_model(model: str) -> str:
    from milr.models import MODELS

    return f"the {model} model" if model in MODELS else f"the model {model}"
