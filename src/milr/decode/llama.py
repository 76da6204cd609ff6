"""The adapter of Llama: transformers' weights, fewer calls.

transformers' own forward pass computes the same with more calls, and calls take most of a small model's time. Source of
the architecture: `transformers.models.llama.modeling_llama`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from milr.decode.decoder import Attend, Turns, split_heads, turn


class Llama:
    """A `LlamaModel`: pre-norms, separate projections, rotary positions.

    Implements `milr.decode.decoder.Architecture`.
    """

    def __init__(self, network: Any) -> None:
        """Take a frozen `LlamaModel`."""
        self.network = network
        config = network.config
        self._blocks: list[Any] = list(network.layers)
        self.layers = len(self._blocks)
        self.heads: int = config.num_key_value_heads
        self.width: int = self._blocks[0].self_attn.head_dim
        self.size: int = config.hidden_size
        self.longest = _longest(config)
        """Longest text for which the rotary embedding uses one set of frequencies; None if there is no limit."""
        self._epsilon: float = config.rms_norm_eps

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        return self.network.norm.weight[:0]

    def turns(self, positions: torch.Tensor, dtype: torch.dtype) -> Turns:
        """Return the rotary embedding at positions (B, T).

        transformers' own function reads the positions on the host to choose frequencies, which makes a device wait.
        """
        rotary = self.network.rotary_emb
        angles = (positions[..., None].float() * rotary.inv_freq)[:, None]  # (B, 1, T, w / 2)
        cosine, sine = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        return torch.cat([cosine, cosine], dim=-1).to(dtype), torch.cat([-sine, sine], dim=-1).to(dtype)

    def layer(self, place: int, states: torch.Tensor, turns: Turns, attend: Attend) -> torch.Tensor:
        """Run a layer on hidden states (B, T, d)."""
        block, width = self._blocks[place], self.width
        own, mlp = block.self_attn, block.mlp
        normal = self._normalise(states, block.input_layernorm)
        query = turn(split_heads(own.q_proj(normal), width), turns)
        key = turn(split_heads(own.k_proj(normal), width), turns)
        states = states + own.o_proj(attend(query, key, split_heads(own.v_proj(normal), width)))
        normal = self._normalise(states, block.post_attention_layernorm)
        return states + mlp.down_proj(F.silu(mlp.gate_proj(normal)) * mlp.up_proj(normal))

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """Normalise the last layer's output."""
        return self._normalise(states, self.network.norm)

    def _normalise(self, states: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.rms_norm(states, states.shape[-1:], norm.weight, self._epsilon)


def _longest(config: Any) -> int | None:
    rotary: Mapping[str, Any] = config.rope_parameters
    if rotary["rope_type"] == "dynamic":
        return int(config.max_position_embeddings)
    if rotary["rope_type"] == "longrope" and rotary["short_factor"] != rotary["long_factor"]:
        return int(rotary["original_max_position_embeddings"])
    return None
