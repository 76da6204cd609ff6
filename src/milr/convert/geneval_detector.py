"""GenEval's detector: mmdet's Mask2Former with a Swin backbone -> transformers' Mask2Former.

OpenMMLab publishes one training run under the names of mmdet 2.x and, renamed, under those of mmdet 3.x; the map knows
both. It was checked by running both versions' networks beside ours on the same random weights: the largest difference
was 2e-6 of the class logits and 3e-5 of the mask logits. Names on the right are those of the live model;
`save_pretrained` writes the names that a folder has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from milr.convert.checkpoint import load_carried, read_checkpoint, save_converted
from milr.rewards.geneval.weights import SOURCES, UNUSED

if TYPE_CHECKING:
    from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

Change: TypeAlias = Literal["none", "split", "unfold", "drop"]
"""Change of a tensor: none; three equal parts of its rows become q, k and v; the four neighbours of patch merging are
reordered; the key is dropped."""

_BACKBONE = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
_SWIN = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_SWIN_TO = _BACKBONE + r"swin.encoder.layers.\1.blocks.\2."
_NECK = r"panoptic_head\.pixel_decoder\."
_NECK_LAYER = _NECK + r"encoder\.layers\.(\d+)\."
_HEAD_LAYER = r"panoptic_head\.transformer_decoder\.layers\.(\d+)\."
_HEAD_LAYER_TO = _QUERIES + r"decoder.layers.\1."
# mmdet 2.x's name | 3.x's name
_FFN = r"(?:ffns\.0|ffn)\.layers\."
_DEFORMABLE = r"(?:attentions\.0|self_attn)\."
_CROSS = r"(?:attentions\.0|cross_attn)\.attn\."
_OWN = r"(?:attentions\.1|self_attn)\.attn\."

_MAP: tuple[tuple[str, str, Change], ...] = (
    (r"backbone\.patch_embed\.projection", _BACKBONE + "swin.embeddings.patch_embeddings.projection", "none"),
    (r"backbone\.patch_embed\.norm", _BACKBONE + "swin.embeddings.norm", "none"),
    (_SWIN + "norm1", _SWIN_TO + "layernorm_before", "none"),
    (_SWIN + "norm2", _SWIN_TO + "layernorm_after", "none"),
    (_SWIN + r"attn\.w_msa\.qkv", _SWIN_TO + "attention.{part}_proj", "split"),
    (_SWIN + r"attn\.w_msa\.proj", _SWIN_TO + "attention.o_proj", "none"),
    (
        _SWIN + r"attn\.w_msa\.relative_position_bias_table",
        _SWIN_TO + "attention.relative_position_bias.relative_position_bias_table",
        "none",
    ),
    # index of each pair of positions in the table: both sides count the same way, so it is recomputed
    (_SWIN + r"attn\.w_msa\.relative_position_index", "", "drop"),
    (_SWIN + r"ffn\.layers\.0\.0", _SWIN_TO + "mlp.fc1", "none"),
    (_SWIN + r"ffn\.layers\.1", _SWIN_TO + "mlp.fc2", "none"),
    (
        r"backbone\.stages\.(\d+)\.downsample\.(norm|reduction)",
        _BACKBONE + r"swin.encoder.layers.\1.downsample.\2",
        "unfold",
    ),
    *((rf"backbone\.norm{stage}", _BACKBONE + f"hidden_states_norms.stage{stage + 1}", "none") for stage in range(4)),
    (_NECK + r"input_convs\.(\d+)\.conv", _PIXELS + r"input_projections.\1.0", "none"),
    (_NECK + r"input_convs\.(\d+)\.gn", _PIXELS + r"input_projections.\1.1", "none"),
    (
        _NECK_LAYER + _DEFORMABLE + r"(sampling_offsets|attention_weights|value_proj|output_proj)",
        _PIXELS + r"encoder.layers.\1.self_attn.\2",
        "none",
    ),
    (_NECK_LAYER + _FFN + r"0\.0", _PIXELS + r"encoder.layers.\1.fc1", "none"),
    (_NECK_LAYER + _FFN + "1", _PIXELS + r"encoder.layers.\1.fc2", "none"),
    (_NECK_LAYER + r"norms\.0", _PIXELS + r"encoder.layers.\1.self_attn_layer_norm", "none"),
    (_NECK_LAYER + r"norms\.1", _PIXELS + r"encoder.layers.\1.final_layer_norm", "none"),
    (_NECK + r"lateral_convs\.0\.conv", _PIXELS + "adapter_1.0", "none"),
    (_NECK + r"lateral_convs\.0\.gn", _PIXELS + "adapter_1.1", "none"),
    (_NECK + r"output_convs\.0\.conv", _PIXELS + "layer_1.0", "none"),
    (_NECK + r"output_convs\.0\.gn", _PIXELS + "layer_1.1", "none"),
    (_NECK + r"mask_feature", _PIXELS + "mask_projection", "none"),
    (_HEAD_LAYER + _CROSS + "in_proj", _HEAD_LAYER_TO + "cross_attn.in_proj", "none"),
    (_HEAD_LAYER + _CROSS + "out_proj", _HEAD_LAYER_TO + "cross_attn.out_proj", "none"),
    (_HEAD_LAYER + _OWN + "in_proj", _HEAD_LAYER_TO + "self_attn.{part}_proj", "split"),
    (_HEAD_LAYER + _OWN + "out_proj", _HEAD_LAYER_TO + "self_attn.out_proj", "none"),
    (_HEAD_LAYER + r"norms\.0", _HEAD_LAYER_TO + "cross_attn_layer_norm", "none"),
    (_HEAD_LAYER + r"norms\.1", _HEAD_LAYER_TO + "self_attn_layer_norm", "none"),
    (_HEAD_LAYER + r"norms\.2", _HEAD_LAYER_TO + "final_layer_norm", "none"),
    (_HEAD_LAYER + _FFN + r"0\.0", _HEAD_LAYER_TO + "fc1", "none"),
    (_HEAD_LAYER + _FFN + "1", _HEAD_LAYER_TO + "fc2", "none"),
    (r"panoptic_head\.transformer_decoder\.post_norm", _QUERIES + "decoder.layernorm", "none"),
    (r"panoptic_head\.query_embed", _QUERIES + "queries_embedder", "none"),
    (r"panoptic_head\.query_feat", _QUERIES + "queries_features", "none"),
    (r"panoptic_head\.level_embed", _QUERIES + "level_embed", "none"),
    (r"panoptic_head\.cls_embed", "class_predictor", "none"),
    *(
        (
            rf"panoptic_head\.mask_embed\.{2 * layer}",
            _QUERIES + f"decoder.mask_predictor.mask_embedder.{layer}.0",
            "none",
        )
        for layer in range(3)
    ),
)
"""mmdet's name without its last part -> transformers' name. The last part, weight or bias, stays as it is."""

# a plain parameter there, an embedding here
_LEVEL_EMBED = ("panoptic_head.pixel_decoder.level_encoding.weight", _PIXELS + "level_embed")


def make_config() -> Mask2FormerConfig:
    """Return the config of GenEval's detector: Swin-S, 80 classes, 100 queries; all else is transformers' default."""
    from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig
    from transformers.models.swin.configuration_swin import SwinConfig

    backbone: dict[str, Any] = {
        "embed_dim": 96,
        "depths": [2, 2, 18, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    settings: dict[str, Any] = {"backbone_config": SwinConfig(**backbone), "num_labels": 80}
    return Mask2FormerConfig(**settings)


def convert(source: Path, target: Path, *, any_hash: bool = False) -> None:
    """Convert GenEval's checkpoint.

    Args:
        source: One of `SOURCES`.
        target: The folder to make; must not exist.
        any_hash: Accept a file whose hash is not the official one.

    Raises:
        UsageError: Another hash, or unknown or missing keys.
    """
    state = read_checkpoint(source, tuple(SOURCES), any_hash)
    save_converted(make_network(state, make_config()), source, target)


def make_network(state: Mapping[str, Tensor], config: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    """Return a transformers model with an mmdet checkpoint's weights.

    Args:
        state: mmdet's names and tensors.
        config: A config of their shape.

    Raises:
        UsageError: Unknown or missing keys, or other shapes.
    """
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    network = Mask2FormerForUniversalSegmentation(config).eval()
    load_carried(network, state, carry, unused=UNUSED)
    return network


def carry(key: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Return transformers' names of one of mmdet's keys; empty to drop it, None if it is unknown."""
    if key == _LEVEL_EMBED[0]:
        return {_LEVEL_EMBED[1]: tensor}
    # "_" if an attention's projections are fused: in_proj_weight
    stem = re.sub(r"[._](weight|bias)$", "", key)
    last = key[len(stem) :]
    for pattern, target, change in _MAP:
        found = re.fullmatch(pattern, stem)
        if found is None:
            continue
        name = found.expand(target)
        if change == "drop":
            return {}
        if change == "split":
            rows = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{name.format(part=part)}.{last[1:]}": some for part, some in rows}
        return {name + last: reorder_merging(tensor) if change == "unfold" else tensor}
    return None


def reorder_merging(tensor: Tensor) -> Tensor:
    """Reorder the inputs of a patch merging from mmdet's order to transformers'.

    mmdet unfolds 2 x 2 neighbours channel by channel: input 4c + 2 dy + dx. transformers joins four maps of C channels:
    input g C + c with g = dy + 2 dx.

    Args:
        tensor: (..., 4C): a norm's weight or bias, or the reduction's matrix.
    """
    neighbours = tensor.reshape(*tensor.shape[:-1], -1, 2, 2)  # (..., C, dy, dx)
    return neighbours.transpose(-1, -3).flatten(-3)  # (..., dx dy C)
