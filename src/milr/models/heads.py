"""The heads of a Janus checkpoint: hidden states to logits, tokens to embeddings. Implement `milr.decode.loop.Head`."""

from __future__ import annotations

from typing import Any

import torch


class TextHead:
    """Text tokens: one row per sequence."""

    name, rows = "text", 1

    def __init__(self, network: Any) -> None:
        """Take a `JanusForConditionalGeneration`."""
        self.network = network
        self.vocabulary: int = network.config.text_config.vocab_size

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) int64 -> (T, d)."""
        return self.network.get_input_embeddings()(tokens)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 -> (n, V) float32, differentiable."""
        return self.network.lm_head(states.to(self.network.dtype)).float()


class ImageHead:
    """Image tokens under guidance: a conditional row, then an unconditional one; or one row, without guidance."""

    def __init__(self, network: Any, guidance: torch.Tensor | float = 1.0, *, rows: int = 2) -> None:
        """Take a `JanusForConditionalGeneration`.

        Args:
            network: The checkpoint.
            guidance: (1,) float32 on the network's device where decode steps are recorded: a number would be recorded.
            rows: 2; or 1, which is guidance 1 at half the cost.
        """
        self.network, self.guidance, self.rows = network, guidance, rows
        self.name = f"image/{rows}"
        self.vocabulary: int = network.config.vq_config.num_embeddings

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T,) int64 -> (T rows, d)."""
        return self.network.prepare_embeddings_for_image_generation(tokens).repeat_interleave(self.rows, dim=0)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(n rows, d) float32 -> (n, V) float32, guided; differentiable."""
        logits = self.network.model.generation_head(states.to(self.network.dtype)).float()
        return logits if self.rows == 1 else guide(logits.view(-1, 2, logits.shape[-1]), self.guidance)


def guide(logits: torch.Tensor, guidance: torch.Tensor | float) -> torch.Tensor:
    """Classifier-free guidance: (n, 2, V) conditional and unconditional logits c, u -> (n, V): c + (w - 1) (c - u).

    The same as u + w (c - u), and exactly c where w is 1.
    """
    conditional, unconditional = logits.unbind(1)
    return conditional + (guidance - 1) * (conditional - unconditional)
