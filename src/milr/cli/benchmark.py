"""`milr benchmark`: a benchmark's table from one command, which can be resumed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from milr.benchmarks import BENCHMARKS, load_benchmark
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
    RewardCommand,
    RewardWorkers,
    Verbose,
    Workers,
    Yes,
    ask,
    check_names,
    choose_search,
    end_by_scores,
    flag_of,
    make_screen,
    name_flags,
    name_search,
    read_with_resume,
    say_workers,
    with_settings,
)
from milr.cli.progress import BenchmarkProgress
from milr.cli.screen import echo
from milr.cli.tables import Form, check_form, put, tabulate_answers
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import MilrError, UsageError
from milr.methods import choose_method
from milr.models import find_source
from milr.models.hub import HubAccess
from milr.rewards import check_reward
from milr.runs import default_folder, say_resume
from milr.settings import make_settings
from milr.types import say_count

if TYPE_CHECKING:
    from milr.benchmarks.runner import BenchmarkJob  # imports torch

FORM = "milr benchmark icons --limit 12, or milr benchmark --resume FOLDER"
_WITH_RESUME = (
    "resume",
    "form",
    "quiet",
    "verbose",
    "open_page",
    "offline",
    "yes",
    "no_graphs",
    "workers",
    "gpus_per_worker",
    "reward_workers",
    "reward_command",
    "gpus_per_reward_worker",
    "fail_under",
    "vlm_url",
    "vlm_model",
    "vlm_budget",
    "vlm_price",
)


@with_settings()
def benchmark(
    context: typer.Context,
    given: dict[str, object],
    name: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.")] = None,
    model: ModelName = DEFAULT_MODEL,
    reward: Annotated[
        str | None, typer.Option(help="The reward that is optimised; default: the benchmark's own scorer.")
    ] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="A reward that is never optimised; it gives the headline numbers.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="A name that milr info lists; default: the model's best measured one; milr is the paper's."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of prompts, spread over the tags.")] = None,
    tags: Annotated[str | None, typer.Option(metavar="TAG,...", help="Only prompts of these tags.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every Nth prompt from the Ith on.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Image n is drawn with the seed + n.")] = 1,
    pool: Annotated[
        int | None, typer.Option(metavar="N", help="Draw N images per prompt and never stop (best-of-n).")
    ] = None,
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
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder with the benchmark's files; default: the one that milr data get fills."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder; default: runs/<time>-<name>-<method>.")
    ] = None,
    open_page: Open = False,
    fail_under: FailUnder = None,
    form: Form = "text",
    quiet: Quiet = False,
    verbose: Verbose = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Continue this run; its run.json has all settings.")
    ] = None,
) -> None:
    """Run a benchmark's prompts through a method and print its table, with intervals."""
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    screen = make_screen(quiet, verbose)
    check_form(form)
    hub, more = HubAccess(offline, ask(screen, yes)), (reward_workers, reward_command, gpus_per_reward_worker)
    if resume is not None:
        typed = read_with_resume(context, _WITH_RESUME)
        # torch comes with the runner, after the first line is on the screen
        screen.print(f"milr: going on with {resume} ...")
        from milr.benchmarks.runner import BenchmarkJob
        from milr.jobs import read_names
        from milr.workers import read_reward_workers, read_workers

        _, names = read_names(resume, typed)
        vlm.check_used(names.reward, names.evaluator, flag=None)
        chosen, rewards = read_workers(workers, gpus_per_worker), read_reward_workers(*more)
        job = BenchmarkJob.resume(resume, vlm.client, hub, typed, not no_graphs, chosen, rewards)
    else:
        if name is None:
            raise UsageError(f"no benchmark given: type {FORM}")
        make_settings(choose_method(method, pool), given)
        check_names(model, reward, dtype)
        if evaluator is not None:
            check_reward(evaluator)
        vlm.check_used(reward or load_benchmark(name).reward, evaluator)
        if pool is None:
            method, given = choose_search(method, given, find_source(model, weights=False, offline=offline))
        screen.print(f"milr: loading what {name} needs ...")
        from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings
        from milr.workers import read_reward_workers, read_workers

        try:
            asked = BenchmarkSettings(
                benchmark=name,
                model=model,
                reward=reward,
                evaluator=evaluator,
                method=method,
                tags=() if tags is None else tuple(tag.strip() for tag in tags.split(",")),
                limit=limit,
                shard=shard,
                images_per_prompt=images_per_prompt,
                pool=pool,
                data=data,
                device=device,
                dtype=dtype,
                profile=profile,
                graphs=not no_graphs,
                settings=given,
            )
        except ValidationError as error:
            wrong = error.errors()[0]
            raise UsageError(f"{flag_of(str(wrong['loc'][0]))} {wrong['input']}: give 1 or more") from None
        folder = out or default_folder(f"{name} {method or ('pool' if pool else 'milr')}")
        chosen, rewards = read_workers(workers, gpus_per_worker), read_reward_workers(*more)
        job = BenchmarkJob.begin(asked, folder, vlm.client, hub, chosen, rewards)
    _run(job, BenchmarkProgress(job, screen, verbose=verbose), screen, vlm, form, open_page, fail_under)


def _run(
    job: BenchmarkJob,
    progress: BenchmarkProgress,
    screen: Console,
    vlm: VlmOptions,
    form: str,
    open_page: bool,
    fail_under: float | None,
) -> None:
    manifest, parts, always = job.writer.manifest, job.parts, make_screen(quiet=False)
    evaluator = {} if parts.evaluator is None else {parts.evaluator.name: parts.evaluator}
    for line in vlm.costs(parts.reward, evaluator, parts.model, progress.images(), manifest.tasks):
        screen.print(f"milr: {line}")
    try:
        with progress, closing(job.run()) as records:
            for record, image, folder in records:
                progress.show(record, image, folder)
    except KeyboardInterrupt:
        always.print(f"milr: interrupted; to go on, type: {say_resume(job.folder, benchmark=True)}")
        show_page(job.folder, always.print, open_page)
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise error.extend(f"; to go on, type: {say_resume(job.folder, benchmark=True)}") from error
    finally:
        vlm.client.close()
    scorer = (
        manifest.evaluator
        or f"{manifest.reward}, the reward itself, which the search optimised: a score too good to compare"
    )
    title = f"{job.benchmark.title}, {name_search(manifest.settings)}, {manifest.model}; evaluated by {scorer}"
    if form == "text":
        echo(title)
        echo(str(job.table()))
    else:
        put([tabulate_answers(job.table(), title)], form, None)
    say = echo if form == "text" else always.print  # standard output is the table alone
    done = job.writer.manifest
    spent = f"{say_count(done.drawings, 'drawing')}, {say_count(done.tokens, 'token')}"
    screen.print(f"{spent}, {done.seconds:,.0f} s in all sessions")
    if progress.ends():
        screen.print(f"tasks ended: {progress.ends()}")
    say_workers(job, screen, always, progress.verbose)
    if job.stopped is not None:
        go_on = f"to go on, type: {say_resume(job.folder, benchmark=True)}"
        too_small = "no task can finish within it: begin a new run with a larger total limit"
        always.print(f"milr: stopped, {name_flags(job.stopped)}; {go_on if progress.ends() else too_small}")
    for line in vlm.conclusion([]):
        screen.print(line)
    say(f"run: {job.folder}")
    show_page(job.folder, say, open_page)
    end_by_scores([*progress.scores(), *[None] * len(job.set_aside)], fail_under)
