"""`milr judge`: finished runs, seen by another judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from milr.cli.options import Device
from milr.cli.score import JudgeBudget, JudgeModel, JudgeUrl, Judging, load_asked
from milr.errors import MilrError
from milr.rewards import check_reward, load_reward


def judge(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs.")],
    judge: Annotated[str, typer.Option(help="What gives the headline numbers from now on; milr info lists names.")],
    device: Device = "cpu",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_budget: JudgeBudget = None,
) -> None:
    """Show the pictures of finished runs to another judge. Nothing is drawn again, and no answer changes."""
    check_reward(judge)
    judging = Judging.read(judge_url, judge_model, judge_budget)
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    screen.print(f"milr: loading {judge} ...")
    from milr.runs import check_judgeable, judge_run

    manifests = [check_judgeable(run) for run in runs]
    model = load_asked(judge, manifests[0].model_asked or manifests[0].model, device)
    made = load_reward(judge, model=model, judges=judging.judges)
    for line in judging.costs(made, {}, model, round(sum(manifest.drawings for manifest in manifests))):
        screen.print(f"milr: {line}")
    spent = judging.judges.spending
    try:
        for run, manifest in zip(runs, manifests, strict=True):
            if manifest.judge == made.name:
                typer.echo(f"{run}: judged by {made.name} already")
                continue
            done = sum(1 for _ in judge_run(run, made, judge, judges=spent))
            typer.echo(f"{run}: {done} tasks, judged by {made.name} instead of {manifest.judge or 'nothing'}")
    except MilrError as error:
        raise MilrError(f"{error}; the same command goes on") from error
    finally:
        judging.judges.close()
    for line in judging.conclusion([]):
        screen.print(line)
