"""Devices and dtypes: one policy for the model and its rewards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from milr.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Dtypes of weights and the KV cache. Latents, guidance and softmax are float32 in any case. "int8" stores the weights
of a Janus's language model in one byte each (`milr.decode.int8`); the rest has the device's own dtype."""
_SHORT_DTYPES = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
"""Common short forms, which are refused with the full name."""


@dataclass(frozen=True)
class Placement:
    """The device and the dtype of a run's model and rewards, and how the model's steps run there."""

    device: str = "cpu"
    """Device, in torch's notation."""
    dtype: str | None = None
    """One of `DTYPES`; None leaves the choice to `choose_dtype`. Scorers of benchmarks stay float32."""
    graphs: bool = True
    """On a CUDA device, record the model's decode steps as CUDA graphs and replay them."""


@contextmanager
def own_numbers() -> Generator[None]:
    """Compute with milr's torch settings, whatever the calling program has set; restore its settings afterwards.

    On CUDA float32 is float32: with TF32, torch's default for convolutions, factors have 10 bits. And cuDNN's attention
    is not used, because it is compiled again for every shape (see `milr.decode.attention`). These are settings of the
    whole process: of several threads, the last one that leaves restores them.
    """
    if "torch" not in sys.modules:  # not set by anybody
        yield
        return
    import torch

    with ExitStack() as settings:
        settings.enter_context(_OF_THE_PROCESS)
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                settings.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def telling_shortage(what: str) -> Generator[None]:
    """Turn an error of memory that ran out while something was loaded into one line.

    Args:
        what: In words, with its name.

    Raises:
        OutOfMemory: Instead of that error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "torch" not in sys.modules:
            raise
        from milr.decode.batching import tell_shortage

        told = tell_shortage(error, "give another --dtype or --device", f" while {what} was loaded")
        if told is None:
            raise
        raise told from error


class _ProcessSettings:
    """The torch settings that all threads of the process share."""

    def __init__(self) -> None:
        self._lock, self._inside, self._theirs = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._theirs = _choose_settings()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._theirs.close()


def _choose_settings() -> ExitStack:
    """Choose milr's settings; return what restores the calling program's."""
    import torch

    backends: Any = torch.backends
    with ExitStack() as restore:
        restore.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        restore.callback(backends.cuda.enable_cudnn_sdp, backends.cuda.cudnn_sdp_enabled())
        backends.cuda.enable_cudnn_sdp(False)
        convolutions = (lambda: backends.cudnn.allow_tf32, partial(setattr, backends.cudnn, "allow_tf32"), False)
        products = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
        restore.callback(_forbid_tf32(*convolutions, backends.cudnn.conv))
        restore.callback(_forbid_tf32(*products, backends.cuda.matmul))
        return restore.pop_all()
    raise AssertionError("no error is suppressed")


def _forbid_tf32(
    get: Callable[[], Any], choose: Callable[[Any], None], exact: object, newer: Any
) -> Callable[[], None]:
    """Forbid TF32 by torch's older setting, which its own code reads; return a call that restores it.

    Torch refuses to read the older setting if a newer one says otherwise. Then the newer one is changed.
    """
    try:
        before = get()
    except RuntimeError:
        pass
    else:
        choose(exact)
        if newer.fp32_precision != "tf32":
            return partial(choose, before)
        choose(before)
    precision = newer.fp32_precision
    newer.fp32_precision = "ieee"
    return partial(setattr, newer, "fp32_precision", precision)


_OF_THE_PROCESS = _ProcessSettings()


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    Args:
        name: In torch's notation: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UsageError: There is no such name, or this machine has no such device.
    """
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, UnicodeError) as error:
        raise UsageError(f"unknown device {name!r}: use 'cpu', 'cuda' or 'cuda:0'") from error
    reason = ""
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = "this torch sees no CUDA device"
    else:
        try:
            torch.zeros(1, device=device).item()  # "meta" has tensors without contents
        except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
            reason = str(error).split("\n", 1)[0].split(". This could be", 1)[0]
    if reason:
        raise UsageError(f"no device {name!r} here ({reason}): give --device cpu, or cuda, cuda:1 or mps where it is")
    return device


def machine_facts(placement: Placement, places: Mapping[str, str]) -> dict[str, str | int]:
    """Return the facts about the machine that a run stores and only torch knows.

    Args:
        placement: The run's placement.
        places: Devices of its rewards, by the name of the fact: "reward_device", "evaluator_device".
    """
    import torch

    facts: dict[str, str | int] = {"threads": torch.get_num_threads(), "device": placement.device, **places}
    if placement.device.startswith("cuda") and torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name(placement.device)
    return facts


def check_dtype(name: str | None) -> None:
    """Refuse an unknown name of a dtype; None is allowed. Torch is not imported."""
    if name in _SHORT_DTYPES:
        raise UsageError(f"unknown dtype {name!r}: did you mean {_SHORT_DTYPES[name]!r}? known: {', '.join(DTYPES)}")
    if name is not None and name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype of the weights and of the KV cache.

    Args:
        name: One of `DTYPES`. None and "int8" take float32 on a CPU; elsewhere bfloat16, but float16 on CUDA devices
            that are older than bfloat16 (compute capability below 8).
        device: The model's device.

    Raises:
        UsageError: There is no such dtype.
    """
    import torch

    from milr.decode.processor import computes_bfloat16

    check_dtype(name)
    if name in (None, "int8"):
        if device.type == "cpu":
            name = "float32"
        elif device.type == "cuda" and not computes_bfloat16(device):
            name = "float16"
        else:
            name = "bfloat16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def refuse_int8(dtype: str | None, family: str) -> None:
    """Refuse int8 weights in a family that does not have them."""
    if dtype == "int8":
        raise UsageError(f"{family} models have no int8 weights: give --dtype bfloat16, or leave it out")
