"""The first tokens of an image that need no decoder: given ones, and those sampled from latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from milr.decode.sampling import SAMPLE, keep_most_probable
from milr.decode.tensors import split_rows
from milr.models.base import ImageRequest
from milr.settings import SamplingParams


def sample_leads(
    requests: Sequence[ImageRequest],
    totals: Sequence[int],
    streams: Sequence[torch.Generator],
    sampling: SamplingParams,
    vocabulary: int,
    device: torch.device,
) -> list[torch.Tensor]:
    """Return each image's first tokens, (n,) int64 on the device, without waiting for the device.

    Args:
        requests: One per image.
        totals: Number of tokens of each image.
        streams: One per image, advanced by the numbers of these positions, given ones included.
        sampling: Sampling parameters for the logits of latents.
        vocabulary: V, number of different image tokens.
        device: Device of the result.
    """
    lengths = [_count_leading(request, total) for request, total in zip(requests, totals, strict=True)]
    sampler = SAMPLE[sampling.sampler]
    numbers = [sampler.numbers(stream, length, vocabulary) for stream, length in zip(streams, lengths, strict=True)]
    given = [
        -1 if (token := _given(request, place)) is None else token
        for request, length in zip(requests, lengths, strict=True)
        for place in range(length)
    ]
    leads = torch.full((len(given),), -1, device=device)
    if any(token >= 0 for token in given):
        leads = torch.tensor(given).to(device)
    nothing = torch.zeros(0, vocabulary, device=device)
    prefixes = [nothing if request.prefix is None else request.prefix for request in requests]
    read = [min(len(prefix), length) for prefix, length in zip(prefixes, lengths, strict=True)]
    if any(read):
        logits = torch.cat([prefix[:count] for prefix, count in zip(prefixes, read, strict=True)])  # (all positions, V)
        own = torch.cat([row[:count] for row, count in zip(numbers, read, strict=True)]).to(device)
        likely = keep_most_probable(logits, sampling.top_k)
        sampled = split_rows(sampler.choose(torch.softmax(likely / sampling.temperature, dim=-1), own), read)
        padded = [
            torch.cat([row, row.new_zeros(length - len(row))]) for row, length in zip(sampled, lengths, strict=True)
        ]
        leads = torch.where(leads < 0, torch.cat(padded), leads)
    return split_rows(leads, lengths)


def _given(request: ImageRequest, place: int) -> int | None:
    """Return the token that a request gives for a position."""
    return request.tokens[place] if place < len(request.tokens) else None


def _count_leading(request: ImageRequest, total: int) -> int:
    """Return how many of the first tokens need no decoder."""
    read = 0 if request.prefix is None else len(request.prefix)
    first = next((place for place in range(read, total) if _given(request, place) is None), total)
    return min(first, total)
