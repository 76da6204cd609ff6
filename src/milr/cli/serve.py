"""`milr serve`: images and searches over HTTP, and a page to watch them. `milr index`: rebuild its index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, Device, Dtype, Reward, check_names
from milr.cli.screen import echo
from milr.errors import UsageError

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
        typer.Option(help="A reward that only watches; default: icons-judge for models that draw icons."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others can reach needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8000,
    data: Data = Path("runs"),
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="API keys, one a line, or their hashes; MILR_API_KEYS has more of them."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in progress at once, of each model.")] = 16,
    memory: Annotated[
        float | None,
        typer.Option(min=0, metavar="GB", help="Weights that may be loaded at once; default: no limit."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log too.")] = False,
) -> None:
    """Serve images and searches over HTTP, with a page to watch them."""
    _check_installed()
    from milr.models.devices import Placement
    from milr.serve.app import make_app
    from milr.serve.config import ServeSettings
    from milr.serve.keys import VARIABLE, read_keys
    from milr.serve.listen import listening, wait_for_end
    from milr.serve.logs import start_logs
    from milr.serve.offers import make_offer

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
    placement = Placement(device, dtype)
    app = make_app(
        [make_offer(name, reward=reward, panel=panel, placement=placement) for name in names], settings, ring
    )
    start_logs()
    with listening(app, settings) as listener:
        echo(f"milr: serving {', '.join(names)} at {listener.url} (Ctrl-C ends it; searches go on at the next start)")
        wait_for_end(listener)


def index(data: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs")) -> None:
    """Rebuild the index of milr serve from the run folders: searches, their steps, their results."""
    _check_installed()
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


def _check_installed() -> None:
    missing = [name for name in ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise UsageError(f'{", ".join(missing)} is not installed: pip install "milr[serve]"')
