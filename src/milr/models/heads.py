"""Heads: hidden states to logits, tokens to embeddings. They implement `milr.decode.loop.Head`."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class TextHead:
    """The head of text tokens: one row per sequence."""

    name, rows = "text", 1

    def __init__(self, network: Any) -> None:
        """Take a `JanusForConditionalGeneration`."""
        self.network = network
        self.vocabulary: int = network.config.text_config.vocab_size

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (T,) int64 tokens to (T, d) embeddings."""
        return self.network.get_input_embeddings()(tokens)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits; differentiable."""
        return self.network.lm_head(states.to(self.network.dtype)).float()


class ImageParts(Protocol):
    """The parts of a network that an image head reads."""

    vocabulary: int
    """V."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (T,) int64 image tokens to (T, d) embeddings."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits of image tokens; differentiable."""
        ...


class JanusImageParts:
    """The image parts of a `JanusForConditionalGeneration`."""

    def __init__(self, network: Any) -> None:
        """Take the network."""
        self.network = network
        self.vocabulary: int = network.config.vq_config.num_embeddings

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (T,) int64 image tokens to (T, d) embeddings."""
        return self.network.prepare_embeddings_for_image_generation(tokens)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (n, d) float32 to (n, V) float32 logits of image tokens; differentiable."""
        return self.network.model.generation_head(states.to(self.network.dtype)).float()


class ImageHead:
    """The head of image tokens under guidance: a conditional and an unconditional row per sequence, or one row."""

    def __init__(self, parts: ImageParts, guidance: torch.Tensor | float = 1.0, *, rows: int = 2) -> None:
        """Take the parts.

        Args:
            parts: Of the network.
            guidance: (1,) float32 on the network's device if decode steps are recorded; a plain number would become a
                constant.
            rows: 2; or 1, which is guidance 1 at half the cost.
        """
        self.parts, self.guidance, self.rows = parts, guidance, rows
        self.name = f"image/{rows}"
        self.vocabulary = parts.vocabulary

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (T,) int64 tokens to (T rows, d) embeddings."""
        return self.parts.embed(tokens).repeat_interleave(self.rows, dim=0)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Map (n rows, d) float32 to (n, V) float32 guided logits; differentiable."""
        logits = self.parts.logits(states)
        return logits if self.rows == 1 else guide(logits.view(-1, 2, logits.shape[-1]), self.guidance)


def guide(logits: torch.Tensor, guidance: torch.Tensor | float) -> torch.Tensor:
    """Apply classifier-free guidance to conditional and unconditional logits c, u: (n, 2, V) -> (n, V).

    It is computed as c + (w - 1) (c - u), which equals u + w (c - u), and is exactly c if w is 1.
    """
    conditional, unconditional = logits.unbind(1)
    return conditional + (guidance - 1) * (conditional - unconditional)
