"""`milr evaluate`: finished runs, scored by another evaluator."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milr.cli.options import (
    Device,
    Dtype,
    FailUnder,
    RewardCommand,
    RewardWorkers,
    check_model_asked,
    end_by_scores,
    load_asked,
)
from milr.cli.screen import Screen, echo
from milr.cli.vlm import VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl
from milr.errors import MilrError, UsageError
from milr.models import MODELS
from milr.models.devices import Placement, check_dtype, machine_facts
from milr.registry import check_stored
from milr.rewards import check_reward, check_scorable, load_reward, locate_reward, needs_model
from milr.types import say_count

if TYPE_CHECKING:
    from milr.models.base import Capabilities  # imports torch
    from milr.runs import Manifest


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs.")],
    evaluator: Annotated[
        str, typer.Option(help="The reward that gives the headline numbers from now on; milr info lists names.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that drew them; needed if the runs name code, which is loaded only if it is typed."
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    reward_workers: RewardWorkers = None,
    reward_command: RewardCommand = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    fail_under: FailUnder = None,
) -> None:
    """Score the images of finished runs by another evaluator. Nothing is drawn again, and no answer changes."""
    check_reward(evaluator)
    check_model_asked(evaluator, model)
    check_dtype(dtype)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price)
    vlm.check_used(evaluator, flag="--evaluator")
    screen = Screen(stderr=True)
    screen.print(f"milr: loading {evaluator} ...")
    from milr.benchmarks import is_benchmark, load_benchmark
    from milr.benchmarks.tables import answers_of
    from milr.runs import check_evaluable, evaluate_run, is_evaluated, read_run
    from milr.workers import read_reward_workers, start_servers

    manifests, placement = [check_evaluable(run) for run in runs], Placement(device, dtype)
    for manifest in manifests:
        if is_benchmark(manifest.benchmark):
            load_benchmark(manifest.benchmark).check_scorer(evaluator, "--evaluator")
        check_scorable(evaluator, manifest.tasks, _find_capabilities(manifest), "--evaluator")
    models = sorted({manifest.model for manifest in manifests})
    if len(models) > 1 and needs_model(evaluator):
        raise UsageError(
            f"{evaluator} asks the model that drew, and {' and '.join(models)} drew these runs: "
            "give one model's runs at a time"
        )
    drew = manifests[0].model_asked or manifests[0].model
    if needs_model(evaluator):
        check_stored("model", drew, MODELS, runs[0], () if model is None else (model,))
        if model not in (None, drew):
            raise UsageError(f"{drew} drew {runs[0]}, not {model}: leave --model out")
    asked, served = load_asked(evaluator, drew, placement), evaluator
    rewards, servers = read_reward_workers(reward_workers, reward_command), ExitStack()
    if rewards is not None:
        served = servers.enter_context(start_servers(evaluator, placement, rewards)).name
    scorer = load_reward(served, model=asked, vlm=vlm.client, placement=placement)
    machine = machine_facts(placement, {"evaluator_device": locate_reward(evaluator, placement)})
    images, tasks = sum(one.drawings for one in manifests), [task for one in manifests for task in one.tasks]
    for line in vlm.costs(scorer, {}, asked, round(images), tasks):
        screen.print(f"milr: {line}")
    try:
        for run, manifest in zip(runs, manifests, strict=True):
            again = manifest.evaluator == scorer.name
            if again and is_evaluated(run, scorer.name):
                echo(f"{run}: evaluated by {scorer.name} already")
                continue
            evaluated = evaluate_run(run, scorer, evaluator, vlm_usage=vlm.client.usage, machine=machine)
            done = sum(1 for _ in evaluated)
            before = "again, where it had not scored" if again else f"instead of {manifest.evaluator or 'nothing'}"
            echo(f"{run}: {say_count(done, 'task')}, evaluated by {scorer.name} {before}")
            for note in read_run(run).notes:
                screen.print(f"milr: {note}")
    except MilrError as error:
        raise error.extend("; the same command goes on") from error
    except OSError as error:
        raise UsageError(
            f"cannot write the scores ({error.strerror or error}): make room there; the same command goes on"
        ) from error
    finally:
        vlm.client.close()
        servers.close()
    for line in vlm.conclusion([]):
        screen.print(line)
    end_by_scores([answer.value for run in runs for answer in answers_of(read_run(run))], fail_under)


def _find_capabilities(manifest: Manifest) -> Capabilities | None:
    """Return the capabilities of a run's model; None if the model is not here any more."""
    from milr.models import MODELS, find_source, read_capabilities

    for name in (manifest.model_asked, manifest.model_folder):
        try:
            if name is not None:
                check_stored("model", str(name), MODELS, "the run")
                return read_capabilities(find_source(name, weights=False, offline=True), manifest.profile)
        except UsageError:
            continue
    return None
