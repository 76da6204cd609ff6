"""A VQ decoder with less work and the same images: blocks that add nothing are left out, upsampling is folded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.janus.modeling_janus import (
    JanusVQVAEAttnBlock,
    JanusVQVAEConvUpsample,
    JanusVQVAEResnetBlock,
)

_LAST: dict[type[nn.Module], str] = {JanusVQVAEAttnBlock: "proj_out", JanusVQVAEResnetBlock: "conv2"}
"""The last convolution of each kind of residual block."""


def simplify_decoder(decoder: Any) -> None:
    """Leave out blocks that add nothing, and fold upsampling, in place."""
    leave_out_idle_blocks(decoder)
    fold_upsampling(decoder)


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


def fold_upsampling(decoder: Any) -> int:
    """Replace each doubling of an image and the convolution after it by `FoldedUpsampling`, in place.

    Args:
        decoder: The VQ model's decoder, weights loaded.

    Returns:
        The number of modules that were replaced.
    """
    found: list[tuple[str, JanusVQVAEConvUpsample]] = [
        (name, module) for name, module in decoder.named_modules() if isinstance(module, JanusVQVAEConvUpsample)
    ]
    for name, module in found:
        decoder.set_submodule(name, FoldedUpsampling(module.conv))
    return len(found)


class FoldedUpsampling(nn.Module):
    """Double an image by repeating pixels, and convolve it: as four 2 x 2 convolutions of the small image.

    A 3 x 3 kernel over repeated pixels sees each small pixel once, twice or four times, so that kernels with summed
    weights do the same with 4/9 of the multiplications. There is one for each of the four pixels that a small pixel
    becomes. Equal up to rounding: the weights are summed in float32 before the inputs are multiplied.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take a 3 x 3 convolution with padding 1."""
        super().__init__()
        weight = convolution.weight.detach()  # (C out, C in, 3, 3)
        # Of a pixel's two copies, the first one's kernel covers the pixel before and itself, the second one's the next.
        taps = [[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
        fold = torch.tensor(taps).to(weight.device)  # (copy, 2, 3)
        kernels = torch.einsum("aik,bjl,ockl->abocij", fold, fold, weight.float())  # (2, 2, C out, C in, 2, 2)
        self.kernels = nn.Buffer(kernels.to(weight.dtype).contiguous(), persistent=False)
        self.conv = convolution  # as in the file, for names and numbers of the weights

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the image doubled and convolved: (B, C, H, W) to (B, C, 2 H, 2 W)."""
        high, wide = hidden.shape[-2:]
        padded = F.pad(hidden, (1, 1, 1, 1))
        doubled = hidden.new_empty(len(hidden), self.kernels.shape[2], 2 * high, 2 * wide)
        for down in range(2):
            for right in range(2):
                seen = padded[..., down : down + high + 1, right : right + wide + 1]
                doubled[..., down::2, right::2] = F.conv2d(seen, self.kernels[down, right], self.conv.bias)
        return doubled


def _is_idle(module: nn.Module) -> bool:
    last = next((name for kind, name in _LAST.items() if isinstance(module, kind)), None)
    return last is not None and not hasattr(module, "nin_shortcut") and _is_zero(module.get_submodule(last))


def _is_zero(convolution: nn.Module) -> bool:
    return not any(bool(parameter.any()) for parameter in convolution.parameters())
