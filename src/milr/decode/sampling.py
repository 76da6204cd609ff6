"""One random stream a drawing: the same whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch


def open_stream(seed: int, task_key: str, drawing: int, step: int, purpose: str = "image") -> torch.Generator:
    """A generator keyed by content, so that neither batch, order nor place changes what is drawn.

    torch's CPU generator takes 32 bits of a seed: of 10,000 streams, two are equal with a chance of one in a hundred.

    Args:
        seed: The run's.
        task_key: `Task.key`, with a suffix where a list holds the same task twice.
        drawing: Index among the step's drawings.
        step: Step of the search; 0 at every step where the noise is fixed.
        purpose: Keeps the draws of a step apart: "image" tokens, "credit" directions.
    """
    digest = hashlib.sha256(f"{seed}|{task_key}|{drawing}|{step}|{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def number_keys(keys: Iterable[str]) -> list[str]:
    """Task keys for streams: the same task twice in one list has streams of its own the second time."""
    seen: Counter[str] = Counter()
    numbered: list[str] = []
    for key in keys:
        numbered.append(f"{key}#{seen[key]}" if seen[key] else key)
        seen[key] += 1
    return numbered


def sample(
    logits: torch.Tensor, streams: Sequence[torch.Generator], temperature: float, sampler: str = "race"
) -> torch.Tensor:
    """One token a row.

    Args:
        logits: (B, V) float32.
        streams: B generators, each advanced by what the sampler takes.
        temperature: Above 0.
        sampler: One of `SAMPLERS`.

    Returns:
        (B,) int64.
    """
    return SAMPLERS[sampler](torch.softmax(logits / temperature, dim=-1), streams)


def _race(probabilities: torch.Tensor, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """The exponential race: draws what `torch.multinomial` draws from the same stream, V numbers a token."""
    race = torch.stack([torch.empty(probabilities.shape[-1]).exponential_(generator=stream) for stream in streams])
    return (probabilities / race.to(probabilities.device)).argmax(dim=-1)


def _invert(probabilities: torch.Tensor, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """The inverse of the distribution function, summed in float64: one number a token."""
    uniform = torch.stack([torch.rand(1, generator=stream, dtype=torch.float64) for stream in streams])  # (B, 1)
    sums = probabilities.double().cumsum(dim=-1)  # (B, V)
    # Below the last sum whatever it rounded to, so a token without probability is never drawn.
    return torch.searchsorted(sums, uniform.to(sums.device) * sums[:, -1:], right=True)[:, 0]


SAMPLERS: Mapping[str, Callable[[torch.Tensor, Sequence[torch.Generator]], torch.Tensor]] = {
    "race": _race,
    "inverse": _invert,
}
"""Name -> (probabilities (B, V), B streams) -> tokens (B,)."""
