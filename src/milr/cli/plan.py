"""`milr plan`: the memory and speed of a model, before it is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milr.cli.capabilities import say_capabilities, say_profile
from milr.cli.options import DEFAULT_MODEL, Device, Dtype, ModelName, Offline, Profile, Reward
from milr.errors import UsageError
from milr.registry import load

if TYPE_CHECKING:
    from milr.models.sizing import Plan


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
    """Print a model's memory, the number of drawings that fit at once, and the drawings per hour.

    Everything but the probe is read from the config alone; of a checkpoint at the hub only small files are fetched.
    """
    from milr.models import ModelClass, describe_model, find_source
    from milr.models.devices import Placement, check_dtype
    from milr.models.families import find_family
    from milr.models.sizing import make_plan, plan_cards, probe
    from milr.rewards import check_reward, check_scorable, default_reward, locate_reward

    check_dtype(dtype)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give 1 or more")
    if batch_size is not None and not try_it:
        raise UsageError("--batch-size is the probe's: add --probe, or leave --batch-size out")
    if reward is not None:
        check_reward(reward)
    source = find_source(model, weights=False, offline=offline)
    described = describe_model(source, profile)
    able = described.capabilities
    reward = reward or default_reward(able)
    check_scorable(reward, (), able)
    needs, place = _reward_bytes(reward), locate_reward(reward, Placement(device, dtype))
    made = make_plan(described, device=device, dtype=dtype, reward=(needs or 0) if place == device else 0)
    cards = plan_cards(described, reward=needs or 0)
    found: dict[str, object] = {
        "model": model,
        "profile": described.profile,
        "capabilities": dataclasses.asdict(able),
        "device": device,
        **({} if made is None else dataclasses.asdict(made)),
        "reward": reward,
        "reward_bytes": needs,
        "reward_device": place,
        "cards": [dataclasses.asdict(card) for card in cards],
    }
    weights, count, rate = "", 0, 0.0
    if try_it:
        if made is None or isinstance(source, ModelClass):
            raise UsageError(f"--probe draws with checkpoints alone, not with {model!r}: leave it out")
        random = not any(source.glob("*.safetensors"))
        weights = "random" if random else "its own"
        family: Any = load(find_family(source))
        loaded = family(source, device=device, dtype=dtype, profile=profile, random=random)
        count = batch_size or max(1, min(16, made.rows or 1))
        rate = probe(loaded, rows=count)
        found["probe"] = {"weights": weights, "rows": count, "drawings_per_hour": rate}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    lines = [f"model       {model}{say_profile(described)}", *say_capabilities(able)]
    if made is None:
        lines.append("memory      not known, or none: it computes elsewhere")
    else:
        lines += _say_memory(made, device)
    size = "size not known before it runs" if needs is None else _size(needs)
    lines.append(f"reward      {reward}: {size}, {place if ':' in place else f'on {place}'}")
    if made is not None:
        lines.append(f"free        {'not known' if made.free is None else _size(made.free)} on {device}")
        lines.append(f"at a time   {'not known' if made.rows is None else made.rows} drawings")
        if made.rows == 0:
            lines[-1] += ": give a smaller dtype (--dtype bfloat16), another device, or free memory"
    for card in cards:
        title = f"{card.gigabytes} GB".ljust(12)
        if not card.rows:
            lines.append(f"{title}too small in bfloat16, on a card like the {card.card}")
            continue
        line = f"{title}{card.rows:,} drawings at a time in bfloat16"
        if card.seconds_alone is not None and card.seconds_together is not None:
            line += (
                f"; on a card like the {card.card} at least {card.seconds_alone:.2g} s for one alone, "
                f"{card.seconds_together:.2g} s each together (computed)"
            )
        lines.append(line)
    if try_it:
        lines.append(f"probe       {rate:,.1f} drawings per hour, {count} at a time, with {weights} weights")
    for line in lines:
        print(line)


def _say_memory(made: Plan, device: str) -> Iterator[str]:
    parts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in made.parameters.items())
    yield f"weights     {_size(made.weights)} in {made.dtype} on {device} ({parts})"
    held = (
        f": rows of up to {made.tokens} tokens and their prompts, {_size(made.cache_per_token)} a token, and "
        if made.cache_per_token
        else ""
    )
    held += f"{_size(made.latents)} of latents at most" if made.latents else "" if held else " of activations"
    yield f"a drawing   {_size(made.row)}{held}"


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
