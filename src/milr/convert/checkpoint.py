"""Parts that all converters share: reading an official checkpoint, renaming its keys, writing the result."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from milr._version import __version__
from milr.errors import UsageError
from milr.weights import CONVERSION, hash_file

_ENTRIES = ("state_dict", "model", "module")
"""Keys under which checkpoints store their tensors: mmdet's, then BLIP's, then deepspeed's."""
_HARMLESS = (argparse.Namespace,)
"""Classes besides tensors and plain values that a checkpoint may hold: a training program's arguments."""
_NAMED = 8
"""Most keys in an error."""


def read_checkpoint(path: Path, sha256_start: str | tuple[str, ...], any_hash: bool) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name. Only this function opens a pickle, and only for tensors.

    Args:
        path: A file that `torch.save` wrote.
        sha256_start: First hexadecimal digits of the official file's hash; several if there are several files.
        any_hash: Accept another file too.

    Raises:
        UsageError: There is no such file, its hash differs, or it holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}: give the official checkpoint")
    digest = hash_file(path)
    if not digest.startswith(sha256_start) and not any_hash:
        starts = sha256_start if isinstance(sha256_start, str) else " or ".join(sha256_start)
        raise UsageError(
            f"{path.name} has sha256 {digest[:16]}..., but the official file's begins with {starts}: "
            f"get that one, or type --any-hash to convert this one (its scores are then not the official ones)"
        )
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises arbitrary errors on files that are not pickles
        raise UsageError(f"{path.name} is no checkpoint of tensors and plain values: {_reason(error)}") from error
    for entry in _ENTRIES:
        if isinstance(loaded, dict) and isinstance(cast("dict[str, Any]", loaded).get(entry), dict):
            loaded = cast("dict[str, Any]", loaded)[entry]
            break
    values = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    state = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not state or len(state) < len(values):
        raise UsageError(f"{path.name} holds no state dict: give the file as it was published")
    return state


def load_carried(
    network: nn.Module,
    source: Mapping[str, Tensor],
    carry: Callable[[str, Tensor], Mapping[str, Tensor] | None],
    *,
    unused: Iterable[str] = (),
) -> None:
    """Load a checkpoint's tensors into a network, which defines names and shapes.

    Args:
        network: Takes them, in float32.
        source: The checkpoint.
        carry: Maps one key and its tensor to the network's names; empty if the key is dropped on purpose, None if it is
            unknown.
        unused: Weights of the network that the checkpoint may lack.

    Raises:
        UsageError: Keys that `carry` does not know, weights that stay empty or are filled twice, names or shapes that
            the network lacks. The network is then unchanged.
    """
    live = network.state_dict()
    carried: dict[str, Tensor] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for key, tensor in source.items():
        renamed = carry(key, tensor)
        if renamed is None:
            unknown.append(key)
        else:
            twice += [name for name in renamed if name in carried]
            carried.update(renamed)
    missing = [name for name in live if name not in carried and name not in set(unused)]
    left_over = [name for name in carried if name not in live]
    misshapen = [
        f"{name} {tuple(tensor.shape)} for {tuple(live[name].shape)}"
        for name, tensor in carried.items()
        if name in live and live[name].shape != tensor.shape
    ]
    faults = {
        "keys that the map does not know": unknown,
        "weights that two keys fill": twice,
        "weights that the checkpoint lacks": missing,
        "weights that this transformers' model lacks": left_over,
        "weights of another shape": misshapen,
    }
    found = [f"{len(names)} {what}: {_some(names)}" for what, names in faults.items() if names]
    if found:
        raise UsageError(f"not the model that this converter is for; {'; '.join(found)}")
    network.load_state_dict({name: tensor.float() for name, tensor in carried.items()}, strict=False)


def save_converted(
    network: Any, source: Path | Sequence[Path], target: Path, also: Callable[[Path], None] | None = None
) -> None:
    """Write a network by its `save_pretrained`, and `conversion.json` with the hashes, then rename the folder.

    Args:
        network: A transformers model, or whatever else has its `save_pretrained`.
        source: The original checkpoint, or its files.
        target: The folder to make.
        also: Writes further files into the folder.

    Raises:
        UsageError: The folder exists already, or cannot be made.
    """
    if target.exists():
        raise UsageError(f"{target} exists; nothing was overwritten: give another folder, or remove it first")
    part = target.with_name(f"{target.name}.part")
    transformers_logging.disable_progress_bar()  # pyright: ignore[reportUnknownMemberType]
    try:
        shutil.rmtree(part, ignore_errors=True)
        network.save_pretrained(part)
        if also is not None:
            also(part)
        origin: dict[str, Any] = (
            {"source": source.name, "source_sha256": hash_file(source)}
            if isinstance(source, Path)
            else {"sources": {path.name: hash_file(path) for path in source}}
        )
        record = {
            **origin,
            "files": {
                str(path.relative_to(part)): hash_file(path) for path in sorted(part.rglob("*")) if path.is_file()
            },
            "milr": __version__,
            "transformers": version("transformers"),
        }
        (part / CONVERSION).write_text(json.dumps(record, indent=2) + "\n")
        os.replace(part, target)
    except (OSError, SafetensorError) as error:  # a full disk is the latter's
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {target} ({reason}): give a folder that you may write to, with room") from error


def _reason(error: Exception) -> str:
    """Return torch's error message, without its advice to run arbitrary code in the file."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {found[1]}, and nothing but tensors is read" if found else str(error).split("\n", 1)[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
