"""Tiny random pipelines of diffusers' own classes, saved in their official folder layout; no network."""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

LETTERS = string.ascii_lowercase + string.digits + ".,!?'-:()"
SIDE = 32
"""Pixels a side at which every tiny pipeline draws."""


def write_pipeline(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write the tiny pipeline of that kind, a key of `PIPELINES`; equal seeds give equal weights."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        PIPELINES[kind]().save_pretrained(folder, safe_serialization=True)
    return folder


def write_layout(folder: Path) -> Path:
    """Write the layout of a tiny SD3 without diffusers: its configs, and weights of one attention layer alone."""
    from safetensors.torch import save_file

    networks = {
        "transformer": ("diffusers", "SD3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_3": ("transformers", "T5EncoderModel"),
    }
    others = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }
    transformer = {
        "sample_size": SIDE // 2,
        "patch_size": 1,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "pos_embed_max_size": 16,
    }
    configs = {"transformer": transformer, "vae": {"block_out_channels": [8, 16], "latent_channels": 4}}
    names = ("attn.to_q", "attn.to_k", "attn.add_v_proj")
    attention = {f"transformer_blocks.0.{name}.weight": torch.zeros(32, 32) for name in names}
    for name in (*networks, *others):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(configs.get(name, {})))
        if name in networks:
            weights = attention if name == "transformer" else {"one": torch.zeros(1)}
            save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
    index = {"_class_name": "StableDiffusion3Pipeline", "feature_extractor": [None, None], **networks, **others}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_lora(folder: Path, *, width: int = 32, zero: bool = False) -> Path:
    """Write a LoRA in PEFT's layout for a tiny SD3's attention, as Flow-GRPO's are.

    Args:
        folder: New.
        width: Of its layers; another than the base's makes a LoRA of another base.
        zero: Leave its second matrices at zero, so that it changes nothing.
    """
    from safetensors.torch import save_file

    rank = 2
    stream = torch.Generator().manual_seed(1)
    weights: dict[str, torch.Tensor] = {}
    for name in ("attn.to_q", "attn.to_k", "attn.add_v_proj"):
        place = f"base_model.model.transformer_blocks.0.{name}"
        weights[f"{place}.lora_A.weight"] = torch.randn(rank, width, generator=stream)
        second = torch.randn(width, rank, generator=stream)
        weights[f"{place}.lora_B.weight"] = second * 0 if zero else second
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["attn.to_q", "attn.to_k", "attn.add_v_proj"],
        "bias": "none",
        "base_model_name_or_path": "tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return folder


def write_lora_file(file: Path, form: str) -> Path:
    """Write a single LoRA file for a tiny SD3's attention, with two ranks.

    Args:
        file: New.
        form: "peft" (diffusers' own names, no strength), "metadata" (the same with alphas in its header), "older"
            (names of down and up, no strength) or "alphas" (these, with an alpha beside each layer).
    """
    from safetensors.torch import save_file

    stream = torch.Generator().manual_seed(2)
    down, up = ("lora_A", "lora_B") if form in ("peft", "metadata") else ("lora.down", "lora.up")
    weights: dict[str, torch.Tensor] = {}
    for rank, name in enumerate(("to_q", "to_k", "add_v_proj"), start=2):
        place = f"transformer.transformer_blocks.0.attn.{name}"
        weights[f"{place}.{down}.weight"] = torch.randn(rank, 32, generator=stream)
        weights[f"{place}.{up}.weight"] = torch.randn(32, rank, generator=stream)
        if form == "alphas":
            weights[f"{place}.alpha"] = torch.tensor(float(rank + 1))
    config = {"r": 2, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {"transformer_blocks.0.attn.to_k": 3}}
    config["rank_pattern"] = {
        f"transformer_blocks.0.attn.{name}": rank for name, rank in (("to_k", 3), ("add_v_proj", 4))
    }
    config["target_modules"] = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "add_v_proj")]
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in config.items()})}
    save_file(weights, file, metadata={"format": "pt", **(header if form == "metadata" else {})})
    return file


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77)


def _clip(tokenizer: Any, *, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=words, extra_ids=0)


def _t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return T5EncoderModel(config).eval()


def _vae(*, quant: bool, shift: float | None) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIDE,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        shift_factor=shift,
        scaling_factor=1.5,
    ).eval()


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(quant=False, shift=0.1),
        text_encoder=_clip(clip, projected=True),
        tokenizer=clip,
        text_encoder_2=_clip(clip, projected=True),
        tokenizer_2=clip,
        text_encoder_3=_t5(t5),
        tokenizer_3=t5,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(quant=False, shift=0.1),
        text_encoder=_clip(clip, projected=False),
        tokenizer=clip,
        text_encoder_2=_t5(t5),
        tokenizer_2=t5,
        transformer=transformer.eval(),
    )


def _pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    t5 = _t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE // 2,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=32,
        cross_attention_dim=32,
        in_channels=4,
        out_channels=8,
        norm_type="ada_norm_single",
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=t5,
        text_encoder=_t5(t5),
        vae=_vae(quant=True, shift=None),
        transformer=transformer.eval(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def _sana() -> Any:
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *LETTERS, *(f"<0x{byte:02X}>" for byte in range(256))]
    gemma = GemmaTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    transformer = SanaTransformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.5,
    )
    return SanaPipeline(
        tokenizer=gemma,
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


PIPELINES: Mapping[str, Callable[[], Any]] = {"sd3": _sd3, "flux": _flux, "pixart": _pixart, "sana": _sana}
