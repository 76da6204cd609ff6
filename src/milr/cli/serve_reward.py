"""`milr serve-reward`: a reward of this machine for others' searches, in a process with its own packages."""

from __future__ import annotations

from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, Device, Dtype, check_model_asked, load_asked
from milr.errors import UsageError
from milr.models.devices import Placement, check_dtype
from milr.rewards import check_reward, load_reward


def serve_reward(
    reward: Annotated[str, typer.Argument(help="A name that milr info lists, with its argument.")],
    model: Annotated[
        str | None, typer.Option(help="The model that the reward asks, where it asks the one that draws.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; all who reach it can have images scored.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8123,
    attached: Annotated[
        bool, typer.Option("--attached", help="End when standard input is closed, with the program that began it.")
    ] = False,
) -> None:
    """Serve a reward over HTTP, for --reward http://HOST:PORT/score of any search; several URLs share its images."""
    check_reward(reward)
    check_dtype(dtype)
    if reward.startswith(("http:", "https:")):
        raise UsageError(f"{reward} is served already: give it to --reward")
    check_model_asked(reward, model)
    from milr.workers.reward_server import RewardServer, serve

    placement = Placement(device, dtype)
    asked = load_asked(reward, model or DEFAULT_MODEL, placement)
    serve(RewardServer(load_reward(reward, model=asked, placement=placement), host, port), attached=attached)
