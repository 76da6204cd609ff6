"""`milr serve-judge`: the server of `milr serve` with a judge and without a model that draws."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, Device, Dtype, Reward
from milr.cli.serve import check_installed, load_judge, run_server

_PER_MINUTE = 100_000
"""Requests of one client: one that asks about every image of a search sends more than a page does."""


def serve_judge(
    reward: Reward = None,
    model: Annotated[str, typer.Option(help="Name or folder of the model whose images it will see.")] = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 8000,
    flip: Annotated[float, typer.Option(help="Share of verdicts that are inverted.")] = 0.0,
) -> None:
    """Serve a local reward as an OpenAI-compatible VLM judge, for --vlm-url on this machine.

    It prints what a client types. It draws and keeps nothing. If MILR_VLM_KEY is set, requests must bring it, as
    milr's own do.
    """
    check_installed()
    from milr.models.devices import Placement
    from milr.rewards.vlm.messages import OWN_KEY
    from milr.serve.app import make_app
    from milr.serve.config import Limits, ServeSettings
    from milr.serve.keys import KeyRing

    judge = load_judge(reward, model, Placement(device, dtype), flip)
    key = os.environ.get(OWN_KEY, "").strip()
    with TemporaryDirectory(prefix="milr-judge-") as folder:
        settings = ServeSettings(port=port, data=Path(folder), limits=Limits(per_minute=_PER_MINUTE))
        app = make_app([], settings, KeyRing([key] if key else []), judge)
        asks = f", for requests with the key in {OWN_KEY}" if key else ""
        run_server(
            app,
            settings,
            lambda url: (
                f"judging by {judge.name}{asks} (Ctrl-C ends it); a client types: --reward gpt-4o "
                f"--vlm-url {url}/v1 --vlm-model {judge.name}"
            ),
        )
