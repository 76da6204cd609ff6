"""Stage 5, the checkpoint: one folder in transformers' own Janus format, bf16 safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from training.grounds import GRID, TOKEN
from training.model import IMAGE_TOKENS
from training.stage import Settings
from training.vq import SHIPPED_SCALE, Autoencoder, scale_residuals

# Janus-Pro's chat form. A message is a string, or parts of type "text" and "image".
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}<|User|>: {% else %}<|Assistant|>: {% endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image_placeholder>\\n' }}{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '\\n\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|Assistant|>:{%- endif -%}"
)


def export(
    model: JanusForConditionalGeneration,
    network: Autoencoder,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    folder: Path,
) -> None:
    """Write model, tokenizer, processor, generation config and milr's own settings to ``folder``."""
    model.model.vqmodel.load_state_dict(network.model.state_dict())
    scale_residuals(model.model.vqmodel, SHIPPED_SCALE)
    model.to(torch.bfloat16).eval()
    search = settings["export"]["milr"]["search"]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=search["temperature"],
        guidance_scale=search["guidance"],
        max_length=1024,
        generation_kwargs={"boi_token_id": tokenizer.convert_tokens_to_ids(tokenizer.boi_token)},  # type: ignore[attr-defined]
    )
    model.save_pretrained(folder)
    side = GRID * TOKEN
    image_processor = JanusImageProcessorPil(
        size={"height": side, "width": side}, min_size=14, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = JanusProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=IMAGE_TOKENS)
    processor.save_pretrained(folder)
    (folder / "milr.json").write_text(json.dumps(own_settings(settings), indent=2) + "\n")


def own_settings(settings: Settings) -> Settings:
    """Return the content of ``milr.json``; without a best method where the recipe names none."""
    best = settings["export"]["best"]
    return {**settings["export"]["milr"], **({"best": best} if best else {})}
