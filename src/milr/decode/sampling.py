"""Random streams, one per image and independent of the batch; sampling a token from logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch


def open_stream(seed: int, task_key: str, drawing: int, step: int, purpose: str = "image") -> torch.Generator:
    """Return a generator keyed by content, so that neither batch, order nor device changes what is sampled.

    torch's CPU generator takes 32 bits of a seed: of 10,000 streams, two are equal with a chance of one in a hundred.

    Args:
        seed: The run's seed.
        task_key: `Task.key`, with a suffix if a list holds the same task twice.
        drawing: Index among the step's images.
        step: Step of the task; 0 at every step if the noise is fixed.
        purpose: Separates the streams of a step: "image" and "text" tokens, "credit" for random directions.
    """
    digest = hashlib.sha256(f"{seed}|{task_key}|{drawing}|{step}|{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def sample(
    logits: torch.Tensor, streams: Sequence[torch.Generator], temperature: float, sampler: str = "race"
) -> torch.Tensor:
    """Sample one token per row.

    Args:
        logits: (B, V) float32.
        streams: B generators, each advanced by the numbers that the sampler takes.
        temperature: Above 0.
        sampler: One of `milr.settings.SAMPLERS`.

    Returns:
        (B,) int64.
    """
    return SAMPLE[sampler](torch.softmax(logits / temperature, dim=-1), streams)


def _race(probabilities: torch.Tensor, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """Run the exponential race: sample what `torch.multinomial` samples from the same stream, V numbers per token."""
    race = torch.stack([torch.empty(probabilities.shape[-1]).exponential_(generator=stream) for stream in streams])
    return (probabilities / race.to(probabilities.device)).argmax(dim=-1)


def _invert(probabilities: torch.Tensor, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """Invert the distribution function, summed in float64: one number per token."""
    uniform = torch.stack([torch.rand(1, generator=stream, dtype=torch.float64) for stream in streams])  # (B, 1)
    sums = probabilities.double().cumsum(dim=-1)  # (B, V)
    # Below the last sum, however it is rounded, so a token without probability is never sampled.
    return torch.searchsorted(sums, uniform.to(sums.device) * sums[:, -1:], right=True)[:, 0]


SAMPLE: Mapping[str, Callable[[torch.Tensor, Sequence[torch.Generator]], torch.Tensor]] = {
    "race": _race,
    "inverse": _invert,
}
"""Name, a key of `milr.settings.SAMPLERS` -> (probabilities (B, V), B streams) -> tokens (B,)."""
