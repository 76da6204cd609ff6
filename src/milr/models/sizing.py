"""Memory that a model needs, from its config alone, and its speed, from a probe of a few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milr.decode.batching import USABLE, free_bytes
from milr.models.checkpoint import Checkpoint
from milr.models.devices import choose_dtype, find_device

if TYPE_CHECKING:
    from milr.models.janus import Janus

PROMPT_TOKENS = 256
"""Tokens assumed for a prompt and its template."""
_COPIES = 5
"""Copies of each latent: current, initial, gradient, and Adam's two moments."""
_FLOAT32_BYTES = 4
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
    """Bytes of one drawing in progress: two rows of keys and values for guidance, and its latents."""
    latents: int
    """Bytes of one task's latents, if all text and image positions were latents."""
    free: int | None
    """Free memory of the device now; None if unknown."""
    rows: int | None
    """Drawings at a time that fit beside the weights and the reward; 0 if not even the weights fit."""


def make_plan(checkpoint: Checkpoint, *, device: str = "cpu", dtype: str | None = None, reward: int = 0) -> Plan:
    """Add up the memory of a search; no weight is read.

    Args:
        checkpoint: See `milr.models.checkpoint.open_checkpoint`.
        device: In torch's notation.
        dtype: The dtype of the weights and the cache; None takes the device's.
        reward: Bytes that the reward takes on the same device.

    Raises:
        UsageError: An unknown device or dtype.
    """
    place = find_device(device)
    numbers = choose_dtype(dtype, place)
    text = checkpoint.config.text_config
    parts = _count_parameters(checkpoint)
    weights = sum(parts.values()) * numbers.itemsize
    capabilities, limit = checkpoint.capabilities, checkpoint.profile.max_reasoning_tokens
    tokens = PROMPT_TOKENS + limit + capabilities.image_tokens
    heads = text.num_key_value_heads or text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * head_width * numbers.itemsize
    latents = _COPIES * _FLOAT32_BYTES * text.hidden_size * (limit + 2 * capabilities.image_tokens)
    row = 2 * tokens * per_token + latents
    free = free_bytes(place)
    rows = None if free is None else max(0, int((free * USABLE - weights - reward) // row))
    return Plan(str(numbers).removeprefix("torch."), parts, weights, tokens, per_token, row, latents, free, rows)


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
    not measured. None if it does not fit."""
    seconds_together: float | None
    """The same bound per drawing, with as many as fit."""


def plan_cards(checkpoint: Checkpoint, *, reward: int = 0) -> list[CardPlan]:
    """Return the plans for cards of 8 to 80 GB; no weight is read.

    Args:
        checkpoint: See `milr.models.checkpoint.open_checkpoint`.
        reward: Bytes that the reward takes on the same card.
    """
    plan = make_plan(checkpoint, dtype="bfloat16")
    size, tokens = 2, checkpoint.capabilities.image_tokens
    text = checkpoint.config.text_config
    table = text.vocab_size * text.hidden_size  # of the word embeddings, which a step does not read
    read = size * (plan.parameters["decoder"] - table + plan.parameters["image head"])
    cache = 2 * (plan.tokens - tokens // 2) * plan.cache_per_token  # in the middle of an image
    found: list[CardPlan] = []
    for card in CARDS:
        rows = max(0, int((card.memory * USABLE - plan.weights - reward) // plan.row))
        alone, together = (
            (tokens * (read / many + cache) / card.bandwidth for many in (1, rows)) if rows else (None, None)
        )
        found.append(CardPlan(card.name, card.memory // 2**30, rows, alone, together))
    return found


def folder_bytes(folder: Path) -> int:
    """Return the size of all safetensors in a folder and below it: about the memory of a reward's networks."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def probe(model: Janus, *, rows: int, seconds: float = 10.0) -> float:
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


def _time_ending(model: Janus, rows: int, own: int) -> float:
    """Return the seconds of drawings whose last `own` image tokens are sampled, prompts and decoding included."""
    import torch

    from milr.decode.sampling import open_stream
    from milr.models.base import ImageRequest
    from milr.settings import SamplingParams
    from milr.types import Task

    codes: int = model.network.config.vq_config.num_embeddings
    given = torch.zeros(model.capabilities.image_tokens - own, codes)
    started = model.start([Task(prompt=_PROBE_PROMPT)] * rows)
    requests = [ImageRequest(row, None, open_stream(0, "probe", place, 0), given) for place, row in enumerate(started)]
    began = time.perf_counter()
    model.draw(requests, SamplingParams())
    return time.perf_counter() - began


def _count_parameters(checkpoint: Checkpoint) -> dict[str, int]:
    import torch
    from transformers.models.janus.modeling_janus import JanusForConditionalGeneration

    with torch.device("meta"):
        network: Any = JanusForConditionalGeneration(checkpoint.config)
    inner = network.model
    parts = {
        "decoder": inner.language_model,
        "text head": network.lm_head,
        "image head": inner.generation_head,
        "image tokens": torch.nn.ModuleList([inner.generation_embeddings, inner.generation_aligner]),
        "image decoder": inner.vqmodel,
        "vision tower": torch.nn.ModuleList([inner.vision_model, inner.aligner]),
    }
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
