"""Folders of random weights in the real classes and formats, for tests, timing, and trying out what needs a model.

python -m bench.random_weights ./random-janus                     # a tiny Janus: seconds a drawing, images of noise
python -m bench.random_weights ./random-janus --size janus-1b     # Janus-Pro-1B's dimensions, 4 GB
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from milr.files import write_text
from milr.weights import CONVERSION

if TYPE_CHECKING:
    from transformers import CLIPConfig, Mask2FormerConfig

_CERTAIN = 40.0
"""Factor of class logits, so that random weights are confident and masks are decoded at all."""


def write_detector(folder: Path, config: Mask2FormerConfig, seed: int = 0, sees: Sequence[str] = ()) -> None:
    """Write a random Mask2Former in the form of `milr convert geneval-detector`.

    Args:
        folder: The folder to make.
        config: A config of its size.
        seed: Seed of its weights.
        sees: Names from GenEval; every query then predicts one of these. Empty leaves it to the weights.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    from milr.tasks import OBJECT_NAMES

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = Mask2FormerForUniversalSegmentation(config)
        with torch.no_grad():
            weights: dict[str, torch.Tensor] = dict(network.named_parameters())
            weights["model.transformer_module.queries_features.weight"].normal_()
            for name in ("class_predictor", "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0"):
                weight = weights[f"{name}.weight"]
                weight.normal_().mul_(_CERTAIN * weight.shape[1] ** -0.5)
            for name in sees:
                weights["class_predictor.bias"][OBJECT_NAMES.index(name)] = 100 * _CERTAIN
    network.save_pretrained(folder)
    (folder / CONVERSION).write_text(json.dumps({"source": "random", "source_sha256": "0" * 64, "files": {}}))


def write_clip(folder: Path, config: CLIPConfig, seed: int = 0) -> None:
    """Write a CLIP with a tokenizer of bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer: Any = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.pad_token_id = 0, 1, 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = CLIPModel(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class JanusSize:
    """Parameters of a Janus's size. The defaults are those that Janus-Pro-1B and -7B have in common."""

    width: int
    """d, the width of the language model."""
    inner: int
    """Width of its feed-forward layers."""
    layers: int
    heads: int
    words: int = 102400
    codes: int = 16384
    side: int = 384
    """Pixels of an image."""
    channels: int = 128
    """Channels of the VQ decoder at full size."""
    latent_channels: int = 256


JANUS_SIZES: Mapping[str, JanusSize] = {
    "janus-1b": JanusSize(width=2048, inner=5632, layers=24, heads=16),
    "janus-7b": JanusSize(width=4096, inner=11008, layers=30, heads=32),
    "janus-tiny": JanusSize(32, 64, 2, 2, words=2048, codes=64, side=64, channels=32, latent_channels=32),
}
"""Sources: config.json of deepseek-community/Janus-Pro-1B and -7B. The tiny one is for trying out a program."""


def write_janus_config(folder: Path, size: JanusSize) -> None:
    """Write a Janus checkpoint without weights: `milr.load_model(folder, random=True)` makes them.

    Its vision tower is small and its tokenizer is the embedded model's: neither takes part in drawing.
    """
    from milr.models import embedded_folder

    patch = 16
    tokens = (size.side // patch) ** 2
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((embedded_folder() / name).read_bytes())
    processor = json.loads((embedded_folder() / "processor_config.json").read_text(encoding="utf-8"))
    processor["num_image_tokens"] = tokens
    processor["image_processor"]["size"] = {"height": size.side, "width": size.side}
    write_text(folder / "processor_config.json", json.dumps(processor, indent=2))
    described = {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "dtype": "bfloat16",
        "image_token_id": 5,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama",
            "vocab_size": size.words,
            "hidden_size": size.width,
            "intermediate_size": size.inner,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads,
            "head_dim": size.width // size.heads,
            "max_position_embeddings": 16384,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "vision_config": {
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": size.side,
            "patch_size": patch,
            "num_image_tokens": tokens,
            "projection_dim": size.width,
            "depth": 2,
        },
        "vq_config": {
            "embed_dim": 8,
            "num_embeddings": size.codes,
            "base_channels": size.channels,
            "channel_multiplier": [1, 1, 2, 2, 4],
            "num_res_blocks": 2,
            "latent_channels": size.latent_channels,
            "num_patches": size.side // patch,
            "projection_dim": size.width,
            "image_token_embed_dim": size.width,
        },
    }
    write_text(folder / "config.json", json.dumps(described, indent=2))


def write_janus(folder: Path, size: JanusSize, seed: int = 0) -> None:
    """Write a Janus checkpoint with random weights in bfloat16, in transformers' layout."""
    from transformers import JanusForConditionalGeneration

    from milr.models.checkpoint import open_checkpoint

    write_janus_config(folder, size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = JanusForConditionalGeneration(open_checkpoint(folder, weights=False).config)
    network.to(torch.bfloat16).save_pretrained(folder)


def make_t5_tokenizer() -> Any:
    """Make a tokenizer of letters that ends a prompt as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    signs = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,-'\":!?"]
    tokenizer: Any = Tokenizer(models.Unigram([(sign, -2.0) for sign in signs], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@dataclass(frozen=True)
class LlamaGenSize:
    """Parameters of a LlamaGen's size. The defaults are those of GPT-XL, VQ-16 and flan-t5-xl at 256 pixels."""

    dim: int = 1280
    layers: int = 36
    heads: int = 20
    inner: int = 3584
    codes: int = 16384
    grid: int = 16
    """Image tokens a side."""
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    latent_channels: int = 256
    text_width: int = 2048
    text_layers: int = 24


LLAMAGEN_SIZES: Mapping[str, LlamaGenSize] = {
    "llamagen-xl-256": LlamaGenSize(),
    "llamagen-xl-512": LlamaGenSize(grid=32),
    "llamagen-tiny": LlamaGenSize(128, 2, 2, 512, 96, 4, 32, (1, 2), 16, 64, 2),
}
"""Sources: GPT_XL and VQ_16 of FoundationVision/LlamaGen, config.json of google/flan-t5-xl."""


def write_llamagen_config(folder: Path, size: LlamaGenSize) -> None:
    """Write a LlamaGen without weights: ``milr plan --model FOLDER --probe`` makes random ones and measures."""
    from milr.models.llamagen_folder import CONFIG, TEXT_ENCODER, TOKENIZER, LlamaGenConfig, VqConfig

    text = {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": size.text_width,
        "d_kv": 64,
        "d_ff": size.text_width * 5 // 2,
        "num_layers": size.text_layers,
        "num_heads": size.text_width // 64,
        "feed_forward_proj": "gated-gelu",
        "eos_token_id": 1,
    }
    config = LlamaGenConfig(
        dim=size.dim,
        layers=size.layers,
        heads=size.heads,
        inner=size.inner,
        codes=size.codes,
        grid=size.grid,
        caption_dim=size.text_width,
        vq=VqConfig(
            channels=size.channels,
            multipliers=size.multipliers,
            blocks=2,
            latent_channels=size.latent_channels,
            code_width=8,
        ),
    )
    (folder / TEXT_ENCODER).mkdir(parents=True)
    write_text(folder / CONFIG, config.model_dump_json(indent=2))
    write_text(folder / TEXT_ENCODER / CONFIG, json.dumps(text, indent=2))
    make_t5_tokenizer().save(str(folder / TEXT_ENCODER / TOKENIZER))


def tiny_clip() -> CLIPConfig:
    """Return the config of a CLIP of thirty thousand weights."""
    from transformers import CLIPConfig

    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPConfig(
        text_config={**layers, "vocab_size": 600, "projection_dim": 16, "max_position_embeddings": 77},
        vision_config={**layers, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )


def large_clip() -> CLIPConfig:
    """Return the config of ViT-L/14 as OpenAI published it."""
    from transformers import CLIPConfig

    return CLIPConfig(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        },
        projection_dim=768,
    )


def main() -> None:
    """Write a Janus checkpoint of random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to make")
    parser.add_argument("--size", choices=JANUS_SIZES, default="janus-tiny", help="default: janus-tiny")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights; default: 0")
    arguments = parser.parse_args()
    write_janus(arguments.folder, JANUS_SIZES[arguments.size], arguments.seed)
    print(f"{arguments.folder}: random weights, {arguments.size}; milr generate takes it as --model {arguments.folder}")


if __name__ == "__main__":
    main()
