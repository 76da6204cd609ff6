"""Folders of random weights in the real classes and formats, for tests and for timing; they see nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import CLIPConfig, Mask2FormerConfig

from milr.weights import CONVERSION

_CERTAIN = 40.0
"""By how much class logits are stretched, so that random weights are sure of something and masks are read at all."""


def write_detector(folder: Path, config: Mask2FormerConfig, seed: int = 0, sees: Sequence[str] = ()) -> None:
    """A Mask2Former as `milr convert geneval-detector` leaves one, except that it came from nowhere.

    Args:
        folder: To be made.
        config: Of its size.
        seed: Of its weights.
        sees: Of GenEval's names; every query then says one of these. Empty leaves it to the weights.
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
    """A CLIP with a tokenizer that reads bytes."""
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


def write_janus(folder: Path, seed: int = 0) -> None:
    """Janus-Pro-1B's decoder, heads and VQ decoder in their true sizes, in bfloat16: 3.6 GB.

    Its eyes are small and its tokenizer is the embedded model's: neither takes part in drawing. Dimensions:
    deepseek-community/Janus-Pro-1B, config.json.
    """
    from transformers import JanusConfig, JanusForConditionalGeneration

    from milr.models import embedded_folder

    config = JanusConfig.from_pretrained(embedded_folder())
    text: Any = config.text_config
    text.update(
        {
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "max_position_embeddings": 16384,
        }
    )
    eyes: Any = config.vision_config
    eyes.update({"projection_dim": 2048, "image_size": 384, "patch_size": 16, "num_image_tokens": 576})
    picture: Any = config.vq_config
    picture.update(
        {
            "embed_dim": 8,
            "num_embeddings": 16384,
            "base_channels": 128,
            "channel_multiplier": [1, 1, 2, 2, 4],
            "num_res_blocks": 2,
            "latent_channels": 256,
            "num_patches": 24,
            "projection_dim": 2048,
            "image_token_embed_dim": 2048,
        }
    )
    with torch.device("meta"):
        network: Any = JanusForConditionalGeneration(config)
    stream = torch.Generator().manual_seed(seed)
    noise = (0.02 * torch.randn(2**24 + 3, generator=stream)).bfloat16()

    def fill(shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        repeats = -(-shape.numel() // len(noise))
        return noise.repeat(repeats)[: shape.numel()].view(shape)

    network.save_pretrained(folder, state_dict={name: fill(one.shape) for name, one in network.state_dict().items()})
    for path in embedded_folder().iterdir():
        if "token" in path.name or path.name in ("processor_config.json", "chat_template.jinja"):
            (folder / path.name).write_bytes(path.read_bytes())


def tiny_clip() -> CLIPConfig:
    """A CLIP of thirty thousand weights."""
    from transformers import CLIPConfig

    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPConfig(
        text_config={**layers, "vocab_size": 600, "projection_dim": 16, "max_position_embeddings": 77},
        vision_config={**layers, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )


def large_clip() -> CLIPConfig:
    """ViT-L/14 as OpenAI published it."""
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
