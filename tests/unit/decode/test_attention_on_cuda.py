"""On CUDA the kernel of attention is named: torch's own choice is a kernel that is compiled again for every length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaModel

from milr.decode import attention
from milr.decode.attention import ALIGNED, attend, has_kernel
from milr.decode.engine import Engine
from milr.decode.llama import Llama


class Operators(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "seen"), [(1, 128), (9, 77)])
def test_the_memory_efficient_kernel_is_called(
    queries: int, seen: int, masked: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors have devices and shapes, but no numbers: no card is needed."""
    monkeypatch.setattr(attention, "has_kernel", lambda device, dtype: True)

    def make(*size: int, of: int) -> torch.Tensor:
        """Make the first rows of a larger tensor (1, ..., of, size[-1])."""
        strides = (size[1] * of * size[3], of * size[3], size[3], 1)
        return torch.empty_strided(size, strides, dtype=dtype, device="cuda")

    with FakeTensorMode(), Operators() as operators:
        query, keys = make(2, 4, queries, 64, of=queries), make(2, 4, seen, 64, of=192)
        mask = torch.empty_strided((2, 1, queries, seen), (192 * queries, 192, 192, 1), dtype=dtype, device="cuda")
        found = attend(query, keys, keys, mask if masked else None)
    assert found.shape == query.shape and found.dtype == dtype
    assert [name for name in operators.names if "attention" in name] == [
        "aten._scaled_dot_product_efficient_attention.default"
    ]


def test_an_old_card_has_the_kernel_for_all_but_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    has_kernel.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    device = torch.device("cuda")
    assert [has_kernel(device, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [
        True,
        True,
        False,
    ]
    has_kernel.cache_clear()


@pytest.mark.parametrize("seen", [9, 16, 77])
def test_rows_of_a_mask_are_aligned(seen: int) -> None:
    """Else attention would silently be left to torch's own choice."""
    config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    network = LlamaModel(config).requires_grad_(False)
    batch = Engine(Llama(network)).open([None, None], seen)
    mask = batch._mask(batch.places[:seen], seen)
    assert mask.shape == (2, 1, seen, seen)
    assert mask.stride(2) % ALIGNED == 0
