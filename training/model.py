"""The unified model in transformers' Janus classes: its configuration, and its tables of codes as sums of parts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig, PreTrainedTokenizerBase
from transformers.models.janus.configuration_janus import JanusVisionConfig

from training.codebook import TINTS
from training.grounds import CODES, GRID, TOKEN
from training.stage import Settings
from training.vq import vq_config

IMAGE_TOKENS = GRID * GRID
MOST_POSITIONS = 1024
HEAD_DEVIATION = 0.05  # of the image head's first weights


def raster_rotation(width: int) -> dict[str, Any]:
    """Return rotary positions whose wavelengths fit a raster, in transformers' terms.

    Janus numbers image tokens line by line and has no sign for the end of a line. With RoPE's own wavelengths a small
    model learned its row but not its column (docs/experiments.md). Here five wavelengths are exact: a half and the
    whole of a line, and 4, 8 and 16 lines; each takes the place of the nearest one of RoPE's.

    Args:
        width: Width of an attention head.
    """
    base = 10000.0
    own = [2 * math.pi * base ** (2 * place / width) for place in range(width // 2)]
    factors = [1.0] * len(own)
    for wanted in (GRID / 2, GRID, 4 * GRID, 8 * GRID, 16 * GRID):
        nearest = min(range(len(own)), key=lambda place: abs(math.log(own[place] / wanted)))
        factors[nearest] = wanted / own[nearest]
    return {
        "rope_type": "longrope",  # a factor for each wavelength; the same ones at every length
        "rope_theta": base,
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": MOST_POSITIONS,
        "factor": 1.0,
        "attention_factor": 1.0,
    }


def build_config(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> JanusConfig:
    """Return the embedded model's configuration: Janus-Pro's, in miniature."""
    own = settings["model"]
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=own["width"],
        num_hidden_layers=own["layers"],
        num_attention_heads=own["heads"],
        num_key_value_heads=own["heads"],  # Janus has no grouped queries
        intermediate_size=own["feed_forward"],
        max_position_embeddings=MOST_POSITIONS,
        rope_parameters=raster_rotation(own["width"] // own["heads"]),
        bos_token_id=tokenizer.bos_token_id,  # type: ignore[arg-type]
        eos_token_id=tokenizer.eos_token_id,  # type: ignore[arg-type]
        pad_token_id=tokenizer.pad_token_id,  # type: ignore[arg-type]
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(
        hidden_size=own["vision_width"],
        num_hidden_layers=own["vision_layers"],
        num_attention_heads=own["vision_heads"],
        image_size=GRID * TOKEN,
        patch_size=TOKEN,
        num_image_tokens=IMAGE_TOKENS,
        projection_dim=own["width"],
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq_config(settings),
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),  # type: ignore[attr-defined]
        tie_word_embeddings=False,
    )


class Factored(nn.Module):
    """A table of codes as sums of parts: each shape's row plus each tint's; the grounds have rows of their own.

    Training never shows some codes as targets: those of a held-out object in its colour. Free rows of such codes are
    only pushed down: drawings of them were right in 0.60 of cases, others in 0.95 (docs/experiments.md). As a sum, a
    code is as likely as its shape and its tint are.
    """

    def forward(self, grounds: torch.Tensor, shapes: torch.Tensor, tints: torch.Tensor) -> torch.Tensor:
        """Return the table (codes, d), numbered as the codebook, of grounds, shapes and tints (each n, d)."""
        return torch.cat([grounds, (shapes[:, None] + tints[None]).flatten(0, 1)])

    def right_inverse(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the parts nearest to a table (codes, d)."""
        grid: torch.Tensor = table[CODES:].unflatten(0, (-1, len(TINTS)))  # (shapes, tints, d)
        return table[:CODES], grid.mean(1), grid.mean(0) - grid.mean((0, 1))


def tables_of_codes(model: JanusForConditionalGeneration) -> tuple[nn.Module, nn.Module]:
    """Return the modules whose ``weight`` has a row for every code."""
    return model.model.generation_embeddings, model.model.generation_head.vision_head


def factor(model: JanusForConditionalGeneration) -> None:
    """Make each table of codes a sum of parts, in place."""
    for table in tables_of_codes(model):
        parametrize.register_parametrization(table, "weight", Factored())


def multiply_out(model: JanusForConditionalGeneration) -> None:
    """Make each table of codes plain again, as transformers has it, in place."""
    for table in tables_of_codes(model):
        parametrize.remove_parametrizations(table, "weight")


def to_bfloat16(model: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """Convert the parameters alone: rotary frequencies stay float32, as wherever the model is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def trainable(model: JanusForConditionalGeneration) -> dict[str, nn.Parameter]:
    """Return all parameters but the VQ model's, which stay as its own stage left them."""
    return {n: p for n, p in model.named_parameters() if not n.startswith("model.vqmodel.")}


def build_model(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, codes: torch.Tensor | None = None
) -> JanusForConditionalGeneration:
    """Return the model before training, in float32, its tables of codes plain.

    Args:
        settings: Settings of all stages.
        tokenizer: The model's tokenizer.
        codes: The codebook's vectors (codes, embed_dim): a code's embedding begins as its vector, and codes that begin
            alike are also predicted alike. None leaves the tables random.
    """
    model = JanusForConditionalGeneration(build_config(settings, tokenizer))
    if codes is not None:
        with torch.no_grad():
            model.model.generation_embeddings.weight.copy_(codes)
            head = model.model.generation_head.vision_head.weight  # (codes, d)
            head.copy_(HEAD_DEVIATION * codes @ torch.randn(codes.shape[1], head.shape[1]))
    return model
