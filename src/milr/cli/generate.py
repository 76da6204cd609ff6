"""`milr generate`: prompts to images, by any method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from milr.benchmarks.selection import read_shard
from milr.cli.look import Open, show_page
from milr.cli.options import (
    DEFAULT_MODEL,
    INTERRUPTED,
    Device,
    Dtype,
    FailUnder,
    GpusPerRewardWorker,
    GpusPerWorker,
    ModelName,
    NoGraphs,
    Offline,
    Profile,
    Quiet,
    Reward,
    RewardCommand,
    RewardWorkers,
    Verbose,
    Workers,
    Yes,
    ask,
    check_names,
    choose_search,
    end_by_scores,
    make_screen,
    name_search,
    read_with_resume,
    say_workers,
    with_settings,
)
from milr.cli.progress import SearchProgress
from milr.cli.vlm import Panel, VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import MilrError, UsageError
from milr.models import MODELS, ModelSource, find_source, reads_free_prompts
from milr.models.hub import HubAccess
from milr.rewards import (
    check_reward,
    check_scorable,
    default_reward,
)
from milr.runs import check_folder, default_folder, read_manifest, read_run, say_resume
from milr.settings import make_settings
from milr.tasks import PromptFile, explain, read_prompt_file, tasks_from_prompts
from milr.types import Score

if TYPE_CHECKING:
    from milr.jobs import Job  # imports torch
    from milr.runs import TaskRun

_WITH_RESUME = (
    *("resume", "quiet", "verbose", "as_json", "open_page", "offline", "yes", "no_graphs", "fail_under"),
    *("workers", "gpus_per_worker", "reward_workers", "reward_command", "gpus_per_reward_worker"),
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
    evaluator: Annotated[
        str | None,
        typer.Option(help="A reward that is never optimised and scores every image; default: none."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every Nth prompt from the Ith on; default: all.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Method of spending drawings: a name that milr info lists. Default: the model's best measured one; "
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
    no_graphs: NoGraphs = False,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    reward_workers: RewardWorkers = None,
    reward_command: RewardCommand = None,
    gpus_per_reward_worker: GpusPerRewardWorker = None,
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
        typer.Option(metavar="FOLDER", help="Continue an interrupted run; default: start a new one."),
    ] = None,
) -> None:
    """Draw images that show what the prompts ask for. Settings that are not given are the model's own."""
    # errors are found before seconds are spent on loading a model
    screen, result = make_screen(quiet, verbose, stderr=as_json), make_screen(quiet=False, stderr=as_json)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price, panel)
    if resume is not None:
        typed = read_with_resume(context, _WITH_RESUME)
        hub = HubAccess(offline, ask(screen, yes))
        asked = (workers, gpus_per_worker, reward_workers, reward_command, gpus_per_reward_worker)
        job, finished = _resume(resume, typed, vlm, hub, screen, not no_graphs, asked)
        _draw(job, finished, vlm, screen, result, as_json, verbose, open_page, fail_under)
        return
    make_settings(method or "milr", given)
    prompts = prompts or []
    _check_prompts(prompts, prompts_file)
    check_names(model, reward, dtype)
    vlm.check_used(reward, evaluator)
    if evaluator is not None:
        check_reward(evaluator)
    if out is not None:
        check_folder(out)
    source = find_source(model, weights=False, offline=offline)
    read = _read_prompts(prompts, prompts_file, source)
    method, given = choose_search(method, given, source)
    make_settings(method, given)
    tasks = read.tasks
    if shard is not None:
        number, many = read_shard(shard)
        tasks = tasks[number - 1 :: many]
        if not tasks:
            raise UsageError(f"--shard {shard} has none of {len(read.tasks)} prompts: give a smaller one")
    for line in (*read.notes, *filter(None, map(explain, tasks)), *_ask_for_quotes(prompts)):
        screen.print(f"milr: {line}")
    screen.print(f"milr: loading {_the_model(model)} ...")
    from milr.jobs import Job, begin_run
    from milr.methods.needs import check_able
    from milr.models import read_capabilities
    from milr.models.devices import Placement
    from milr.parts import Names
    from milr.workers import load_chosen, read_reward_workers, read_workers

    chosen = read_workers(workers, gpus_per_worker)
    rewards = read_reward_workers(reward_workers, reward_command, gpus_per_reward_worker)
    capabilities, placement = read_capabilities(source, profile), Placement(device, dtype, not no_graphs)
    reward = reward or default_reward(capabilities)
    check_scorable(reward, tasks, capabilities)
    if evaluator is not None:
        check_scorable(evaluator, tasks, capabilities, "--evaluator")
    for name in vlm.panel:
        check_scorable(name, tasks, capabilities, "--panel")
    check_able(method, given, capabilities)
    names = Names(model, reward, method, profile, evaluator, vlm.panel)
    hub = HubAccess(offline, ask(screen, yes))
    parts = load_chosen(
        chosen, names, placement, vlm.client, hub, rewards=rewards, deterministic=deterministic, settings=given
    )
    writer = begin_run(
        out or default_folder(tasks[0].shown),
        tasks,
        parts.model.settings(method, **given),
        parts,
        names,
        placement,
        vlm.client,
        shard=shard,
        deterministic=deterministic,
    )
    _draw(Job(parts, writer), (), vlm, screen, result, as_json, verbose, open_page, fail_under)


def _resume(
    folder: Path,
    typed: Sequence[str],
    vlm: VlmOptions,
    hub: HubAccess,
    screen: Console,
    graphs: bool,
    workers: tuple[str | None, float | None, int | None, str | None, float | None],
) -> tuple[Job, list[TaskRun]]:
    """Load the parts of an interrupted run; return its job, and the tasks that earlier sessions have finished.

    Raises:
        UsageError: The folder holds no run of milr generate, or a part of it is not here.
    """
    from milr.jobs import Job, read_names, resume_run
    from milr.models.devices import Placement
    from milr.workers import load_chosen, read_reward_workers, read_workers

    if read_manifest(folder).benchmark is not None:
        raise UsageError(f"{folder} is a benchmark's run: type {say_resume(folder, benchmark=True)}")
    manifest, names = read_names(folder, typed)
    names = replace(names, panel=vlm.panel or names.panel)
    vlm.check_used(names.reward, names.evaluator, *names.panel, flag="--panel")
    screen.print(f"milr: going on with {folder}: loading {_the_model(names.model)} ...")
    placement = Placement(manifest.device, manifest.dtype, graphs)
    chosen, rewards = read_workers(*workers[:2]), read_reward_workers(*workers[2:])
    whole, given = manifest.deterministic, manifest.settings.flat
    parts = load_chosen(chosen, names, placement, vlm.client, hub, rewards=rewards, deterministic=whole, settings=given)
    writer = resume_run(folder, manifest, parts, names, vlm.client)
    left = set(writer.remaining())
    return Job(parts, writer), [task for task in read_run(folder).tasks if (task.index, task.image) not in left]


def _draw(
    job: Job,
    finished: Sequence[TaskRun],
    vlm: VlmOptions,
    screen: Console,
    result: Console,
    as_json: bool,
    verbose: bool,
    open_page: bool,
    fail_under: float | None,
) -> None:
    """Draw the rest of a run, and print the result."""
    from milr.benchmarks.tables import answers_of

    parts, folder, manifest = job.parts, job.folder, job.writer.manifest
    tasks, settings = manifest.tasks, manifest.settings
    go_on = f"to go on, type: {say_resume(folder, benchmark=False)}"
    screen.print(f"milr: by the method {name_search(settings)}")
    watched = {**({} if parts.evaluator is None else {"evaluator": parts.evaluator}), **parts.panel}
    for line in vlm.costs(parts.reward, watched, parts.model, settings.most_images(len(tasks) - len(finished)), tasks):
        screen.print(f"milr: {line}")
    progress = SearchProgress(screen, tasks, settings, job.time_left(), verbose=verbose, finished=finished)
    try:
        with progress, closing(job.run()) as records:
            for record, _, path in records:
                progress.show(record, path)
    except KeyboardInterrupt:
        for record, path in job.cut:
            progress.show(record, path)
        result.print(f"milr: interrupted; {progress.kept()} in {folder}{_say_cut(progress)}")
        result.print(f"milr: {go_on}")
        show_page(folder, result.print, open_page)
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise error.extend(f" ({progress.kept()} in {folder}; {go_on})") from error
    finally:
        if as_json:
            for outcome in progress.outcomes(folder):
                print(json.dumps(outcome, ensure_ascii=False))
        vlm.client.close()
    ending = screen if as_json else result  # of a quiet command, the objects are the result
    say_workers(job, screen, result, verbose)
    progress.conclude(folder, vlm.conclusion(progress.ends()), ending)
    bests = [last.best_score for _, last in progress.ends()]
    values = [best.value if isinstance(best, Score) else None for best in bests]
    if parts.evaluator is not None:
        values = [answer.value for answer in answers_of(read_run(folder))]
        known = [value for value in values if value is not None]
        mean = f"{sum(known) / len(known):.2f} on average" if known else "none scored"
        ending.print(f"evaluated:   {mean} by {parts.evaluator.name}, which was not optimised")
    if progress.unfinished():
        result.print(f"milr: {go_on}")
    show_page(folder, ending.print, open_page)
    end_by_scores([*values, *[None] * len(job.set_aside)], fail_under)


def _check_prompts(prompts: Sequence[str], file: Path | None) -> None:
    example = 'milr generate "a red apple and two blue cups"'
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

    return f"the {model} model" if model in MODELS else f"the model {model}"
