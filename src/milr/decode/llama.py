"""The adapter of Llama: transformers' weights, fewer calls.

transformers' own forward pass computes the same with more calls, and calls take most of a small model's time. Source of
the architecture: `transformers.models.llama.modeling_llama`.

Legend of shapes: as in `milr.decode.decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from milr.decode.decoder import Attend, Turns, make_table, split_heads
from milr.decode.joined_linear import add_output, join


class Llama:
    """A `LlamaModel`: pre-norms, rotary positions. Its projections of the same input are joined.

    Implements `milr.decode.decoder.Architecture`.
    """

    def __init__(self, network: Any) -> None:
        """Take a frozen `LlamaModel`; its projections are joined in place."""
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
        for block in self._blocks:
            join(block.self_attn, ("q_proj", "k_proj", "v_proj"), "qkv_proj")
            join(block.mlp, ("gate_proj", "up_proj"), "gate_up_proj")
        self._many: int = config.num_attention_heads // self.heads
        self._tables: list[torch.Tensor] = []

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        return self.network.norm.weight[:0]

    def prepare(self, positions: int) -> None:
        """Make a larger table if these positions need one. Recorded steps go on reading the one that they know."""
        if not self._tables or positions > self._tables[-1].shape[1]:
            length = max(512, 1 << (positions - 1).bit_length())
            self._tables.append(_rotary_table(self.network.rotary_emb, length, self._many).to(self.like))

    def turns(self, positions: torch.Tensor) -> Turns:
        """Return the rotary embedding at positions (B, T)."""
        cosine, sine = self._tables[-1][:, positions]
        return cosine, sine

    def layer(self, place: int, states: torch.Tensor, turns: Turns, attend: Attend) -> torch.Tensor:
        """Run a layer on hidden states (B, T, d)."""
        block, own = self._blocks[place], self._blocks[place].self_attn
        heads = split_heads(own.qkv_proj(self._normalise(states, block.input_layernorm)), self.heads, self.width)
        states = add_output(states, own.o_proj, attend(_turn_halves(heads, turns)))
        gate, up = block.mlp.gate_up_proj(self._normalise(states, block.post_attention_layernorm)).chunk(2, dim=-1)
        return add_output(states, block.mlp.down_proj, F.silu(gate) * up)

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


def _rotary_table(rotary: Any, length: int, many: int) -> torch.Tensor:
    """Return the table of the first positions in float32 (see `make_table`).

    transformers' own function reads the positions on the host to choose frequencies, which makes a device wait.
    """
    frequencies = rotary.inv_freq  # (w / 2,)
    angles = torch.arange(length, device=frequencies.device)[:, None].float() * frequencies  # (length, w / 2)
    cosine, sine = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
    return make_table(torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1), many)


def _turn_halves(heads: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotate by position: the halves of a head's width are the real and imaginary parts."""
    cosine, sine = turns
    return torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, dims=-1), sine)
