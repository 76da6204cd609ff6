"""BLIP for questions: Salesforce's checkpoint -> transformers' `BlipForQuestionAnswering` at 480 pixels.

The map was checked by running both implementations on the same random weights: image states are bit-equal, answers
agree to 2e-6. Copies on the hub were made at 384 pixels, which shrinks the table of image positions from 900 to 576.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from milr.convert.checkpoint import load_carried, read_checkpoint, save_converted

if TYPE_CHECKING:
    from transformers.models.blip.configuration_blip import BlipConfig
    from transformers.models.blip.modeling_blip import BlipForQuestionAnswering

SHA256_START = ""
"""The hash of `model_base_vqa_capfilt_large.pth` is not published, so every file passes; its hash is recorded."""
SIDE = 480
"""Image size of the official evaluation, in pixels; the checkpoint's own size."""

_BLOCK = r"visual_encoder\.blocks\.(\d+)\."
_LAYER = r"vision_model.encoder.layers.\1."
_MAP: tuple[tuple[str, str], ...] = (
    (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.(weight|bias)", r"vision_model.embeddings.patch_embedding.\1"),
    (_BLOCK + r"norm([12])\.(weight|bias)", _LAYER + r"layer_norm\2.\3"),
    (_BLOCK + r"attn\.qkv\.(weight|bias)", _LAYER + r"self_attn.qkv.\2"),
    (_BLOCK + r"attn\.proj\.(weight|bias)", _LAYER + r"self_attn.projection.\2"),
    (_BLOCK + r"mlp\.(fc[12])\.(weight|bias)", _LAYER + r"mlp.\2.\3"),
    (r"visual_encoder\.norm\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    (r"(text_(?:encoder|decoder)\..+)", r"\1"),
)
"""BLIP's name -> transformers' name; shapes agree."""
_DROPPED = re.compile(r"text_(encoder|decoder)\.(bert\.)?embeddings\.position_ids")
"""The numbers from 0 to 511, which the model computes itself."""


def make_config() -> BlipConfig:
    """Return the config of BLIP base for questions at 480 pixels.

    Three of transformers' defaults are not BLIP's: twelve text heads, not eight (`med_config.json` of salesforce/BLIP);
    an epsilon of 1e-6 in the image's layer norms, not 1e-5; and 480 pixels, not 384. The decoder's output matrix and
    its embeddings are separate, as in the checkpoint.
    """
    from transformers.models.blip.configuration_blip import BlipConfig

    return BlipConfig(
        text_config={"num_attention_heads": 12, "tie_word_embeddings": False},
        vision_config={"image_size": SIDE, "layer_norm_eps": 1e-6},
        tie_word_embeddings=False,
    )


def convert(source: Path, target: Path, *, any_hash: bool = False) -> None:
    """Convert BLIP's checkpoint for questions.

    Args:
        source: model_base_vqa_capfilt_large.pth from Salesforce.
        target: The folder to make; must not exist. It still needs the vocabulary of bert-base-uncased.
        any_hash: Without effect, because the official hash is unknown.

    Raises:
        UsageError: Unknown or missing keys.
    """
    state = read_checkpoint(source, SHA256_START, any_hash)
    save_converted(make_network(state, make_config()), source, target)


def make_network(state: Mapping[str, Tensor], config: BlipConfig) -> BlipForQuestionAnswering:
    """Return a transformers model with a BLIP checkpoint's weights.

    Args:
        state: BLIP's names and tensors.
        config: A config of their shape.

    Raises:
        UsageError: Unknown or missing keys, or other shapes.
    """
    from transformers.models.blip.modeling_blip import BlipForQuestionAnswering

    network = BlipForQuestionAnswering(config)
    network.eval()
    load_carried(network, state, carry)
    return network


def carry(key: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Return transformers' name of one of BLIP's keys; empty to drop it, None if it is unknown."""
    if _DROPPED.fullmatch(key):
        return {}
    for pattern, target in _MAP:
        found = re.fullmatch(pattern, key)
        if found is not None:
            return {found.expand(target): tensor}
    return None
