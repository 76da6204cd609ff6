"""`milr serve`: images and searches over HTTP, and a page to watch them. `milr index`: rebuild its index."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milr.cli.options import (
    DEFAULT_MODEL,
    Device,
    Dtype,
    GpusPerWorker,
    Reward,
    Workers,
    check_names,
    load_asked,
)
from milr.cli.screen import echo
from milr.errors import UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from milr.models.devices import Placement
    from milr.serve.config import ServeSettings
    from milr.serve.judge import Judge

_GB = 10**9
Data = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs and of their index.")]


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, as milr generate takes it; may be given several times, the first is the default."),
    ] = None,
    reward: Reward = None,
    panel: Annotated[
        list[str] | None,
        typer.Option(
            help="A reward that is shown and never optimised; default: icons-judge for models that draw icons."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others can reach needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8000,
    data: Data = Path("runs"),
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="API keys, one a line, or their hashes; MILR_API_KEYS has more of them."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images in progress at once, of each model, and of each worker.")
    ] = 16,
    memory: Annotated[
        float | None,
        typer.Option(min=0, metavar="GB", help="Weights that may be loaded at once; default: no limit."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    vlm_judge: Annotated[
        str | None,
        typer.Option(metavar="REWARD", help="A reward that answers as a VLM judge, for others' --vlm-url."),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log too.")] = False,
) -> None:
    """Serve images and searches over HTTP, with a page to watch them."""
    check_installed()
    from milr.models.devices import Placement
    from milr.serve.app import make_app
    from milr.serve.config import ServeSettings
    from milr.serve.keys import VARIABLE, read_keys
    from milr.serve.offers import make_offer
    from milr.workers import read_workers

    names = _read_models(model)
    for name in names:
        check_names(name, reward, dtype)
    ring = read_keys(keys, os.environ.get(VARIABLE))
    settings = ServeSettings(
        host=host,
        port=port,
        data=data,
        batch_size=batch_size,
        memory=None if memory is None else round(memory * _GB),
        log_prompts=log_prompts,
    )
    placement, spread = Placement(device, dtype), read_workers(workers, gpus_per_worker)
    offers = [
        make_offer(name, reward=reward, panel=panel, placement=placement, workers=spread, batch_size=batch_size)
        for name in names
    ]
    judge = None if vlm_judge is None else load_judge(vlm_judge, names[0], placement)
    app = make_app(offers, settings, ring, judge)
    told = f"serving {', '.join(names)}" + (f", judging by {judge.name}," if judge else "")
    run_server(app, settings, lambda url: f"{told} at {url} (Ctrl-C ends it; searches go on at the next start)")


def index(data: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs")) -> None:
    """Rebuild the index of milr serve from the run folders: searches, their steps, their results."""
    check_installed()
    from milr.serve.reindex import reindex

    if not data.is_dir():
        raise UsageError(f"{data} is no folder: give the folder of the runs")
    found = reindex(data)
    for line in found.faults:
        echo(f"milr: {line}", err=True)
    echo(f"milr: {found.runs} runs with {found.steps} steps in {data}, {found.gone} that are gone left out")


def _read_models(model: Sequence[str] | None) -> list[str]:
    names = list(model or [DEFAULT_MODEL])
    if len(set(names)) < len(names):
        raise UsageError(f"--model {max(names, key=names.count)} is there twice: leave one out")
    return names


def check_installed() -> None:
    """Refuse to serve without the packages that it needs.

    Raises:
        UsageError: Names them.
    """
    missing = [name for name in ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise UsageError(f'{", ".join(missing)} is not installed: pip install "milr[serve]"')


def load_judge(reward: str | None, model: str, placement: Placement, flip: float = 0.0) -> Judge:
    """Load a reward that answers questions about a model's images.

    Args:
        reward: A name; None takes the model's default.
        model: Name or folder of the model whose images it will see.
        placement: Where it computes.
        flip: The share of verdicts that are inverted.

    Raises:
        UsageError: No such reward or model, a reward that cannot score its images, or no share.
    """
    check_names(model, reward, placement.dtype)
    from milr.models import find_source, read_capabilities
    from milr.rewards import check_scorable, default_reward, load_reward
    from milr.serve.judge import Judge, check_flip

    check_flip(flip)
    capabilities = read_capabilities(find_source(model, weights=False))
    reward = reward or default_reward(capabilities)
    check_scorable(reward, (), capabilities)
    return Judge(load_reward(reward, model=load_asked(reward, model, placement), placement=placement), flip=flip)


def run_server(app: FastAPI, settings: ServeSettings, tell: Callable[[str], str]) -> None:
    """Serve an application until the process gets a signal to end.

    Args:
        app: From `milr.serve.app.make_app`.
        settings: How it runs.
        tell: Returns the message that is printed when the server listens, from its address.
    """
    from milr.serve.listen import listening, wait_for_end
    from milr.serve.logs import start_logs

    start_logs()
    with listening(app, settings) as listener:
        echo(f"milr: {tell(listener.url)}")
        wait_for_end(listener)
