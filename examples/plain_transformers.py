"""The embedded model without any of milr's code: a folder that plain transformers draws from.

python examples/plain_transformers.py "a dog" "a red apple" --out grid.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

FOLDER = Path(__file__).parents[1] / "src" / "milr" / "assets" / "embedded"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw each prompt in image mode, from the prompt alone, and paste the images side by side."""
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
        chat = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = processor(text=text, generation_mode="image", return_tensors="pt")
        tokens = model.generate(**inputs, generation_mode="image", do_sample=True, use_cache=True)
        pixels = model.decode_image_tokens(tokens)[0].float().clamp(-1, 1)  # (H, W, 3)
        images.append(Image.fromarray(((pixels + 1) * 127.5).round().byte().numpy()))
    width, height = images[0].size
    grid = Image.new("RGB", (width * len(images), height), "white")
    for place, image in enumerate(images):
        grid.paste(image, (place * width, 0))
    grid.save(given.out)


if __name__ == "__main__":
    main()
