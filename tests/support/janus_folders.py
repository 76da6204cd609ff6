"""Tiny Janus checkpoints with random weights in DeepSeek's layout, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from milr.models import deepseek_layout
from milr.models.checkpoint import SPECIAL_TOKENS
from tests.support.plain_janus import TINY, PlainJanus


@contextmanager
def tiny_sizes(sizes: SimpleNamespace = TINY) -> Iterator[None]:
    """Add a tiny tower and a tiny VQ model to the tables to which configs in DeepSeek's layout refer."""
    tower = {
        "hidden_size": sizes.tower_width,
        "num_hidden_layers": sizes.tower_layers,
        "num_attention_heads": sizes.tower_heads,
        "patch_size": 16,
        "mlp_ratio": 4.0,
    }
    image_tokenizer = {
        "base_channels": sizes.base,
        "channel_multiplier": sizes.steps,
        "num_res_blocks": sizes.blocks,
        "latent_channels": sizes.latent,
    }
    with (
        patch.dict(deepseek_layout.VISION_TOWERS, {"siglip_tiny": tower}),
        patch.dict(deepseek_layout.IMAGE_TOKENIZERS, {"VQ-tiny": image_tokenizer}),
    ):
        yield


def describe(sizes: SimpleNamespace = TINY) -> dict[str, Any]:
    """Return the content of config.json, in the form of Janus-Pro's."""
    aligner = {"depth": sizes.depth, "n_embed": sizes.width, "projector_type": "mlp_gelu"}
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "language_config": {
            "model_type": "llama",
            "hidden_size": sizes.width,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
            "vocab_size": sizes.words,
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "model_type": "vision",
            "params": {
                "image_size": sizes.side,
                "model_name": "siglip_tiny",
                "select_feature": "same",
                "select_layer": -1,
            },
        },
        "aligner_config": {"cls": "MlpProjector", "params": {**aligner, "input_dim": sizes.tower_width}},
        "gen_vision_config": {
            "cls": "VQ-tiny",
            "params": {"image_token_size": sizes.codes, "n_embed": sizes.code_width},
        },
        "gen_aligner_config": {"cls": "MlpProjector", "params": {**aligner, "input_dim": sizes.code_width}},
        "gen_head_config": {
            "cls": "vision_head",
            "params": {
                "image_token_embed": sizes.width,
                "image_token_size": sizes.codes,
                "n_embed": sizes.width,
            },
        },
    }


def make_tokenizer() -> Tokenizer:
    """Make a tokenizer of bytes and the family's special tokens; like DeepSeek's, it adds no first token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [*SPECIAL_TOKENS.values(), "<|User|>", "<|Assistant|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in (" yes", " no")])
    return tokenizer


def write_settings(folder: Path, sizes: SimpleNamespace = TINY) -> None:
    """Write everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(describe(sizes)))
    make_tokenizer().save(str(folder / "tokenizer.json"))
    # DeepSeek's folders name this class; transformers 5 would then split words as Llama does.
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "model_max_length": 16384})
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "background_color": [127, 127, 127],
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "VLMImageProcessor",
                "image_size": sizes.side,
                "image_std": [0.5, 0.5, 0.5],
                "min_size": 14,
                "processor_class": "VLChatProcessor",
                "rescale_factor": 0.00392156862745098,
            }
        )
    )


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write safetensors, as one file or as several files with an index."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = list(tensors)
    placed = {name: f"model-{1 + place % shards:05}-of-{shards:05}.safetensors" for place, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({name: tensors[name] for name in names if placed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def write_deepseek(folder: Path, *, shards: int = 1, seed: int = 0, sizes: SimpleNamespace = TINY) -> PlainJanus:
    """Write a whole checkpoint in DeepSeek's layout; return the plain model with its weights."""
    torch.manual_seed(seed)
    plain = PlainJanus(sizes).eval().requires_grad_(False)
    for name, parameter in plain.named_parameters():
        if name.startswith("language_model.") and parameter.ndim == 2:
            parameter.mul_(2.0)  # with the small default weights a wrong position would hardly matter
    write_settings(folder, sizes)
    write_weights(folder, plain.state_dict(), shards)
    return plain
