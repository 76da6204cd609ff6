"""`milr evaluate`: finished runs, scored by another evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from milr.cli.options import Device, load_asked
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import MilrError
from milr.rewards import check_reward, load_reward


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs.")],
    evaluator: Annotated[
        str, typer.Option(help="The reward that gives the headline numbers from now on; milr info lists names.")
    ],
    device: Device = "cpu",
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
) -> None:
    """Score the images of finished runs by another evaluator. Nothing is drawn again, and no answer changes."""
    check_reward(evaluator)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    screen.print(f"milr: loading {evaluator} ...")
    from milr.runs import check_evaluable, evaluate_run

    manifests = [check_evaluable(run) for run in runs]
    model = load_asked(evaluator, manifests[0].model_asked or manifests[0].model, device)
    scorer = load_reward(evaluator, model=model, vlm=vlm.client)
    for line in vlm.costs(scorer, {}, model, round(sum(manifest.drawings for manifest in manifests))):
        screen.print(f"milr: {line}")
    try:
        for run, manifest in zip(runs, manifests, strict=True):
            if manifest.evaluator == scorer.name:
                typer.echo(f"{run}: evaluated by {scorer.name} already")
                continue
            done = sum(1 for _ in evaluate_run(run, scorer, evaluator, vlm_usage=vlm.client.usage))
            typer.echo(f"{run}: {done} tasks, evaluated by {scorer.name} instead of {manifest.evaluator or 'nothing'}")
    except MilrError as error:
        raise MilrError(f"{error}; the same command goes on") from error
    finally:
        vlm.client.close()
    for line in vlm.conclusion([]):
        screen.print(line)
