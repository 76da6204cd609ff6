"""Converters: official checkpoints to transformers folders with safetensors. Only this package opens a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from milr.registry import Entry, find, load
from milr.weights import weights_root

__all__ = ["CONVERTERS", "Converter", "convert"]


class Converter(Protocol):
    """The protocol of a converter."""

    def __call__(self, source: Path, target: Path, *, any_hash: bool = False) -> None:
        """Convert.

        Args:
            source: The checkpoint.
            target: The folder to make; must not exist.
            any_hash: Accept a file whose hash is not the official one.

        Raises:
            UsageError: Another hash, or unknown or missing keys.
        """
        ...


CONVERTERS: Mapping[str, Entry] = {
    "geneval-detector": Entry(
        "milr.convert.geneval_detector:convert", "GenEval's detector: mmdet's Mask2Former Swin-S, COCO instances"
    ),
    "blip-vqa": Entry("milr.convert.blip_vqa:convert", "T2I-CompBench's BLIP for questions at 480 pixels"),
    "janus": Entry(
        "milr.convert.janus:convert", "Janus, pickled or in DeepSeek's layout, as transformers' safetensors"
    ),
    "llamagen": Entry(
        "milr.convert.llamagen:convert", "LlamaGen text-to-image: the authors' decoder, VQ-16 and T5 in one folder"
    ),
}
"""Name -> entry. A converter is one file and one line here; its name is that of the folder under the weights' root."""


def convert(name: str, source: Path, target: Path | None = None, *, any_hash: bool = False) -> Path:
    """Convert with the converter of that name.

    Args:
        name: One of `CONVERTERS`.
        source: The checkpoint.
        target: The folder to make; None takes the one where rewards look for it.
        any_hash: Accept a file whose hash is not the official one.

    Returns:
        The folder.
    """
    converter: Converter = load(find("converter", name, CONVERTERS))
    target = target or weights_root() / name
    converter(source, target, any_hash=any_hash)
    return target
