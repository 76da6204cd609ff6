"""The plain loop: one optimisation step of the method as publicly described, one drawing at a time.

No key-value cache for the text, one that grows by concatenation for the image, everything prefilled again at every
step, guidance, softmax and sampling in the weights' own type. Written from the description in MILR's section "Method"
and in docs/performance.md; the weights are transformers', driven by transformers' own forward passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache


@dataclass
class PlainLoop:
    """A loop that counts the tokens it processes and the bytes it moves."""

    network: Any
    """A `JanusForConditionalGeneration` with plain linear layers."""
    tokens: int = field(default=0, init=False)
    passes: int = field(default=0, init=False)
    cache_bytes: int = field(default=0, init=False)
    """Bytes moved: read by attention, read and written by concatenation."""

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], prefix: Sequence[int], total: int) -> list[int]:
        """Return at most that many greedy tokens of the text, reading the whole text again for each."""
        written = list(prefix)
        while len(written) < total:
            ids = self._to_device([[*prompt, *written]])
            states = self.network.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
            self._count(ids.shape[1], 0)
            written.append(int(self.network.lm_head(states[:, -1]).argmax(-1)))
        return written

    @torch.inference_mode()
    def read(self, prompt: Sequence[int], blank: int, prefix: Sequence[int]) -> tuple[DynamicCache, torch.Tensor]:
        """Prefill a drawing's two prompts and the prefix of its image; return the cache and the last states (2, d)."""
        pair = self._to_device([list(prompt), [prompt[0], *[blank] * (len(prompt) - 2), prompt[-1]]])
        words = self.network.get_input_embeddings()(pair)  # (2, T, d)
        drawn = self._embed(self._to_device(prefix)).expand(2, -1, -1)
        return self._forward(torch.cat([words, drawn], dim=1), DynamicCache())

    @torch.inference_mode()
    def draw(
        self, cache: DynamicCache, states: torch.Tensor, count: int, guidance: float, stream: torch.Generator
    ) -> list[int]:
        """Return that many image tokens; the last one is sampled and not read."""
        drawn: list[int] = []
        while True:
            conditional, unconditional = self.network.model.generation_head(states)
            logits = unconditional + guidance * (conditional - unconditional)
            drawn.append(int(torch.multinomial(logits.softmax(-1), 1, generator=stream)))
            if len(drawn) == count:
                return drawn
            cache, states = self._forward(self._embed(self._to_device(drawn[-1:])).expand(2, -1, -1), cache)

    def _to_device(self, ids: object) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.network.device)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) -> (1, T, d)."""
        return self.network.prepare_embeddings_for_image_generation(tokens)[None]

    def _forward(self, rows: torch.Tensor, cache: DynamicCache) -> tuple[DynamicCache, torch.Tensor]:
        grown = cache.get_seq_length() > 0
        language_model = self.network.model.language_model
        known = inspect.signature(language_model.forward).parameters
        name = "cache" if "cache" in known else "past_key_values"  # transformers renamed it in 5.24
        found = language_model(inputs_embeds=rows, **{name: cache}, use_cache=True)
        layers: Any = cache.layers
        bytes_now = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        self._count(rows.shape[0] * rows.shape[1], bytes_now * (3 if grown else 1))
        return cache, found.last_hidden_state[:, -1]

    def _count(self, tokens: int, cache_bytes: int) -> None:
        self.tokens += tokens
        self.passes += 1
        self.cache_bytes += cache_bytes
