"""Networks and tokenizers from transformers folders: safetensors, float32, no network, no remote code, no bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from milr.errors import UsageError


def load_network(kind: Any, folder: Path, way_out: str, device: str = "cpu") -> Any:
    """A network in evaluation mode.

    Args:
        kind: Its class.
        folder: As `save_pretrained` writes it.
        way_out: What to do where it cannot be read, for the error.
        device: As torch names it.

    Raises:
        UsageError: It cannot be read, or there is no such device.
    """
    transformers_logging.disable_progress_bar()  # pyright: ignore[reportUnknownMemberType]
    try:
        network = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(kind, folder, error, way_out) from error
    try:
        return network.eval().requires_grad_(False).to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(f"no device {device!r} here ({reason}): give cpu, cuda, cuda:1 or mps") from error


def load_tokenizer(kind: Any, folder: Path, way_out: str) -> Any:
    """A tokenizer.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(kind, folder, error, way_out) from error


def _unreadable(kind: Any, folder: Path, error: Exception, way_out: str) -> UsageError:
    reason = str(error).strip().split("\n", 1)[0]
    return UsageError(f"{str(folder)!r} holds no {kind.__name__} that can be read ({reason}): {way_out}")
