"""The weights of LlamaGen's text-to-image model, under their original names. `milr.decode.llamagen` runs the layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from milr.decode.packed_linear import pack


class Gpt(nn.Module):
    """Caption projection, token embeddings, layers and head. Implements `milr.models.heads.ImageParts`."""

    def __init__(self, *, dim: int, layers: int, inner: int, codes: int, caption: int, caption_dim: int) -> None:
        """Make the modules.

        Args:
            dim: d.
            layers: Number of layers.
            inner: Width of the feed-forward layers.
            codes: Different image tokens.
            caption: Positions of the caption.
            caption_dim: Width of the text encoder's states.
        """
        super().__init__()
        self.vocabulary = codes
        self.cls_embedding = _Caption(caption, caption_dim, dim)
        self.tok_embeddings = nn.Embedding(codes, dim)
        self.layers = nn.ModuleList([_Block(dim, inner) for _ in range(layers)])
        self.norm = nn.RMSNorm(dim)
        self.output = nn.Linear(dim, codes, bias=False)

    def pack_head(self) -> None:
        """Store the head in the layout of the CPU's kernels, where there is one."""
        holder = nn.Sequential(self.output)
        pack(holder, differentiable=True)
        self.output: Any = holder[0]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (T,) int64 image tokens to (T, d) embeddings."""
        return self.tok_embeddings(tokens)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        return self.output(states.to(self.norm.weight.dtype)).float()


class _Caption(nn.Module):
    """Text features to the embeddings of the caption's positions; learnt features stand for no caption."""

    def __init__(self, caption: int, caption_dim: int, dim: int) -> None:
        super().__init__()
        self.uncond_embedding = nn.Parameter(torch.empty(caption, caption_dim))
        self.cap_proj = nn.ModuleDict(
            {"fc1": nn.Linear(caption_dim, dim, bias=False), "fc2": nn.Linear(dim, dim, bias=False)}
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (T, caption_dim) to (T, d)."""
        return self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](features), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"wqkv": nn.Linear(dim, 3 * dim, bias=False), "wo": nn.Linear(dim, dim, bias=False)}
        )
        self.feed_forward = nn.ModuleDict(
            {
                "w1": nn.Linear(dim, inner, bias=False),
                "w2": nn.Linear(inner, dim, bias=False),
                "w3": nn.Linear(dim, inner, bias=False),
            }
        )
        self.attention_norm, self.ffn_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
