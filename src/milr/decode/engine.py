"""Rows in lockstep through one causal decoder: prefill what is given, then one token a row and step.

Legend of shapes: B rows, T tokens, d width. Rows of unequal length are padded on the left; masks hide the padding and
positions count from each row's first token, so a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from milr.decode.cache import PreallocatedCache


class Lockstep:
    """A batch of rows with their cache. Feed embeddings, read the last hidden states."""

    def __init__(self, decoder: nn.Module, layers: int, room: int) -> None:
        """Args: the decoder (transformers' Llama), its layers, and how many tokens a row may reach."""
        self.decoder = decoder
        self.cache = PreallocatedCache(layers, room)
        self.mask: torch.Tensor | None = None  # (B, T) 1 where a token is real

    def prefill(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feed rows of embeddings (T_i, d); returns hidden states (B, T, d), rows aligned at the right end."""
        longest = max(len(row) for row in rows)
        batch = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])  # (B, T, d)
        mask = torch.zeros(len(rows), longest, dtype=torch.long, device=batch.device)
        for index, row in enumerate(rows):
            batch[index, longest - len(row) :] = row
            mask[index, longest - len(row) :] = 1
        self.mask = mask
        positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
        return self._forward(batch, positions)

    def step(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Feed one embedding a row (B, d); returns the new hidden states (B, d)."""
        assert self.mask is not None, "prefill before the first step"
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(embeddings), 1)], dim=-1)
        positions = self.mask.sum(dim=-1, keepdim=True) - 1  # (B, 1)
        return self._forward(embeddings[:, None], positions)[:, 0]

    def _forward(self, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self.mask is not None
        # Without padding no mask is needed, and attention takes its fast path.
        mask = None if bool(self.mask.all()) else self.mask
        return self.decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
