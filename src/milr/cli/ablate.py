"""`milr ablate`: a recipe's runs, one after another, and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from milr.cli.options import INTERRUPTED, Device, Dtype, Rows, Seed, Steps
from milr.cli.progress import Watch
from milr.cli.score import JudgeBudget, JudgeModel, JudgeUrl, Judging
from milr.cli.tables import Form, put
from milr.errors import MilrError
from milr.runs.layout import MANIFEST

if TYPE_CHECKING:
    from milr.benchmarks.base import Column
    from milr.benchmarks.runner import BenchmarkSettings  # brings torch


def ablate(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a .toml file; leave it out to see the list.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="Another benchmark than the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the embedded one.")] = None,
    reward: Annotated[str | None, typer.Option(help="What all runs see that say nothing else.")] = None,
    judge: Annotated[str | None, typer.Option(help="What gives all runs' headline numbers.")] = None,
    limit: Annotated[int | None, typer.Option(help="As many prompts, spread over the tags.")] = None,
    images_per_prompt: Annotated[int | None, typer.Option(help="Image n is drawn with the seed + n.")] = None,
    pool: Annotated[int | None, typer.Option(help="Drawings a prompt in best-of-n's pools; default: K + 1.")] = None,
    steps: Steps = None,
    seed: Seed = None,
    rows: Rows = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="With the benchmark's files.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many, one after another; default: the recipe's.")
    ] = None,
    twins: Annotated[
        bool | None,
        typer.Option("--twins/--no-twins", help="Each search's twin without credit; default: the recipe's."),
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the planned runs, from the first on.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Say what would be run, and run nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of the sweep; default: runs/ablate-<recipe>-<benchmark>.")
    ] = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_budget: JudgeBudget = None,
    form: Form = "text",
) -> None:
    """Make a recipe's runs and compare them. Killed, the same command goes on; finished runs are not made again.

    Typed twice at the same time, each process makes other runs.
    """
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    screen.print("milr: planning ...")
    from milr.report.ablation import plan_runs, read_recipe, recipe_names, run_plan, start_or_resume
    from milr.report.comparison import compare, comparison_tables
    from milr.report.entries import read_entries

    if recipe is None:
        for name in recipe_names():
            found = read_recipe(name)
            typer.echo(f"{name:<17} {found.title}, on {found.benchmark}; duration: {found.duration}")
        return
    given = {
        "benchmark": benchmark,
        "model": model,
        "reward": reward,
        "judge": judge,
        "limit": limit,
        "images_per_prompt": images_per_prompt,
        "pool": pool,
        "steps": steps,
        "seed": seed,
        "max_rows": rows,
        "dtype": dtype,
        "data": data,
    }
    found = read_recipe(recipe)
    known = {"device": device, **{name: value for name, value in given.items() if value is not None}}
    planned = plan_runs(found, known, twins=twins, seeds=seeds)[:first]
    screen.print(f"{found.title}: {len(planned)} runs of {planned[0].settings.benchmark}")
    screen.print(f"meant for {found.hardware}; duration: {found.duration}; expected: {found.expected}")
    if only_plan:
        for one in planned:
            typer.echo(f"{one.name}: {one.settings.model_dump_json(exclude_defaults=True)}")
        return
    judging = Judging.read(judge_url, judge_model, judge_budget)
    folder = out or Path("runs") / f"ablate-{Path(recipe).stem}-{planned[0].settings.benchmark}"

    failed: list[str] = []

    def run(settings: BenchmarkSettings, where: Path) -> None:
        try:
            job = start_or_resume(settings, where, judges=judging.judges)
            with Watch(job, screen) as watched:
                for record, _, task in job.run():
                    watched.see(record, task)
        except MilrError as error:  # the other runs may well be made
            failed.append(where.name)
            screen.print(f"error: {where.name}: {error}")
            return
        made = job.writer.manifest
        spent = f"{made.drawings:,.10g} drawings, {made.seconds:,.0f} s"
        screen.print(f"{where.name}: {_say(job.table().running)}, {spent}")

    folders: list[Path] = []
    try:
        for one, where, done in run_plan(planned, folder, run):
            place = f"{planned.index(one) + 1}/{len(planned)}"
            screen.print(f"{place} {one.name}{': finished already' if done else ''}")
            folders.append(where)
    except KeyboardInterrupt:
        screen.print(f"milr: interrupted; type the same command to go on in {folder}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        judging.judges.close()
    again = f"type the same command to go on in {folder}"
    others = [one.name for one in planned if folder / one.name not in folders]
    if others:
        screen.print(f"another process makes {', '.join(others)}: once it has, {again}")
    begun = [where for where in folders if where.name not in failed or _has_answers(where)]
    if begun:
        put(comparison_tables(compare(read_entries(begun))), form, None)
    screen.print(f"runs: {folder}; all tables and figures: milr report {folder}/*/ --out report.html")
    if failed:
        raise MilrError(f"{len(failed)} of {len(planned)} runs failed ({', '.join(failed)}): {again}")


def _say(score: Column | None) -> str:
    return "nothing could be scored" if score is None else f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _has_answers(folder: Path) -> bool:
    """Whether a run has a finished task."""
    from milr.runs import read_run

    return (folder / MANIFEST).is_file() and bool(read_run(folder).tasks)
