"""`milr ablate`: a recipe's runs, one after another, and their comparison."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milr.benchmarks import load_benchmark
from milr.cli.options import (
    INTERRUPTED,
    Device,
    Dtype,
    GpusPerWorker,
    Quiet,
    Verbose,
    Workers,
    make_screen,
    say_workers,
    with_settings,
)
from milr.cli.progress import BenchmarkProgress
from milr.cli.screen import echo
from milr.cli.tables import Form, put
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import MilrError
from milr.runs.layout import MANIFEST
from milr.types import say_count

if TYPE_CHECKING:
    from milr.benchmarks.base import Column
    from milr.benchmarks.runner import BenchmarkSettings  # imports torch


@with_settings("steps", "seed", "batch_size")
def ablate(
    given: dict[str, object],
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a .toml file; leave it out to see the list.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="Another benchmark than the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the recipe's.")] = None,
    reward: Annotated[str | None, typer.Option(help="The reward of all runs that do not name one.")] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="A reward that is never optimised; it gives all runs' headline numbers.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of prompts, spread over the tags.")] = None,
    images_per_prompt: Annotated[int | None, typer.Option(help="Image n is drawn with the seed + n.")] = None,
    pool: Annotated[int | None, typer.Option(help="Drawings per prompt in best-of-n's pools; default: K + 1.")] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder with the benchmark's files.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, one after another; default: the recipe's.")
    ] = None,
    controls: Annotated[
        bool | None,
        typer.Option("--controls/--no-controls", help="Zero-gradient controls of all searches; default: the recipe's."),
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Make only this many of the planned runs, starting with the first.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print the planned runs without making them.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the sweep; default: runs/ablate-<recipe>-<benchmark>."),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    form: Form = "text",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a recipe's runs and compare them. After an interruption, the same command makes the remaining runs.

    If it is typed twice, both processes share the runs.
    """
    screen, always = make_screen(quiet, verbose), make_screen(quiet=False)
    screen.print("milr: planning ...")
    from milr.report.ablation import plan_runs, read_recipe, recipe_names, run_plan, start_or_resume
    from milr.report.comparison import compare
    from milr.report.comparison_tables import comparison_tables
    from milr.report.entries import read_entries
    from milr.workers import read_workers

    if recipe is None:
        for name in recipe_names():
            found = read_recipe(name)
            echo(f"{name:<17} {found.title}, on {found.benchmark}; duration: {found.duration}")
        return
    chosen = {
        "benchmark": benchmark,
        "model": model,
        "reward": reward,
        "evaluator": evaluator,
        "limit": limit,
        "images_per_prompt": images_per_prompt,
        "pool": pool,
        "dtype": dtype,
        "data": data,
    }
    found = read_recipe(recipe)
    known = {"device": device, **given, **{name: value for name, value in chosen.items() if value is not None}}
    planned = plan_runs(found, known, controls=controls, seeds=seeds)[:first]
    every = [one.settings for one in planned]
    scorers = [name for one in every for name in (one.reward or load_benchmark(one.benchmark).reward, one.evaluator)]
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    vlm.check_used(*scorers)
    screen.print(f"{found.title}: {say_count(len(planned), 'run')} of {planned[0].settings.benchmark}")
    screen.print(f"meant for {found.hardware}; duration: {found.duration}; expected: {found.expected}")
    if only_plan:
        for one in planned:
            echo(f"{one.name}: {one.settings.model_dump_json(exclude_defaults=True)}")
        return
    folder = out or Path("runs") / f"ablate-{Path(recipe).stem}-{planned[0].settings.benchmark}"

    chosen, failed = read_workers(workers, gpus_per_worker), list[str]()

    def run(settings: BenchmarkSettings, where: Path) -> None:
        try:
            job = start_or_resume(settings, where, vlm=vlm.client, workers=chosen)
            with BenchmarkProgress(job, screen, verbose=verbose) as progress, closing(job.run()) as records:
                for record, image, task in records:
                    progress.show(record, image, task)
        except MilrError as error:  # the other runs may succeed
            failed.append(where.name)
            always.print(f"error: {where.name}: {error}")
            return
        say_workers(job, screen, always, verbose)
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
        always.print(f"milr: interrupted; type the same command to go on in {folder}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        vlm.client.close()
    again = f"type the same command to go on in {folder}"
    others = [one.name for one in planned if folder / one.name not in folders]
    if others:
        always.print(f"another process makes {', '.join(others)}: once it has, {again}")
    begun = [where for where in folders if where.name not in failed or _has_answers(where)]
    if begun:
        put(comparison_tables(compare(read_entries(begun))), form, None)
    always.print(f"runs: {folder}; all tables and figures: milr report {folder}/*/ --out report.html")
    if failed:
        raise MilrError(f"{len(failed)} of {len(planned)} runs failed ({', '.join(failed)}): {again}")


def _say(score: Column | None) -> str:
    return "nothing could be scored" if score is None else score.write(3)


def _has_answers(folder: Path) -> bool:
    """Return true if a run has a finished task."""
    from milr.runs import read_run

    return (folder / MANIFEST).is_file() and bool(read_run(folder).tasks)
