"""Work beside the decoding: image tokens become pixels on a second CUDA stream while the next tokens are decoded.

No decode step reads pixels, so the device may compute them at any time before the host asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Pending(Protocol):
    """A tensor that may still be in work."""

    def done(self) -> bool:
        """Return true if `wait` would return at once. Does not wait."""
        ...

    def wait(self) -> torch.Tensor:
        """Return the tensor, on the CPU."""
        ...


class Side(Protocol):
    """A place beside the decoding where a device works."""

    def begin(self, work: Callable[[], torch.Tensor]) -> Pending:
        """Begin work that returns a tensor on the device; one transfer brings it to the CPU.

        Args:
            work: Launches operators, reads no numbers. It may read what the device has been told to compute so far.
        """
        ...


@dataclass(frozen=True)
class Here:
    """A tensor on the CPU."""

    found: torch.Tensor

    def done(self) -> bool:
        """Return true."""
        return True

    def wait(self) -> torch.Tensor:
        """Return the tensor."""
        return self.found


class Inline:
    """A side of a device without streams: the work is done at once. Implements `Side`."""

    def begin(self, work: Callable[[], torch.Tensor]) -> Here:
        """Do the work (see `Side`)."""
        return Here(work().cpu())


@dataclass(frozen=True)
class Copying:
    """A tensor on its way from a second CUDA stream to the host. Implements `Pending`."""

    arrived: Any
    """A CUDA event, after the copy."""
    copy: torch.Tensor
    """In pinned memory."""

    def done(self) -> bool:
        """Return true if the copy is complete."""
        return bool(self.arrived.query())

    def wait(self) -> torch.Tensor:
        """Wait for the copy, and for nothing else on the device."""
        self.arrived.synchronize()
        return self.copy


class SecondStream:
    """A second stream of a CUDA device. Implements `Side`."""

    def __init__(self, device: torch.device) -> None:
        """Make a stream."""
        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, work: Callable[[], torch.Tensor]) -> Copying:
        """Launch the work on the second stream (see `Side`).

        Tensors that it makes are of that stream, so torch's allocator gives them to no other stream meanwhile.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            found = work()
            copy = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            copy.copy_(found, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return Copying(arrived, copy)


def find_side(device: torch.device) -> Side:
    """Return a device's side."""
    return SecondStream(device) if device.type == "cuda" else Inline()
