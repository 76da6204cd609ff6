"""`milr plan`: the memory and speed of a model, before it is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from milr.cli.options import DEFAULT_MODEL, Device, Dtype, ModelName, Offline, Profile, Reward
from milr.errors import UsageError


def plan(
    model: ModelName = DEFAULT_MODEL,
    profile: Profile = None,
    reward: Reward = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    try_it: Annotated[
        bool, typer.Option("--probe", help="Load it, or random weights of its shape, and draw for ten seconds.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Drawings at a time in the probe; default: what fits, at most 16.")
    ] = None,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Say what a model needs, how many drawings fit at a time, and how many it makes per hour.

    Everything but the probe is read from the config alone; of a checkpoint at the hub only small files are fetched.
    """
    from milr.models import find_model
    from milr.models.checkpoint import open_checkpoint
    from milr.models.devices import Placement, check_dtype
    from milr.models.sizing import make_plan, plan_cards, probe
    from milr.rewards import check_reward, check_scorable, default_reward, locate_reward

    check_dtype(dtype)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give 1 or more")
    if reward is not None:
        check_reward(reward)
    folder = find_model(model, weights=False, offline=offline)
    checkpoint = open_checkpoint(folder, profile=profile, weights=False)
    reward = reward or default_reward(checkpoint.capabilities)
    check_scorable(reward, (), checkpoint.capabilities)
    needs, place = _reward_bytes(reward), locate_reward(reward, Placement(device, dtype))
    made = make_plan(checkpoint, device=device, dtype=dtype, reward=(needs or 0) if place == device else 0)
    cards = plan_cards(checkpoint, reward=needs or 0)
    found: dict[str, object] = {
        "model": model,
        "profile": checkpoint.profile_name,
        "capabilities": dataclasses.asdict(checkpoint.capabilities),
        "device": device,
        **dataclasses.asdict(made),
        "reward": reward,
        "reward_bytes": needs,
        "reward_device": place,
        "cards": [dataclasses.asdict(card) for card in cards],
    }
    weights, count, rate = "", 0, 0.0
    if try_it:
        from milr.models.janus import Janus

        random = not any(folder.glob("*.safetensors"))
        weights = "random" if random else "its own"
        loaded = Janus(folder, device=device, dtype=dtype, profile=profile, random=random)
        count = batch_size or max(1, min(16, made.rows or 1))
        rate = probe(loaded, rows=count)
        found["probe"] = {"weights": weights, "rows": count, "drawings_per_hour": rate}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    capabilities = checkpoint.capabilities
    lines = [
        f"model       {model}, profile {checkpoint.profile_name} ({checkpoint.profile.summary})",
        f"images      {capabilities.image_size} pixels a side, {capabilities.image_tokens} tokens, "
        f"{'one pass' if capabilities.passes == 1 else 'two passes'}, latents: {capabilities.latents}",
        f"weights     {_size(made.weights)} in {made.dtype} on {device} ("
        + ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in made.parameters.items())
        + ")",
        f"a drawing   {_size(made.row)}: {made.tokens} tokens in two rows of {_size(made.cache_per_token)} each, and "
        f"{_size(made.latents)} of latents at most",
    ]
    size = "size not known before it runs" if needs is None else _size(needs)
    lines.append(f"reward      {reward}: {size}, {place if ':' in place else f'on {place}'}")
    lines.append(f"free        {'not known' if made.free is None else _size(made.free)} on {device}")
    lines.append(f"at a time   {'not known' if made.rows is None else made.rows} drawings")
    if made.rows == 0:
        lines[-1] += ": give a smaller dtype (--dtype bfloat16), another device, or free memory"
    for card in cards:
        title = f"{card.gigabytes} GB".ljust(12)
        if card.seconds_alone is None or card.seconds_together is None:
            lines.append(f"{title}too small in bfloat16, on a card like the {card.card}")
        else:
            lines.append(
                f"{title}{card.rows:,} drawings at a time in bfloat16; on a card like the {card.card} at least "
                f"{card.seconds_alone:.2g} s for one alone, {card.seconds_together:.2g} s each together (computed)"
            )
    if try_it:
        lines.append(f"probe       {rate:,.1f} drawings per hour, {count} at a time, with {weights} weights")
    for line in lines:
        print(line)


def _reward_bytes(name: str) -> int | None:
    """Return the memory of a reward's networks, if known: 0 if they run elsewhere, or the size of their files."""
    from milr.models.sizing import folder_bytes
    from milr.weights import weights_root

    kind = name.partition(":")[0]
    if kind == "self":
        return 0  # the model that draws also answers
    folders = {
        "icons": [Path(__file__).parents[1] / "assets" / "icons-detector"],
        "geneval": [weights_root() / "geneval-detector", weights_root() / "clip-vit-large-patch14"],
    }
    known = [folder for folder in folders.get(kind, []) if folder.is_dir()]
    return sum(map(folder_bytes, known)) if known else None


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_:
            return f"{count / bytes_:,.2f} {unit}"
    return f"{count / 1e3:,.1f} kB"
