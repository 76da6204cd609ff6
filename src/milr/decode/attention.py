"""Attention of new tokens over a cache.

torch's CPU kernels are made for many queries. With one query they take most of an image's time, because half-precision
keys are converted one number at a time (measured in docs/performance.md). Here a piece of the KV cache that fits into
the processor's cache is converted at once and multiplied as float32; a float32 cache is multiplied where it is.
torch's kernels serve many queries and other devices.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

_PIECE = 512 * 1024
"""Numbers of a piece in float32: 2 MiB, about the size of a core's own cache."""


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Compute scaled dot-product attention.

    B rows, H query heads, G key heads (H a multiple of G), Q queries, T keys, w a head's width.

    Args:
        query: (B, H, Q, w).
        key: (B, G, T, w).
        value: (B, G, T, w).
        mask: (B, 1, Q, T), added to the scores: 0 where a query sees a key, -inf elsewhere. None if each query sees all
            keys.

    Returns:
        (B, H, Q, w) in the query's dtype.
    """
    if query.shape[2] == 1 and query.device.type == "cpu":
        return _attend_one(query, key, value, mask)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=grouped)


def _attend_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    rows, heads, _, width = query.shape
    groups, length = key.shape[1:3]
    many = heads // groups
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # (B G, T, w), views
    scaled = (query.float() * width**-0.5).reshape(-1, many, width)  # (B G, H / G, w)
    scores = torch.empty(rows * groups, length, many)
    for part, near in _in_float32(keys):
        torch.bmm(near, scaled[part].transpose(1, 2), out=scores[part])
    weights = scores.transpose(1, 2)  # (B G, H / G, T)
    if mask is not None:
        weights = weights + mask.expand(-1, groups, many, -1).reshape(weights.shape)
    weights = weights.softmax(-1)
    found = torch.empty(rows * groups, many, width)
    for part, near in _in_float32(values):
        torch.bmm(weights[part], near, out=found[part])
    return found.to(query.dtype).reshape(rows, heads, 1, width)


def _in_float32(cached: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield parts of the first dimension and their numbers in float32, each valid until the next."""
    if cached.dtype == torch.float32:
        yield slice(None), cached
        return
    count, length, width = cached.shape
    piece = max(1, _PIECE // (length * width))
    wide = torch.empty(min(piece, count), length, width)
    for start in range(0, count, piece):
        part = slice(start, min(start + piece, count))
        yield part, wide[: part.stop - start].copy_(cached[part])
