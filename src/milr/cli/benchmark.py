"""`milr benchmark`: a benchmark's table from one command; killed, it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from milr.benchmarks import BENCHMARKS
from milr.cli.options import (
    INTERRUPTED,
    L2,
    CreditName,
    Device,
    DrawingsPerStep,
    Dtype,
    Guidance,
    ImageRatio,
    LearningRate,
    ModelName,
    NoiseName,
    Offline,
    Profile,
    Rows,
    SamplerName,
    Seed,
    Steps,
    StopAt,
    Strategy,
    Temperature,
    TextRatio,
    Yes,
    check_names,
    given_settings,
    make_config,
)
from milr.cli.plan import ask
from milr.cli.progress import Watch
from milr.cli.score import JudgeBudget, JudgeModel, JudgeUrl, Judging
from milr.errors import MilrError, UsageError
from milr.models.hub import HubAccess
from milr.runs import default_folder

if TYPE_CHECKING:
    from milr.benchmarks.runner import BenchmarkJob  # brings torch

FORM = "milr benchmark icons --limit 12, or milr benchmark --resume FOLDER"
_WITH_RESUME = ("resume", "offline", "yes", "judge_url", "judge_model", "judge_budget")


def benchmark(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.")] = None,
    model: ModelName = "embedded",
    reward: Annotated[
        str | None, typer.Option(help="What the method sees; default: the benchmark's own scorer.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A reward that the method never sees; it gives the headline numbers.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="A name that milr info lists; default: milr.")] = None,
    limit: Annotated[int | None, typer.Option(help="As many prompts, spread over the tags.")] = None,
    tags: Annotated[str | None, typer.Option(metavar="TAG,...", help="Only prompts of these tags.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every Nth prompt from the Ith on.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Image n is drawn with the seed + n.")] = 1,
    pool: Annotated[
        int | None, typer.Option(metavar="N", help="Draw N pictures a prompt and never stop (best-of-n).")
    ] = None,
    strategy: Strategy = None,
    steps: Steps = None,
    text_ratio: TextRatio = None,
    image_ratio: ImageRatio = None,
    lr: LearningRate = None,
    l2: L2 = None,
    stop_at: StopAt = None,
    credit: CreditName = None,
    noise: NoiseName = None,
    drawings_per_step: DrawingsPerStep = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    sampler: SamplerName = None,
    seed: Seed = None,
    rows: Rows = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    profile: Profile = None,
    offline: Offline = False,
    yes: Yes = False,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_budget: JudgeBudget = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With the benchmark's files; default: milr data get's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder; default: runs/<time>-<name>-<method>.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with that run; its run.json has all settings.")
    ] = None,
) -> None:
    """Run a benchmark's prompts through a method and print its table, with intervals."""
    given = given_settings(context)
    judging = Judging.read(judge_url, judge_model, judge_budget)
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if resume is not None:
        _refuse_more_with_resume(context)
        # Torch comes with the runner, after the first line is on the screen.
        screen.print(f"milr: going on with {resume} ...")
        from milr.benchmarks.runner import BenchmarkJob

        job = BenchmarkJob.resume(resume, judging.judges, HubAccess(offline, ask(screen, yes)))
    else:
        if name is None:
            raise UsageError(f"no benchmark given: type {FORM}")
        make_config(given)
        check_names(model, reward, dtype)
        screen.print(f"milr: loading what {name} needs ...")
        from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings

        try:
            asked = BenchmarkSettings(
                benchmark=name,
                model=model,
                reward=reward,
                judge=judge,
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
                search=given,
            )
        except ValidationError as error:
            wrong = error.errors()[0]
            flag = str(wrong["loc"][0]).replace("_", "-")
            raise UsageError(f"--{flag} {wrong['input']}: give 1 or more") from None
        folder = out or default_folder(f"{name} {method or ('pool' if pool else 'milr')}")
        job = BenchmarkJob.begin(asked, folder, judging.judges, HubAccess(offline, ask(screen, yes)))
    _run(job, screen, judging)


def _run(job: BenchmarkJob, screen: Console, judging: Judging) -> None:
    manifest = job.writer.manifest
    watched = Watch(job, screen)
    watchers = {} if job.parts.judge is None else {job.parts.judge.name: job.parts.judge}
    for line in judging.costs(job.parts.reward, watchers, job.parts.model, watched.pictures()):
        screen.print(f"milr: {line}")
    try:
        with watched:
            for record, _, folder in job.run():
                watched.see(record, folder)
    except KeyboardInterrupt:
        screen.print(f"milr: interrupted; to go on, type: milr benchmark --resume {job.folder}")
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise MilrError(f"{error}; to go on, type: milr benchmark --resume {job.folder}") from error
    finally:
        judging.judges.close()
    scorer = manifest.judge or f"{manifest.reward}, the reward itself: it was optimised, so this flatters"
    typer.echo(f"{job.benchmark.title}, {manifest.method}, {manifest.model}; judged by {scorer}")
    typer.echo(str(job.table()))
    done = job.writer.manifest
    screen.print(f"{done.drawings:,.10g} drawings, {done.tokens:,} tokens, {done.seconds:,.0f} s in all sessions")
    for line in judging.conclusion([]):
        screen.print(line)
    typer.echo(f"run: {job.folder}")


def _refuse_more_with_resume(context: typer.Context) -> None:
    """All settings of a resumed run stand in its manifest: another one would be passed over silently."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--resume takes all settings from the run: leave {_flag(name)} out")


def _flag(name: str) -> str:
    return "the benchmark's name" if name == "name" else f"--{name.replace('_', '-')}"
