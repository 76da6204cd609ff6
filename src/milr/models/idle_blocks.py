"""Blocks of a VQ decoder that add nothing, left out."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAEAttnBlock, JanusVQVAEResnetBlock

_LAST: dict[type[nn.Module], str] = {JanusVQVAEAttnBlock: "proj_out", JanusVQVAEResnetBlock: "conv2"}
"""The last convolution of each kind of residual block."""


def leave_out_idle_blocks(decoder: Any) -> int:
    """Replace blocks that return their input unchanged by `nn.Identity`, in place.

    A residual block returns its input if its last convolution has zero weights and biases and it keeps the number of
    channels. A checkpoint may switch off blocks that it does not need in this way; images are the same without them.

    Args:
        decoder: The VQ model's decoder, weights loaded.

    Returns:
        The number of blocks that were replaced.
    """
    idle: list[str] = [name for name, module in decoder.named_modules() if _is_idle(module)]
    for name in idle:
        decoder.set_submodule(name, nn.Identity())
    return len(idle)


def _is_idle(module: nn.Module) -> bool:
    last = next((name for kind, name in _LAST.items() if isinstance(module, kind)), None)
    return last is not None and not hasattr(module, "nin_shortcut") and _is_zero(module.get_submodule(last))


def _is_zero(convolution: nn.Module) -> bool:
    return not any(bool(parameter.any()) for parameter in convolution.parameters())
