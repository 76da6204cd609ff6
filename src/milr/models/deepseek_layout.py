"""DeepSeek's layout of a Janus checkpoint (`MultiModalityCausalLM`) in transformers' terms, as data.

Janus, Janus-Pro, T2I-R1, GoT-R1, ReasonGen-R1 and other fine-tunes come in it. Sources of the facts: deepseek-ai/Janus
(janus/models), and the names that transformers' own conversion script gives.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor

from milr.errors import UsageError

MODEL_TYPE = "multi_modality"
"""`model_type` in `config.json`."""

VISION_TOWERS: Mapping[str, Mapping[str, Any]] = {
    "siglip_large_patch16_384": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 16,
        "mlp_ratio": 4.0,
    },
}
"""Name of a vision tower -> its sizes. The config states no sizes: DeepSeek's code has them in a table."""

IMAGE_TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    "VQ-16": {
        "base_channels": 128,
        "channel_multiplier": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "latent_channels": 256,
    },
}
"""Name of a VQ model -> its sizes."""

Change: TypeAlias = Literal["none", "split", "flatten", "drop"]
"""The change of a tensor: none; three equal parts of its rows become q, k and v; its first axis, of size one, is
removed; the key is dropped."""

_TOWER = r"vision_model\.vision_tower\."
_BLOCK = _TOWER + r"blocks\.(\d+)\."
_LAYER = r"model.vision_model.encoder.layers.\1."
_VQ = r"gen_vision_model\.(encoder|decoder)\."
_VQ_TO = r"model.vqmodel.\1."

KEYS: tuple[tuple[str, str, Change], ...] = (
    (r"language_model\.model\..*rotary_emb\.inv_freq", "", "drop"),  # recomputed; only old files have it
    (r"language_model\.model\.(.+)", r"model.language_model.\1", "none"),
    (r"language_model\.lm_head\.weight", "lm_head.weight", "none"),
    (r"gen_embed\.weight", "model.generation_embeddings.weight", "none"),
    (r"gen_head\.output_mlp_projector\.(.+)", r"model.generation_head.proj_out.\1", "none"),
    (r"gen_head\.vision_head\.(.+)", r"model.generation_head.vision_head.\1", "none"),
    (r"gen_aligner\.layers\.0\.(.+)", r"model.generation_aligner.fc1.\1", "none"),
    (r"gen_aligner\.layers\.(?P<place>\d+)\.(.+)", r"model.generation_aligner.hidden_layers.{place}.\2", "none"),
    (r"aligner\.layers\.0\.(.+)", r"model.aligner.fc1.\1", "none"),
    (r"aligner\.layers\.(?P<place>\d+)\.(.+)", r"model.aligner.hidden_layers.{place}.\2", "none"),
    (_TOWER + r"pos_embed", "model.vision_model.embeddings.position_embedding.weight", "flatten"),
    (_TOWER + r"patch_embed\.proj\.(.+)", r"model.vision_model.embeddings.patch_embedding.\1", "none"),
    (_TOWER + r"norm\.(.+)", r"model.vision_model.post_layernorm.\1", "none"),
    (_TOWER + r"attn_pool\..+", "", "drop"),  # SigLIP's pooling: Janus takes the patches
    (_BLOCK + r"norm([12])\.(.+)", _LAYER + r"layer_norm\2.\3", "none"),
    (_BLOCK + r"attn\.qkv\.(.+)", _LAYER + r"self_attn.{part}_proj.\2", "split"),
    (_BLOCK + r"attn\.proj\.(.+)", _LAYER + r"self_attn.projection_layer.\2", "none"),
    (_BLOCK + r"mlp\.(fc[12])\.(.+)", _LAYER + r"mlp.\2.\3", "none"),
    (r"gen_vision_model\.quantize\.codebook_used", "", "drop"),  # a counter of training
    (r"gen_vision_model\.((?:quantize\.embedding|quant_conv|post_quant_conv)\..+)", r"model.vqmodel.\1", "none"),
    (_VQ + r"((?:conv_in|conv_out|norm_out)\..+)", _VQ_TO + r"\2", "none"),
    (_VQ + r"mid\.0\.(.+)", _VQ_TO + r"mid.block_1.\2", "none"),
    (_VQ + r"mid\.1\.(.+)", _VQ_TO + r"mid.attn_1.\2", "none"),
    (_VQ + r"mid\.2\.(.+)", _VQ_TO + r"mid.block_2.\2", "none"),
    (_VQ + r"conv_blocks\.(\d+)\.res\.(.+)", _VQ_TO + r"{way}.\2.block.\3", "none"),
    (_VQ + r"conv_blocks\.(\d+)\.((?:attn|downsample|upsample)\..+)", _VQ_TO + r"{way}.\2.\3", "none"),
)
"""DeepSeek's name -> transformers' name, first match first. ``{way}`` is "down" of an encoder, "up" of a decoder;
``{part}`` is q, k and v; ``{place}`` counts the linear layers after an aligner's first."""


def rename(key: str) -> tuple[tuple[str, ...], Change] | None:
    """Return the names of a tensor of DeepSeek's layout in transformers' model, and its change.

    Returns:
        The names, three if it is split and none if it is dropped; None if the key is not known.
    """
    for pattern, target, change in KEYS:
        found = re.fullmatch(pattern, key)
        if found is None:
            continue
        if change == "drop":
            return (), change
        name = found.expand(target)
        if change == "split":
            return tuple(name.format(part=part) for part in "qkv"), change
        place = found.groupdict().get("place")
        way = "down" if ".encoder." in name else "up"
        # 0 is the first layer, 1 an activation, 2 the next layer, and so on.
        return (name.format(way=way, place=int(place) // 2 - 1 if place else ""),), change
    return None


def convert(key: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Return one tensor under transformers' names; empty if it is dropped, None if its key is not known."""
    renamed = rename(key)
    if renamed is None:
        return None
    names, change = renamed
    if change == "split":
        return dict(zip(names, tensor.chunk(3), strict=True))
    if change == "flatten":
        return {names[0]: tensor.squeeze(0)}
    return {name: tensor for name in names}


def translate_config(described: Mapping[str, Any], token_ids: Mapping[str, int], origin: str) -> Any:
    """Return the `JanusConfig` that is equivalent to DeepSeek's config.

    Args:
        described: DeepSeek's config.json.
        token_ids: Added token of the tokenizer -> id; missing ones are left to transformers.
        origin: The checkpoint's name in errors.

    Raises:
        UsageError: A part is missing, or of a kind that transformers' model cannot be.
    """
    from transformers.models.janus.configuration_janus import JanusConfig

    parts = _Parts(described, origin)
    tower = parts.look_up("vision_config", "model_name", VISION_TOWERS)
    image_tokenizer = parts.look_up("gen_vision_config", None, IMAGE_TOKENIZERS)
    for name in ("aligner_config", "gen_aligner_config"):
        parts.expect(name, "projector_type", "mlp_gelu")
    side: int = parts.get("vision_config", "image_size")
    width: int = parts.get("aligner_config", "n_embed")
    image_width: int = parts.get("gen_head_config", "image_token_embed")
    parts.expect("gen_aligner_config", "n_embed", image_width)
    parts.expect("gen_head_config", "image_token_size", parts.get("gen_vision_config", "image_token_size"))
    parts.expect("vision_config", "select_layer", -1, missing=-1)
    shrink = 2 ** (len(image_tokenizer["channel_multiplier"]) - 1)
    if shrink != tower["patch_size"]:
        raise UsageError(
            f"{origin!r}: the tower's patches of {tower['patch_size']} pixels and the image tokens of {shrink} differ, "
            f"which transformers' model cannot be"
        )
    language = {name: value for name, value in described["language_config"].items() if not name.startswith("_")}
    marks = {
        "bos_token_id": "<｜begin▁of▁sentence｜>",
        "eos_token_id": "<｜end▁of▁sentence｜>",
        "pad_token_id": "<｜▁pad▁｜>",
    }
    language |= {name: token_ids[token] for name, token in marks.items() if token in token_ids}
    placeholder = token_ids.get("<image_placeholder>")
    return JanusConfig.from_dict(
        {
            "text_config": {"model_type": "llama", **language},
            "vision_config": {
                **tower,
                "image_size": side,
                "num_image_tokens": (side // tower["patch_size"]) ** 2,
                "projection_dim": width,
                "depth": parts.get("aligner_config", "depth"),
            },
            "vq_config": {
                **image_tokenizer,
                "embed_dim": parts.get("gen_vision_config", "n_embed"),
                "num_embeddings": parts.get("gen_vision_config", "image_token_size"),
                "projection_dim": image_width,
                "image_token_embed_dim": parts.get("gen_head_config", "n_embed"),
                "num_hidden_layers": parts.get("gen_aligner_config", "depth"),
            },
            "tie_word_embeddings": bool(language.get("tie_word_embeddings", False)),
            **({} if placeholder is None else {"image_token_id": placeholder}),
        }
    )


class _Parts:
    """The parts of DeepSeek's config, each a class with its parameters."""

    def __init__(self, described: Mapping[str, Any], origin: str) -> None:
        self.described, self.origin = described, origin
        if not isinstance(described.get("language_config"), dict):
            raise UsageError(f"{origin!r}: its config.json has no language_config; fetch the checkpoint again")

    def get(self, part: str, name: str, missing: Any = None) -> Any:
        """Return one parameter of a part."""
        try:
            value = self.described[part]["params"].get(name, missing)
        except (KeyError, TypeError, AttributeError):
            value = missing
        if value is None:
            raise UsageError(
                f"{self.origin!r}: its config.json has no {part}.params.{name}; fetch the checkpoint again"
            )
        return value

    def expect(self, part: str, name: str, value: object, missing: Any = None) -> None:
        """Refuse any other value: transformers' model has only this one."""
        found = self.get(part, name, missing)
        if found != value:
            raise UsageError(f"{self.origin!r}: {part}.params.{name} is {found!r}, but milr reads only {value!r}")

    def look_up(self, part: str, name: str | None, table: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the sizes that a name means: a parameter of the part, or its class."""
        said = str(self.get(part, name)) if name else str(self.described.get(part, {}).get("cls"))
        if said not in table:
            raise UsageError(f"{self.origin!r}: {part} names {said!r}, but milr knows {_list(table)}")
        return table[said]


def _list(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)
