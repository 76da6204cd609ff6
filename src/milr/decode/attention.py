"""Attention of new tokens over a cache.

torch's fused kernel serves all but one case: one query over half-precision numbers on a CPU. There it rounds the
weights of the softmax to the dtype of the keys. It also multiplies with MKL, which has a fast kernel for bfloat16 only
on Intel's processors with AVX512_BF16; its other kernel takes several times as long as our own way (measured in
docs/performance.md). Our own way: a piece of the KV cache that fits into the processor's cache is converted at once,
and multiplied and summed as float32.

Our own way serves float32 too if torch was built without MKL, because the fused kernel was not measured without it. On
CUDA one of torch's kernels is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from milr.decode.processor import Processor, computes_bfloat16, this_processor

ALIGNED = 8
"""Numbers that a CUDA kernel reads at once: 16 bytes in half precision. Rows of a mask begin at a multiple of it."""
_PIECE = 256 * 1024
"""Numbers of a piece in float32: 1 MiB, so that it fits into a core's own cache together with what it is made of."""


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
    many = query.shape[1] // key.shape[1]
    one = query.shape[2] == 1 and query.device.type == "cpu"
    if one and not is_fused_better(query.dtype, this_processor()):
        return _attend_one(query, key, value, mask)
    if one and many > 1:
        # The heads of a group become queries of one head: torch would copy the keys for each of them.
        folded = query.reshape(*key.shape[:2], many, -1)  # (B, G, H / G, w)
        return F.scaled_dot_product_attention(folded, key, value, mask).reshape(query.shape)
    if query.device.type == "cuda" and many == 1 and _is_aligned(query, mask) and has_kernel(query.device, query.dtype):
        return _attend_on_cuda(query, key, value, mask)
    return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=many > 1)


def is_fused_better(dtype: torch.dtype, processor: Processor) -> bool:
    """Return true if torch's fused kernel is the better way for one query on this processor."""
    return dtype == torch.float32 and processor.mkl


@cache
def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Return true if torch has its memory-efficient kernel for a dtype on a CUDA device."""
    return torch.version.hip is None and (dtype != torch.bfloat16 or computes_bfloat16(device))


def _is_aligned(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    return query.shape[3] % ALIGNED == 0 and (mask is None or mask.stride(2) % ALIGNED == 0)


def _attend_on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Call torch's memory-efficient kernel.

    torch itself would choose cuDNN's kernel on recent cards, which is compiled again for every length, in about 0.4
    seconds (https://github.com/modelscope/FunASR/issues/3704); every prompt here has another length. torch's own switch
    between kernels is a setting of the whole process, which other threads read.
    """
    efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention  # pyright: ignore[reportPrivateUsage]
    wide = None if mask is None else mask.expand(-1, query.shape[1], -1, -1)
    return efficient(query, key, value, wide, compute_log_sumexp=False)[0]


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
