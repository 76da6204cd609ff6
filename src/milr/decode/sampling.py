"""Random streams, one per image and independent of the batch; sampling a token from logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

_WHOLE = 2**48
"""The integer that represents probability 1: a float32 probability times a power of 2 is exact."""


def open_stream(seed: int, task_key: str, drawing: int, step: int, purpose: str = "image") -> torch.Generator:
    """Return a generator keyed by content, so that samples do not depend on batch, order or device.

    torch's CPU generator takes 32 bits of a seed: among 10,000 streams, two are equal with a probability of 1 %.

    Args:
        seed: The run's seed.
        task_key: `Task.key`, with a suffix if a list contains the same task twice.
        drawing: Index among the step's images.
        step: Step of the task; 0 at every step if the noise is fixed.
        purpose: Separates the streams of a step: "image" and "text" tokens, "credit" for random directions.
    """
    digest = hashlib.sha256(f"{seed}|{task_key}|{drawing}|{step}|{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def derive_stream(stream: torch.Generator, purpose: str) -> torch.Generator:
    """Return a generator for a second random process of the same image, keyed by the seed of its first one.

    It does not depend on how far the first one was advanced: the same request gives the same numbers, whatever was
    sampled, given or left out before.

    Args:
        stream: The request's stream; it is not advanced.
        purpose: Name of the process, "decoder" for instance.
    """
    digest = hashlib.sha256(f"{stream.initial_seed()}|{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Sampler:
    """A sampler: the random numbers that it takes, and the tokens that it chooses with them."""

    numbers: Callable[[torch.Generator, int, int], torch.Tensor]
    """(stream, tokens n, vocabulary V) -> (n, numbers of one token), on the CPU. One call for n equals n calls for one.
    """
    choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """(probabilities (B, V) float32, numbers (B, numbers of one token)) -> tokens (B,) int64, on the same device."""
    dtype: torch.dtype
    """Data type of the numbers."""
    few: bool
    """True if the numbers of a whole drawing are few enough to be made and copied to the device at once."""


def keep_most_probable(logits: torch.Tensor, top_k: int, also: torch.Tensor | None = None) -> torch.Tensor:
    """Set all but the largest logits to -inf; those that equal the smallest kept one are kept too.

    Args:
        logits: (B, V).
        top_k: How many are kept; 0 keeps all.
        also: (B, n) int64 tokens that are kept in any case.

    Returns:
        (B, V), the same tensor if all are kept.
    """
    if not 0 < top_k < logits.shape[-1]:
        return logits
    left_out = logits < logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(left_out if also is None else left_out.scatter(-1, also, False), float("-inf"))


def sample(
    logits: torch.Tensor,
    streams: Sequence[torch.Generator],
    temperature: float,
    sampler: str = "inverse",
    top_k: int = 0,
) -> torch.Tensor:
    """Sample one token per row.

    Args:
        logits: (B, V) float32.
        streams: B generators, each advanced by one token's numbers.
        temperature: Above 0.
        sampler: One of `milr.settings.SAMPLERS`.
        top_k: See `keep_most_probable`.

    Returns:
        (B,) int64.
    """
    how = SAMPLE[sampler]
    numbers = torch.cat([how.numbers(stream, 1, logits.shape[-1]) for stream in streams]).to(logits.device)
    return how.choose(torch.softmax(keep_most_probable(logits, top_k) / temperature, dim=-1), numbers)


def sample_in_order(
    logits: torch.Tensor, stream: torch.Generator, temperature: float, sampler: str = "inverse"
) -> torch.Tensor:
    """Sample one token per row, all from one stream, as `sample` does for one row after the other.

    Args:
        logits: (n, V) float32.
        stream: Advanced by the numbers of n tokens.
        temperature: Above 0.
        sampler: One of `milr.settings.SAMPLERS`.

    Returns:
        (n,) int64.
    """
    how = SAMPLE[sampler]
    numbers = how.numbers(stream, *logits.shape).to(logits.device)
    return how.choose(torch.softmax(logits / temperature, dim=-1), numbers)


def _exponential(stream: torch.Generator, count: int, vocabulary: int) -> torch.Tensor:
    return torch.empty(count, vocabulary).exponential_(generator=stream)


def _race(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Sample by the exponential race, as `torch.multinomial` does with the same stream."""
    return (probabilities / numbers).argmax(dim=-1)


def _uniform(stream: torch.Generator, count: int, vocabulary: int) -> torch.Tensor:
    return torch.rand(count, 1, generator=stream, dtype=torch.float64)


def _invert(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Sample by inverting the distribution function.

    Sums of integers do not depend on the order of addition, so every device finds the same token for the same
    probabilities. A token of probability 0 is never sampled.
    """
    sums = (probabilities * _WHOLE).long().cumsum(dim=-1)  # (B, V)
    whole = sums[:, -1:]
    wanted = (numbers * whole).long().minimum(whole - 1)  # a product just below the sum may be rounded up to it
    return torch.searchsorted(sums, wanted, right=True)[:, 0]


SAMPLE: Mapping[str, Sampler] = {
    "inverse": Sampler(_uniform, _invert, torch.float64, few=True),
    "race": Sampler(_exponential, _race, torch.float32, few=False),
}
"""Name, a key of `milr.settings.SAMPLERS` -> sampler."""
