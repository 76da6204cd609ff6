"""`milr serve-judge`: a local reward behind the API of a VLM judge."""

from __future__ import annotations

from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, load_asked
from milr.rewards import check_reward, load_reward


def serve_judge(
    reward: Annotated[
        str, typer.Option(help="Scores the images: self (the model's own answers), icons or icons-soft.")
    ] = "self",
    model: Annotated[str, typer.Option(help="Name or folder of the model, for self.")] = DEFAULT_MODEL,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any.")] = 8000,
    flip: Annotated[float, typer.Option(help="Share of verdicts that are inverted.")] = 0.0,
) -> None:
    """Serve a local reward as an OpenAI-compatible VLM judge, for --vlm-url on this machine."""
    check_reward(reward)
    from milr.serve.judge import JudgeServer

    server = JudgeServer(load_reward(reward, model=load_asked(reward, model)), port=port, flip=flip)
    typer.echo(f"milr: judging by {server.name} at {server.url} (Ctrl-C ends it)")
    try:
        server.serve_forever()
    finally:
        server.close()
