"""Networks and tokenizers from transformers folders: safetensors, float32, no remote code, no downloads."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.utils import logging as transformers_logging

from milr.errors import UsageError
from milr.models.devices import find_device
from milr.models.received import check_config
from milr.untrusted import one_line


def load_network(
    kind: Any, folder: Path, way_out: str, device: str = "cpu", unused: Collection[str] | None = None
) -> Any:
    """Load a network in evaluation mode.

    Args:
        kind: Class of the network.
        folder: A folder in the form of `save_pretrained`.
        way_out: Advice for the error if it cannot be read.
        device: In torch's notation.
        unused: The only weights that the folder may lack; None skips the check.

    Raises:
        UsageError: It cannot be read, lacks weights, or there is no such device.
    """
    find_device(device)
    check_config(folder)
    transformers_logging.disable_progress_bar()  # pyright: ignore[reportUnknownMemberType]
    try:
        network, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise errors of many kinds on broken files
        raise _unreadable(kind, folder, error, way_out) from error
    missing = [] if unused is None else sorted(set(report["missing_keys"]) - set(unused))
    if missing:
        some = ", ".join(missing[:5])
        raise UsageError(f"{str(folder)!r} holds not all of a {kind.__name__}'s weights ({some}): {way_out}")
    return network.eval().requires_grad_(False).to(device)


def load_clip(folder: Path, way_out: str, device: str = "cpu") -> Any:
    """Load a CLIP with OpenAI's activation, in evaluation mode.

    Raises:
        UsageError: As `load_network`, or it has another activation.
    """
    network = load_network(CLIPModel, folder, way_out, device)
    for part in (network.config.text_config, network.config.vision_config):
        if part.hidden_act != "quick_gelu":
            raise UsageError(
                f"the CLIP in {str(folder)!r} has the activation {part.hidden_act!r}, but OpenAI's weights need "
                f"'quick_gelu' (quick GELU): {way_out}"
            )
    return network


def load_tokenizer(kind: Any, folder: Path, way_out: str) -> Any:
    """Load a tokenizer that reads control tokens in a prompt, such as [SEP], as plain text.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, split_special_tokens=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise _unreadable(kind, folder, error, way_out) from error


def _unreadable(kind: Any, folder: Path, error: Exception, way_out: str) -> UsageError:
    reason = one_line(f"{type(error).__name__}: {error}", 200)
    return UsageError(f"{str(folder)!r} holds no {kind.__name__} that can be read ({reason}): {way_out}")
