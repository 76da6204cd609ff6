"""Janus checkpoints -> transformers' layout in safetensors: pickled shards, and DeepSeek's own layout.

A folder in DeepSeek's layout with safetensors needs no conversion, because milr loads it directly. Plain transformers
can read the result too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milr.convert.checkpoint import read_checkpoint, save_converted
from milr.errors import UsageError
from milr.models.checkpoint import SETTINGS_FILE, Checkpoint, open_checkpoint
from milr.models.weight_files import find_shards, read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = ("*.bin", "*.pth")


def convert(source: Path, target: Path, *, any_hash: bool = False) -> None:
    """Convert a folder.

    Args:
        source: Either layout, with *.safetensors or with pickles (*.bin); safetensors are preferred if it has both.
        target: The folder to make; must not exist.
        any_hash: Without effect, because there is no single official file.

    Raises:
        UsageError: The folder is not a Janus checkpoint, a pickle holds more than tensors, or weights are missing, left
            over or unknown.
    """
    if target.exists():
        raise UsageError(f"{target} exists; nothing was overwritten: give another folder, or remove it first")
    checkpoint = open_checkpoint(source, weights=False)
    pickled = not any(source.glob("*.safetensors"))
    files = _list_pickles(source) if pickled else find_shards(source)
    tensors = _read_pickles(files) if pickled else dict(read_safetensors(source))
    # in the dtype on the disk: that of the decoder, if there are several
    network = checkpoint.load_network(max(tensors.values(), key=lambda tensor: tensor.numel()).dtype, tensors=tensors)
    processor = _make_processor(checkpoint)
    settings = checkpoint.settings.model_copy(update={"profile": checkpoint.profile_name})

    def save_settings(folder: Path) -> None:
        processor.save_pretrained(folder)
        (folder / SETTINGS_FILE).write_text(json.dumps(settings.model_dump(), indent=2) + "\n", encoding="utf-8")

    save_converted(network, files, target, also=save_settings)


def _list_pickles(folder: Path) -> list[Path]:
    found = sorted({path for pattern in _PICKLES for path in folder.glob(pattern)})
    if not found:
        raise UsageError(f"{str(folder)!r} has neither *.safetensors nor *.bin: fetch its weights")
    return found


def _read_pickles(files: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(read_checkpoint(path, "", any_hash=False))
    return tensors


def _make_processor(checkpoint: Checkpoint) -> Any:
    from transformers.models.janus.processing_janus import JanusProcessor

    return JanusProcessor(
        image_processor=checkpoint.load_image_processor(),
        tokenizer=checkpoint.load_tokenizer(),
        num_image_tokens=checkpoint.capabilities.image_tokens,
    )
