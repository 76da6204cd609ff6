"""The forward pass of a Llama decoder: transformers' weights, our cache.

transformers' own forward pass computes the same with more calls, and calls take most of a small model's time. Source of
the architecture: `transformers.models.llama.modeling_llama`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from milr.decode.attention import attend
from milr.decode.kv_cache import KVCache


class Decoder:
    """The layers of a `LlamaModel`, without its embeddings."""

    def __init__(self, network: Any) -> None:
        """Take a frozen `LlamaModel`; its modules are used in place."""
        self.network = network
        config = network.config
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_key_value_heads
        self.width: int = network.layers[0].self_attn.head_dim
        self.size: int = config.hidden_size
        self.epsilon: float = config.rms_norm_eps
        self.longest = _longest(config)
        """Longest text for which the rotary embedding uses one set of frequencies; None if there is no limit."""

    @property
    def like(self) -> torch.Tensor:
        """Return an empty tensor with the dtype and device of the hidden states."""
        return self.network.norm.weight[:0]

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token's keys and values."""
        return 2 * self.layers * self.heads * self.width * self.like.element_size()

    def __call__(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: KVCache,
        places: torch.Tensor,
        seen: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run the decoder on new tokens that follow those in the cache.

        Args:
            embeddings: (B, T, d).
            positions: (B, T) int64, each token's position in its own row.
            cache: Every layer writes its keys and values to it.
            places: (T,) int64, positions in the cache.
            seen: How many of the cache's positions attention reads.
            mask: (B, 1, T, seen), added to the scores: 0 where a token sees a key, -inf elsewhere. None if each token
                sees all.

        Returns:
            (B, T, d), the last hidden states.
        """
        states = embeddings
        turns, turns_back = self._angles(positions, embeddings.dtype)
        for place, layer in enumerate(self.network.layers):
            own, mlp = layer.self_attn, layer.mlp
            normal = self._normalise(states, layer.input_layernorm)
            query = _turn(self._split(own.q_proj(normal)), turns, turns_back)
            key = _turn(self._split(own.k_proj(normal)), turns, turns_back)
            keys, values = cache.write(place, key, self._split(own.v_proj(normal)), places, seen)
            found = attend(query, keys, values, mask)  # (B, H, T, w)
            states = states + own.o_proj(found.transpose(1, 2).flatten(2))
            normal = self._normalise(states, layer.post_attention_layernorm)
            states = states + mlp.down_proj(F.silu(mlp.gate_proj(normal)) * mlp.up_proj(normal))
        return self._normalise(states, self.network.norm)

    def _normalise(self, states: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.rms_norm(states, states.shape[-1:], norm.weight, self.epsilon)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """Reshape (B, T, heads w) to (B, heads, T, w)."""
        return states.view(*states.shape[:2], -1, self.width).transpose(1, 2)

    def _angles(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and signed sine of the rotary embedding, (B, 1, T, w) each.

        transformers' own function reads the positions on the host to choose frequencies, which makes a device wait.
        """
        rotary = self.network.rotary_emb
        angles = (positions[..., None].float() * rotary.inv_freq)[:, None]  # (B, 1, T, w / 2)
        cosine, sine = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
        return torch.cat([cosine, cosine], dim=-1).to(dtype), torch.cat([-sine, sine], dim=-1).to(dtype)


def _longest(config: Any) -> int | None:
    rotary: Mapping[str, Any] = config.rope_parameters
    if rotary["rope_type"] == "dynamic":
        return int(config.max_position_embeddings)
    if rotary["rope_type"] == "longrope" and rotary["short_factor"] != rotary["long_factor"]:
        return int(rotary["original_max_position_embeddings"])
    return None


def _turn(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate by position: the halves of a head's width are the real and imaginary parts."""
    return torch.addcmul(states * cosine, states.roll(states.shape[-1] // 2, dims=-1), sine)
