"""`milr score-folder`: official scores of images from any system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from milr.benchmarks.layouts import LAYOUTS
from milr.benchmarks.score_folder import FolderJob
from milr.cli.options import INTERRUPTED, NOT_ALL_SCORED, Device, Dtype, Quiet, make_screen
from milr.cli.screen import echo
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import UsageError
from milr.models.devices import Placement, check_dtype
from milr.types import Unscored


def score_folder(
    folder: Annotated[Path, typer.Argument(help="Images in the benchmark's official layout.")],
    benchmark: Annotated[str, typer.Option(help=f"One of: {', '.join(LAYOUTS)}.")],
    reward: Annotated[
        str | None, typer.Option(help="Another scorer than the benchmark's own, for instance geneval-hf.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the results; default: <folder>-<reward> beside it."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The benchmark's prompts: refuse a folder that lacks some.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Images scored at once; each process holds the weights.")] = 1,
    device: Device = "cpu",
    dtype: Dtype = None,
    unidet: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="UniDet's own results for t2i-compbench, used instead of OWLv2."),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Refuse to score if the self-test fails.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Score a folder of images as the benchmark does; after an interruption, the same command continues."""
    check_dtype(dtype)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    options: dict[str, object] = {} if self_test else {"self_test": False}
    options |= {} if unidet is None else {"unidet": str(unidet)}
    job = FolderJob(
        folder,
        benchmark,
        reward=reward,
        out=out,
        prompts=prompts,
        processes=processes,
        options=options,
        placement=Placement(device, dtype),
        vlm=vlm.client.settings,
    )
    vlm.check_used(job.reward)
    screen, always = make_screen(quiet), make_screen(quiet=False)
    if job.done:
        screen.print(f"milr: {job.done} of {len(job.pictures)} images are scored already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=screen, disable=quiet)
    try:
        with progress:
            bar = progress.add_task("scoring", total=len(job.pictures), completed=job.done)
            for picture, score in job.run():
                progress.advance(bar)
                if isinstance(score, Unscored):
                    progress.console.print(f"unscored: {picture.key}: {score.reason}")
        summary = job.conclude()
    except KeyboardInterrupt:
        always.print(f"milr: interrupted; what was scored is in {job.out}: type the same command to go on")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise UsageError(f"cannot write {job.out} ({error.strerror}): give an --out that you may write to") from error
    echo(summary)
    always.print(f"results: {job.out}")
    if job.unscored:
        raise typer.Exit(NOT_ALL_SCORED)
