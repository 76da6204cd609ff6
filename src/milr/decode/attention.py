"""Attention of one new token over a cache, on a CPU: two matrix products and a softmax.

torch's fused CPU kernel is made for many queries; with one it spends several times longer on the same cache (in bf16
more than half of a drawing's time). All other shapes and devices go on to that kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # pyright: ignore[reportUnknownVariableType]
from transformers.masking_utils import sdpa_mask  # pyright: ignore[reportUnknownVariableType]

NAME = "milr_one_query"


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend as transformers' attention functions do.

    B rows, H query heads, G key heads (H a multiple of G), T keys, w a head's width.

    Args:
        module: The layer that asks; passed on.
        query: (B, H, Q, w).
        key: (B, G, T, w).
        value: (B, G, T, w).
        attention_mask: (B, 1, Q, T) bool, true where a key is seen; None where all are.
        scaling: Of the scores; None is 1 / sqrt(w).
        **options: Passed on.

    Returns:
        (B, Q, H, w) in the values' dtype, and None: no attention weights are kept.
    """
    rows, heads, queries, width = query.shape
    if queries > 1 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # Keys stand on the left, where the cache is read in the order in which it lies.
    grouped = query.reshape(rows, key.shape[1], -1, width).transpose(-1, -2)  # (B, G, w, H / G)
    scores = (key @ grouped).transpose(-1, -2).float()  # (B, G, H / G, T)
    scores = scores * (width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    seen = scores.softmax(dim=-1).to(value.dtype) @ value  # (B, G, H / G, w)
    return seen.reshape(rows, 1, heads, width), None


def install(decoder: Any) -> None:
    """Let a transformers decoder attend this way."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    decoder.set_attn_implementation(NAME)
