"""The most numbers that a computation holds at a time. Nothing is computed: all is on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Living(TorchDispatchMode):
    """Counts the numbers of living results; weights and inputs are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_iter((args, kwargs)):
            if isinstance(given, torch.Tensor):
                self.sizes.setdefault(given.untyped_storage()._cdata, 0)
        made = function(*args, **(kwargs or {}))
        for one in tree_iter(made):
            if isinstance(one, torch.Tensor) and (key := one.untyped_storage()._cdata) not in self.sizes:
                self.sizes[key] = one.untyped_storage().nbytes() // one.element_size()
                self.now += self.sizes[key]
                self.most = max(self.most, self.now)
                weakref.finalize(one.untyped_storage(), self._forget, key)
        return made

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


class _Fused(TorchFunctionMode):
    """Lets attention hold no matrix of tokens by tokens, as its fused kernels do not."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return named["query"].new_empty(*named["query"].shape[:-1], named["value"].shape[-1])
        return function(*args, **(kwargs or {}))


def trace(compute: Callable[[], object]) -> int:
    """Return the most numbers that living results of a computation have at a time."""
    living = _Living()
    with torch.no_grad(), _Fused(), living:
        compute()
    return living.most
