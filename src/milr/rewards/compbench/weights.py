"""Weights of T2I-CompBench's scorers: where they are stored and how to get them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from milr.errors import UsageError
from milr.rewards.compbench.unidet import FETCH_LABELS, LABEL_FILE
from milr.weights import CONVERSION, WeightFile, Weights

OFFICIAL_SIDE = 480
"""Side in pixels of BLIP-VQA's official input."""

_TOKENIZER = (WeightFile("vocab.json"), WeightFile("merges.txt"))
_MODEL = (WeightFile("config.json"), WeightFile("model.safetensors"))

BLIP = Weights(
    name="blip-vqa",
    title="BLIP for questions at 480 pixels",
    files=(*_MODEL, WeightFile("vocab.txt")),
    commands=(
        "curl --location --fail --remote-name https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"
        "model_base_vqa_capfilt_large.pth",
        "milr convert blip-vqa model_base_vqa_capfilt_large.pth",
        "curl --location --fail --output {folder}/vocab.txt "
        "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
    ),
)
"""The checkpoint's hash is not published; the vocabulary is checked by the ids of three words."""
CLIP = Weights(
    name="clip-vit-base-patch32",
    title="CLIP ViT-B/32",
    files=(*_MODEL, *_TOKENIZER),
    commands=("hf download openai/clip-vit-base-patch32 --local-dir {folder}",),
)
OWLV2 = Weights(
    name="owlv2-base-patch16-ensemble",
    title="OWLv2, the substitute for UniDet",
    files=(*_MODEL, *_TOKENIZER),
    commands=("hf download google/owlv2-base-patch16-ensemble --local-dir {folder}",),
)
LABELS = Weights(
    name="unidet",
    title="UniDet's class names",
    files=(WeightFile(LABEL_FILE),),
    commands=(FETCH_LABELS.format(path="{folder}/" + LABEL_FILE),),
)
ALL = (BLIP, CLIP, OWLV2, LABELS)


@dataclass(frozen=True)
class Origin:
    """Origin of a folder's weights."""

    title: str
    is_official: bool
    """True if the folder claims the official weights at the official size; there is no published hash to compare with.
    """


@dataclass(frozen=True)
class Substitute:
    """A substitute for UniDet."""

    name: str
    """Name in the reward's name."""
    title: str
    """Title in column titles."""


SUBSTITUTE = Substitute("owlv2", "OWLv2")


def describe_blip(folder: Path) -> Origin:
    """Return the origin of the BLIP in a folder: official if `milr convert` made it and its input has 480 pixels.

    Raises:
        UsageError: The folder's files cannot be read.
    """
    try:
        side = int(
            cast("dict[str, Any]", json.loads((folder / "config.json").read_text()))["vision_config"]["image_size"]
        )
        record = folder / CONVERSION
        if not record.is_file():
            return Origin(f"hub copy at {side} px", False)
        made = cast("dict[str, Any]", json.loads(record.read_text()))
        title = f"{made['source']} at {side} px, sha256 {str(made['source_sha256'])[:8]}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"cannot read what the BLIP in {folder} is ({error}): type milr doctor t2i-compbench"
        ) from error
    return Origin(title, side == OFFICIAL_SIDE)
