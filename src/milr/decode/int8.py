"""Weight-only int8: linear layers whose weights take one byte each, by torchao. An option; tokens differ.

A weight is stored as round(w / s), with a scale s per output row, and converted when it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from milr.errors import UsageError


def require_torchao() -> None:
    """Refuse int8 weights if torchao is not installed."""
    if find_spec("torchao") is None:
        raise UsageError('dtype int8 needs the package torchao, which is not installed: type pip install "milr[int8]"')


def quantise(network: nn.Module) -> None:
    """Store the weights of all linear layers inside in int8, in place.

    Raises:
        UsageError: torchao is not installed.
    """
    require_torchao()
    torchao: Any = import_module("torchao.quantization")
    torchao.quantize_(network, torchao.Int8WeightOnlyConfig())
    network.requires_grad_(False)
