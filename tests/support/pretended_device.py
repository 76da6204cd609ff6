"""A pretended accelerator: tensors that claim to be on another device, with numbers computed on the CPU.

It counts what would make a real accelerator and its host wait for each other: reads of numbers by Python, and copies
between the two. Tensors of both in one operator are an error, as they are on a real device.

Its name is "meta", a device that every torch knows; torch's own tensors there have no numbers, and transformers makes
some while it loads a model, so models are loaded on the CPU and then moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from milr.models.checkpoint import Checkpoint
from milr.models.janus import Janus

DEVICE = torch.device("meta")
_READS = {
    getattr(torch.Tensor, name)
    for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__")
} | {torch.Tensor.__format__, torch.Tensor.__repr__}
_DYNAMIC = {  # the shape of the result depends on numbers, so a real device would be read
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten._unique2.default,
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
}


class DeviceTensor(torch.Tensor):
    """A tensor of the pretended device."""

    inner: torch.Tensor
    """The numbers, on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        """Wrap a CPU tensor."""
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Iterate over the first axis; for a tensor of numbers this is a read."""
        if self.dim() == 1:
            _count("read", "__iter__")
        return super().__iter__()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count reads by Python, which do not reach the operators."""
        kwargs = dict(kwargs or {})
        if func in _READS:
            _count("read", getattr(func, "__name__", str(func)))
            return func(*tree_map(_unwrap, list(args)), **kwargs)
        if func is F.scaled_dot_product_attention:  # the kernel depends on the device
            return DeviceTensor(func(*tree_map(_unwrap, list(args)), **tree_map(_unwrap, kwargs)))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator on the CPU."""
        return run(func, args, dict(kwargs or {}))


@dataclass
class Traffic:
    """Traffic between the host and the pretended device."""

    reads: Counter[str] = field(default_factory=Counter[str])
    """Reads of numbers by Python, and operators whose shapes depend on numbers."""
    copies: Counter[str] = field(default_factory=Counter[str])
    """Copies between the two, by direction."""
    operators: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    """Operators with constants, shapes and strides of their tensors, if `trace` is set."""
    trace: bool = False


_active: list[Traffic] = []


def _count(kind: str, name: str) -> None:
    for traffic in _active:
        (traffic.reads if kind == "read" else traffic.copies)[name] += 1


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


class _Factories(TorchDispatchMode):
    """A mode that makes tensors on the pretended device and intercepts every operator."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, dict(kwargs or {}))


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU; the results claim the device where they would be."""
    found: list[torch.Tensor] = []
    tree_map(lambda value: found.append(value) if isinstance(value, torch.Tensor) else None, [list(args), kwargs])
    ours = [one for one in found if isinstance(one, DeviceTensor)]
    theirs = [one for one in found if not isinstance(one, DeviceTensor) and one.dim()]
    wanted = kwargs.get("device")
    to_device = bool(ours) if wanted is None else torch.device(wanted).type == DEVICE.type
    if wanted is not None:
        kwargs["device"] = torch.device("cpu")
    if func is torch.ops.aten.copy_.default and len(ours) == 1 and theirs:
        _count("copy", "to the device" if isinstance(args[0], DeviceTensor) else "to the host")
    elif func is torch.ops.aten._to_copy.default and bool(ours) != to_device:
        _count("copy", "to the device" if to_device else "to the host")
    elif ours and theirs:
        raise RuntimeError(f"{func} got tensors of both devices")
    if ours and func in _DYNAMIC:
        _count("read", str(func))
    indexed = ours and func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
    if indexed and any(isinstance(one, DeviceTensor) and one.dtype == torch.bool for one in args[1]):
        _count("read", f"{func} with a mask")
    for traffic in _active:
        if traffic.trace and ours:
            constants = [repr(one) for one in tree_leaves([list(args), kwargs]) if not isinstance(one, torch.Tensor)]
            tensors = [(tuple(one.shape), one.stride()) for one in found]
            traffic.operators.append((str(func), *tensors, *constants))
    known = {id(one.inner): one for one in ours}
    results = func(*tree_map(_unwrap, list(args)), **tree_map(_unwrap, kwargs))

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not to_device:
            return value
        same = known.get(id(value))  # the operator worked in place
        return DeviceTensor(value) if same is None else same

    return tree_map(wrap, results)


@contextmanager
def pretended_device() -> Iterator[None]:
    """Make `DEVICE` available.

    torch's wrapped tensors do not work in inference mode; it is replaced by not recording gradients.
    """

    def enter(self: Any) -> None:
        self.quiet = torch.no_grad()
        self.quiet.__enter__()

    with _Factories(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.inference_mode, "__enter__", enter)
        patch.setattr(torch.inference_mode, "__exit__", lambda self, *args: self.quiet.__exit__(*args))
        yield


def load_janus(folder: Path, **options: Any) -> Janus:
    """Load a Janus checkpoint and move it to the pretended device."""
    with pytest.MonkeyPatch.context() as patch:
        load = Checkpoint.load_network

        def load_on_cpu(self: Checkpoint, dtype: torch.dtype, device: torch.device) -> Any:
            with _disable_current_modes():
                network = load(self, dtype)
            return network.to(device)

        patch.setattr(Checkpoint, "load_network", load_on_cpu)
        return Janus(folder, device=DEVICE.type, dtype="float32", **options)


@contextmanager
def watch(*, trace: bool = False) -> Iterator[Traffic]:
    """Count the traffic of a block."""
    traffic = Traffic(trace=trace)
    _active.append(traffic)
    try:
        yield traffic
    finally:
        _active.remove(traffic)
