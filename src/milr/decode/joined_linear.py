"""Linear layers in fewer calls: layers of the same input joined into one, a product and a sum in one.

A decode step of a large model is several hundred kernels, and at small batches a GPU starts many of them for longer
than it computes them. On a CPU, too, a call takes as long as a small product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Part(nn.Module):
    """One of the joined layers, for code that calls it alone, such as the network's own forward pass."""

    def __init__(self, parent: nn.Module, joined: str, outputs: slice) -> None:
        """Take the joined layer's parent and name, and the part's place among its outputs."""
        super().__init__()
        self._parent = (parent,)  # in a tuple, because torch would register a module as a child
        self._joined, self._outputs = joined, outputs

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        whole: Any = getattr(self._parent[0], self._joined)
        if is_plain(whole):
            bias = None if whole.bias is None else whole.bias[self._outputs]
            return F.linear(states, whole.weight[self._outputs], bias)
        return whole(states)[..., self._outputs]  # packed, or in int8


def join(parent: Any, names: Sequence[str], joined: str) -> None:
    """Join linear layers in place, unless this was done before. Their weights are in memory once afterwards.

    Args:
        parent: The layers are its children.
        names: Names of the layers, all with a bias or all without.
        joined: Name of the new layer; the old names become `Part`s of it.
    """
    if hasattr(parent, joined):
        return
    layers: list[Any] = [getattr(parent, name) for name in names]
    first, ends = layers[0], [sum(one.out_features for one in layers[: count + 1]) for count in range(len(layers))]
    whole = nn.Linear(first.in_features, ends[-1], bias=first.bias is not None, device="meta")
    for kind, _ in first.named_parameters():
        numbers = torch.cat([getattr(one, kind).detach() for one in layers])
        setattr(whole, kind, nn.Parameter(numbers, requires_grad=False))
    setattr(parent, joined, whole)
    for name, start, end in zip(names, [0, *ends], ends, strict=False):
        setattr(parent, name, Part(parent, joined, slice(start, end)))


def add_output(states: torch.Tensor, layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return states + layer(inputs), (B, T, d)."""
    if states.device.type != "cpu" and is_plain(layer) and layer.bias is None:
        return torch.addmm(states.flatten(0, 1), inputs.flatten(0, 1), layer.weight.t()).view_as(states)
    return states + layer(inputs)  # packed, or in int8; on a CPU a call costs little


def is_plain(layer: nn.Module) -> bool:
    """Return true if a layer's weights are those of `nn.Linear`: neither packed nor in int8."""
    return isinstance(layer, nn.Linear) and type(layer.weight) is nn.Parameter
