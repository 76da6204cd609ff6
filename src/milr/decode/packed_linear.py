"""Linear layers whose weights are stored in the layout of the CPU's kernels.

In the layout of `nn.Linear`, the weights are rearranged at every call, which costs as much as reading them. Large
layers, and all in bfloat16, are packed for oneDNN's kernels, with the operators that torch's own compiler packs with.
oneDNN needs about 15 microseconds to begin a product, which is more than a small product takes: on Intel's processors,
small float32 layers are transposed for MKL's kernels instead (measured in docs/performance.md).

In float32 a row's result must not depend on the number of rows, so that a batch draws what single images are. Layers
that are packed or transposed sum in the same order for two rows or more; plain layers, as MKL multiplies them, do not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from milr.decode.joined_linear import is_plain
from milr.decode.processor import Processor, this_processor

_ROWS = 32  # the batch size that the kernels' blocking is chosen for; others work
_INPUTS = 768  # with more inputs, MKL adds in another order from 192 rows on
_NUMBERS = 2**20  # larger weights are read faster if they are packed


class PackedLinear(nn.Module):
    """A replacement of a frozen `nn.Linear`, multiplied by oneDNN."""

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
        multiply: Any = torch.ops.mkldnn._linear_pointwise  # pyright: ignore[reportPrivateUsage]
        self.multiply = multiply.default  # called by its full name, torch need not search for it

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        if self.dense is not None and torch.is_grad_enabled():
            return F.linear(states, self.dense.weight, self.bias)
        return self.multiply(states, self.packed, self.bias, "none", [], "")


class TransposedLinear(nn.Module):
    """A replacement of a small frozen `nn.Linear` in float32, multiplied by MKL. It can carry a gradient."""

    def __init__(self, dense: nn.Linear) -> None:
        """Store the weights as (in, out)."""
        super().__init__()
        self.weight = dense.weight.detach().t().contiguous().t()  # (out, in), a view
        self.bias = dense.bias
        self.inputs = dense.in_features

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        if states.numel() == self.inputs:
            # a single row would take another kernel, which adds in another order
            twice = torch.cat([states.reshape(1, -1)] * 2)
            return F.linear(twice, self.weight, self.bias)[0].view(*states.shape[:-1], -1)
        return F.linear(states, self.weight, self.bias)


def pack(network: nn.Module, *, differentiable: bool = False) -> None:
    """Pack every linear layer inside, in place, one after the other, if this machine's torch supports it."""
    children: list[tuple[str, Any]] = list(network.named_children())
    for name, child in children:
        if is_plain(child) and child.weight.device.type == "cpu":
            if can_transpose(child, this_processor()):
                setattr(network, name, TransposedLinear(child))
            elif _can_pack(child.weight):
                setattr(network, name, PackedLinear(child, differentiable=differentiable))
        else:
            pack(child, differentiable=differentiable)


def can_transpose(layer: nn.Linear, processor: Processor) -> bool:
    """Return true if MKL multiplies the transposed weights fast and adds in one order for every number of rows.

    Measured on an Intel Xeon with MKL 2024.2, with its AVX-512 kernels and with its AVX2 kernels, which do neither.
    """
    suitable = processor.mkl and processor.intel and processor.avx512
    small = layer.in_features <= _INPUTS and layer.weight.numel() <= _NUMBERS
    return suitable and small and layer.weight.dtype == torch.float32


def _can_pack(weight: torch.Tensor) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported  # pyright: ignore[reportPrivateUsage]
        return bool(supported())
    return weight.dtype == torch.float32
