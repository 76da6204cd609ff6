"""Linear layers whose weights are stored in the layout of the CPU's kernels.

Otherwise oneDNN rearranges a weight matrix at every call, which costs as much as reading it. How much is gained depends
on the processor: small layers with two rows in float32 are slower than plain ones on an Intel Xeon
(docs/performance.md). torch's own compiler packs with the same operators.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_ROWS = 32  # the batch size that the kernels' blocking is chosen for; others work


class PackedLinear(nn.Module):
    """A replacement of a frozen `nn.Linear`."""

    def __init__(self, dense: nn.Linear, *, differentiable: bool) -> None:
        """Pack the weights.

        Args:
            dense: A layer on a CPU, float32 or bfloat16.
            differentiable: Keep the plain weights too, for passes that carry a gradient.
        """
        super().__init__()
        pack: Any = torch.ops.mkldnn._reorder_linear_weight  # pyright: ignore[reportPrivateUsage]
        self.packed: torch.Tensor = pack(dense.weight.detach(), _ROWS)
        self.dense = dense if differentiable else None
        self.bias = dense.bias
        self.multiply: Any = torch.ops.mkldnn._linear_pointwise  # pyright: ignore[reportPrivateUsage]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        if self.dense is not None and torch.is_grad_enabled():
            return F.linear(states, self.dense.weight, self.bias)
        return self.multiply(states, self.packed, self.bias, "none", [], "")


def pack(network: nn.Module, *, differentiable: bool = False) -> None:
    """Pack every linear layer inside, in place, one after the other, if this machine's torch supports it."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Linear) and _can_pack(child.weight):
            setattr(network, name, PackedLinear(child, differentiable=differentiable))
        else:
            pack(child, differentiable=differentiable)


def _can_pack(weight: torch.Tensor) -> bool:
    if type(weight) is not nn.Parameter:  # in int8
        return False
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported  # pyright: ignore[reportPrivateUsage]
        return bool(supported())
    return weight.dtype == torch.float32
