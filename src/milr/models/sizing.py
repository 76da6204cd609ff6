"""Memory that a model needs, from its config alone, and its speed, from a probe of a few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from milr.decode.batching import USABLE_ON_CUDA, free_bytes, usable
from milr.models.base import Description, Model
from milr.models.devices import choose_dtype, find_device, own_numbers, refuse_int8

_PROBE_PROMPT = "a photo of a red apple left of a blue clock"


@dataclass(frozen=True)
class Plan:
    """The memory that a model needs, in bytes unless a name says otherwise."""

    dtype: str
    parameters: dict[str, int]
    """Parameters of each part."""
    weights: int
    tokens: int
    """Longest context: prompt, reasoning and image in one."""
    cache_per_token: int
    """Bytes of keys and values of all layers."""
    row: int
    """Bytes of one drawing in progress: keys and values of its rows for guidance and of its prompts, or activations;
    and its latents."""
    latents: int
    """Bytes of one task's latents, if all text and image positions were latents."""
    free: int | None
    """Free memory of the device now; None if unknown."""
    rows: int | None
    """Drawings at a time that fit beside the weights and the reward; 0 if not even the weights fit."""


def make_plan(described: Description, *, device: str = "cpu", dtype: str | None = None, reward: int = 0) -> Plan | None:
    """Add up the memory of a search; no weight is read.

    Args:
        described: See `milr.models.describe_model`.
        device: In torch's notation.
        dtype: The dtype of the weights and the cache; None takes the device's.
        reward: Bytes that the reward takes on the same device.

    Returns:
        None if the model computes elsewhere.

    Raises:
        UsageError: An unknown device or dtype.
    """
    place = find_device(device)
    numbers = choose_dtype(dtype, place)
    size, able = described.size, described.capabilities
    if size is None:
        return None
    item = numbers.itemsize
    if not size.int8_weights:
        refuse_int8(dtype, able.family or "these")
    in_bytes = size.int8_weights if dtype == "int8" else 0  # its scales, one per row, take less than a thousandth
    weights = (sum(size.parameters.values()) - in_bytes) * item + in_bytes
    row, free = size.image_bytes(able, item), free_bytes(place)
    rows = None if free is None else max(0, int((free * usable(place) - weights - reward) // max(row, 1)))
    return Plan(
        dtype="int8" if in_bytes else str(numbers).removeprefix("torch."),
        parameters=dict(size.parameters),
        weights=weights,
        tokens=size.context(able),
        cache_per_token=size.numbers_per_token * item,
        row=row,
        latents=size.latent_bytes(able),
        free=free,
        rows=rows,
    )


@dataclass(frozen=True)
class Card:
    """A graphics card, as an example of its memory size."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes read per second, by its maker's data sheet."""


CARDS = (
    Card("RTX 4060", 8 * 2**30, 272e9),
    Card("RTX 4070", 12 * 2**30, 504e9),
    Card("RTX 4090", 24 * 2**30, 1008e9),
    Card("L40S", 48 * 2**30, 864e9),
    Card("A100", 80 * 2**30, 2039e9),
)


@dataclass(frozen=True)
class CardPlan:
    """Drawings of a model in half precision that fit on a card, and their least time."""

    card: str
    gigabytes: int
    rows: int
    """Drawings at a time that fit beside the weights and the reward; 0 if not even the weights fit."""
    seconds_alone: float | None
    """Lower bound for one drawing alone: the time to read the decoder's weights and the cache once per token. Computed,
    not measured. None if it does not fit, or is not decoded token by token."""
    seconds_together: float | None
    """The same bound per drawing, with as many as fit."""


def plan_cards(described: Description, *, reward: int = 0) -> list[CardPlan]:
    """Return the plans for cards of 8 to 80 GB; no weight is read. [] if the model computes elsewhere.

    Args:
        described: See `milr.models.describe_model`.
        reward: Bytes that the reward takes on the same card.
    """
    plan, able = make_plan(described, dtype="bfloat16"), described.capabilities
    if plan is None or described.size is None:
        return []
    read = 2 * described.size.read_per_token
    cache = able.branches * (plan.tokens - able.image_tokens // 2) * plan.cache_per_token  # in the middle of an image
    found: list[CardPlan] = []
    for card in CARDS:
        rows = max(0, int((card.memory * USABLE_ON_CUDA - plan.weights - reward) // max(plan.row, 1)))
        alone, together = (
            (able.image_tokens * (read / many + cache) / card.bandwidth for many in (1, rows))
            if rows and read
            else (None, None)
        )
        found.append(CardPlan(card.name, card.memory // 2**30, rows, alone, together))
    return found


def folder_bytes(folder: Path) -> int:
    """Return the size of all safetensors in a folder and below it: about the memory of a reward's networks."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def probe(model: Model, *, rows: int, seconds: float = 10.0) -> float:
    """Estimate the drawings per hour from the time of single image tokens.

    All but the last tokens of each drawing are given. The time of each further sampled token, beyond one, is the time
    of a decode step at a full context: a little more than the mean of a whole drawing.

    Args:
        model: A loaded model.
        rows: Drawings at a time.
        seconds: Approximate time of the probe; one measurement is always made.
    """
    _time_ending(model, rows, 1)  # one-time work is not counted
    began = time.perf_counter()
    base = _time_ending(model, rows, 1)
    total, own, step = model.capabilities.image_tokens, 4, 0.0
    while True:
        own = min(own, total)
        step = max(0.0, _time_ending(model, rows, own) - base) / (own - 1)
        if own == total or time.perf_counter() - began > seconds / 2:
            break
        own *= 2
    return 3600 * rows / (base + (total - 1) * step)


def _time_ending(model: Model, rows: int, own: int) -> float:
    """Return the seconds of drawings whose last `own` image tokens are sampled, prompts and decoding included."""
    from milr.decode.sampling import open_stream
    from milr.models.base import ImageRequest
    from milr.types import Task

    given = (0,) * (model.capabilities.image_tokens - own)
    started = model.start([Task(prompt=_PROBE_PROMPT)] * rows)
    streams = [open_stream(0, "probe", place, 0) for place in range(rows)]
    requests = [ImageRequest(row, None, stream, tokens=given) for row, stream in zip(started, streams, strict=True)]
    with own_numbers():
        began = time.perf_counter()
        model.draw(requests, model.settings("one-shot").sampling)
        return time.perf_counter() - began
