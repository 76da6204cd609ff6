"""The embedded model without any of milr's code: a folder that plain transformers reasons and draws from.

It was taught to write a text before it draws: from the prompt alone it draws fewer prompts right.

python examples/plain_transformers.py "a dog" "a red apple" --out grid.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

FOLDER = Path(__file__).parents[1] / "src" / "milr" / "assets" / "embedded"


def main(argv: Sequence[str] | None = None) -> None:
    """Write each prompt's text, draw after it in image mode, and paste the images side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("grid.png"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    model = JanusForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)
    processor = JanusProcessor.from_pretrained(FOLDER)
    torch.manual_seed(given.seed)
    images: list[Image.Image] = []
    for prompt in given.prompts:
        asked = read(processor, f"plan: {prompt}", "text")
        length = asked["input_ids"].shape[1]
        written = model.generate(**asked, generation_mode="text", do_sample=False, max_length=length + 96)
        text = processor.decode(written[0, length:], skip_special_tokens=True).strip()
        print(f"{prompt}: {text}")
        drawn = read(processor, f"{prompt}. {text}", "image")
        tokens = model.generate(**drawn, generation_mode="image", do_sample=True, use_cache=True)
        pixels = model.decode_image_tokens(tokens)[0].float().clamp(-1, 1)  # (H, W, 3)
        images.append(Image.fromarray(((pixels + 1) * 127.5).byte().numpy()))
    width, height = images[0].size
    grid = Image.new("RGB", (width * len(images), height), "white")
    for place, image in enumerate(images):
        grid.paste(image, (place * width, 0))
    grid.save(given.out)


def read(processor: JanusProcessor, content: str, mode: str) -> Any:
    """Return the tokens of a user's turn in the checkpoint's own chat template, up to the assistant's."""
    chat = [{"role": "user", "content": [{"type": "text", "text": content}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    return processor(text=text, generation_mode=mode, return_tensors="pt")


if __name__ == "__main__":
    main()
