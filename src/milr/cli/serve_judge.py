"""`milr serve-judge`: a local reward with the API of a VLM judge."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, Device, Dtype, Reward, check_names, load_asked
from milr.cli.screen import echo
from milr.rewards import check_scorable, default_reward, load_reward


def serve_judge(
    reward: Reward = None,
    model: Annotated[str, typer.Option(help="Name or folder of the model whose images it will see.")] = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any.")] = 8000,
    flip: Annotated[float, typer.Option(help="Share of verdicts that are inverted.")] = 0.0,
) -> None:
    """Serve a local reward as an OpenAI-compatible VLM judge, for --vlm-url on this machine.

    If MILR_VLM_KEY is set, requests must bring it, as milr's own do.
    """
    check_names(model, reward, dtype)
    from milr.models import find_source, read_capabilities
    from milr.models.devices import Placement
    from milr.rewards.vlm.messages import OWN_KEY
    from milr.serve.judge import JudgeServer

    capabilities, placement = read_capabilities(find_source(model, weights=False)), Placement(device, dtype)
    reward = reward or default_reward(capabilities)
    check_scorable(reward, (), capabilities)
    scorer = load_reward(reward, model=load_asked(reward, model, placement), placement=placement)
    key = os.environ.get(OWN_KEY, "").strip() or None
    server = JudgeServer(scorer, port=port, flip=flip, key=key)
    asks = f", for requests with the key in {OWN_KEY}" if key else ""
    echo(f"milr: judging by {server.name} at {server.url}{asks} (Ctrl-C ends it)")
    try:
        server.serve_forever()
    finally:
        server.close()
