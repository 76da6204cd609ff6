"""LlamaGen checkpoints in the layout of its authors, with random weights. Names and shapes are listed here again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.random_weights import make_t5_tokenizer

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Dimensions of a LlamaGen; the defaults are those of a tiny one."""

    dim: int = 128
    layers: int = 2
    inner: int = 512
    codes: int = 96
    caption: int = 120
    caption_dim: int = 32
    grid: int = 4
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    latent: int = 16
    code_width: int = 8


XL = Size(1280, 36, 3584, 16384, 120, 2048, 16, 128, (1, 1, 2, 2, 4), 2, 256, 8)
"""GPT-XL for text to image with VQ-16, and captions of flan-t5-xl."""
TINY_T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}


def gpt_shapes(size: Size) -> Shapes:
    """Return the decoder's names and shapes."""
    d, inner = size.dim, size.inner
    found: Shapes = {
        "cls_embedding.uncond_embedding": (size.caption, size.caption_dim),
        "cls_embedding.cap_proj.fc1.weight": (d, size.caption_dim),
        "cls_embedding.cap_proj.fc2.weight": (d, d),
        "tok_embeddings.weight": (size.codes, d),
        "norm.weight": (d,),
        "output.weight": (size.codes, d),
    }
    for place in range(size.layers):
        own = f"layers.{place}."
        found |= {
            f"{own}attention.wqkv.weight": (3 * d, d),
            f"{own}attention.wo.weight": (d, d),
            f"{own}feed_forward.w1.weight": (inner, d),
            f"{own}feed_forward.w3.weight": (inner, d),
            f"{own}feed_forward.w2.weight": (d, inner),
            f"{own}attention_norm.weight": (d,),
            f"{own}ffn_norm.weight": (d,),
        }
    return found


def _convolution(name: str, into: int, out: int, side: int = 3) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into, side, side)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _residual(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.norm1", into)
    yield from _convolution(f"{name}.conv1", into, out)
    yield from _norm(f"{name}.norm2", out)
    yield from _convolution(f"{name}.conv2", out, out)
    if into != out:
        yield from _convolution(f"{name}.nin_shortcut", into, out, 1)


def _attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _convolution(f"{name}.{part}", width, width, 1)


def vq_shapes(size: Size) -> Shapes:
    """Return the VQ model's names and shapes: decoder side whole, encoder side by one name of each kind."""
    widths = [size.channels * many for many in reversed(size.multipliers)]  # from the smallest image up
    now = widths[0]
    found = dict(_convolution("decoder.conv_in", size.latent, now))
    found |= dict(_residual("decoder.mid.0", now, now)) | dict(_attention("decoder.mid.1", now))
    found |= dict(_residual("decoder.mid.2", now, now))
    for level, width in enumerate(widths):
        own = f"decoder.conv_blocks.{level}"
        for block in range(size.blocks + 1):
            found |= dict(_residual(f"{own}.res.{block}", now, width))
            now = width
            if level == 0:
                found |= dict(_attention(f"{own}.attn.{block}", now))
        if level < len(widths) - 1:
            found |= dict(_convolution(f"{own}.upsample.conv", now, now))
    found |= dict(_norm("decoder.norm_out", now)) | dict(_convolution("decoder.conv_out", now, 3))
    found |= dict(_convolution("post_quant_conv", size.code_width, size.latent, 1))
    found["quantize.embedding.weight"] = (size.codes, size.code_width)
    found |= dict(_convolution("quant_conv", size.latent, size.code_width, 1))
    found |= dict(_convolution("encoder.conv_in", 3, size.channels))
    found["quantize.codebook_used"] = (65536,)
    return found


def fill(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return random weights, so large that every one of them matters."""
    stream = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=stream)
        if len(shape) == 1:
            found[name] = (1 + 0.1 * weight) if "norm" in name and name.endswith("weight") else 0.1 * weight
        else:
            found[name] = weight if "embedding" in name else weight * (1.5 * weight[0].numel() ** -0.5)
    return found


def write_official(folder: Path, size: Size = Size(), *, seed: int = 0, pickled_text: bool = True) -> Path:
    """Write the three parts as the authors' scripts expect them; return the folder."""
    import json

    from safetensors.torch import save_file
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

    text = folder / "t5-ckpt" / "flan-t5-xl"
    text.mkdir(parents=True)
    side = size.grid * 2 ** (len(size.multipliers) - 1)
    training = {"optimizer": {"state": {}}, "steps": 3, "args": argparse.Namespace(gpt_model="GPT-XL")}
    torch.save({"model": fill(gpt_shapes(size), seed), **training}, folder / f"t2i_tiny_{side}.pt")
    torch.save({"model": fill(vq_shapes(size), seed + 1), **training}, folder / "vq_tiny.pt")
    described = {**TINY_T5, "d_model": size.caption_dim}
    (text / "config.json").write_text(json.dumps(described))
    make_t5_tokenizer().save(str(text / "tokenizer.json"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        weights = T5ForConditionalGeneration(T5Config.from_dict(described)).state_dict()
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    if pickled_text:
        torch.save(weights, text / "pytorch_model.bin")
    else:
        save_file(weights, text / "model.safetensors")
    return folder
