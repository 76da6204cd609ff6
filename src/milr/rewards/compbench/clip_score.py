"""CLIPScore, the scorer of T2I-CompBench's non-spatial prompts: the plain cosine of CLIP ViT-B/32.

Source: `CLIPScore_eval/CLIP_similarity.py` of Karine-Huang/T2I-CompBench, commit 1b70949. No factor, no clipping. The
official script runs in half precision on CUDA; here it is float32, which differs in about the fourth decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from milr.rewards.geneval.colors import prepare
from milr.rewards.pretrained import load_clip, load_tokenizer

_WAY_OUT = "get openai/clip-vit-base-patch32"


class TextTooLong(ValueError):
    """The error for a text that does not fit CLIP's 77 positions; it is an error officially too."""


class ClipScore:
    """The cosine of an image and a text."""

    def __init__(self, network: Any, tokenizer: Any, device: str = "cpu") -> None:
        """Take a `CLIPModel` in evaluation mode, and its tokenizer."""
        self.network = network
        self.tokenizer = tokenizer
        self.device = device
        self.side: int = network.config.vision_config.image_size
        self.places: int = network.config.text_config.max_position_embeddings

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> ClipScore:
        """Load `openai/clip-vit-base-patch32`.

        Raises:
            UsageError: The folder holds no CLIP, or one without OpenAI's quick GELU.
        """
        network = load_clip(folder, _WAY_OUT, device)
        return cls(network, load_tokenizer(CLIPTokenizer, folder, _WAY_OUT), device)

    @torch.inference_mode()
    def compare(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Return the cosine of each RGB image with its text, in [-1, 1].

        Raises:
            TextTooLong: A text has more tokens than CLIP has positions.
        """
        return [self._compare(image, text) for image, text in zip(images, texts, strict=True)]

    def _compare(self, image: Image.Image, text: str) -> float:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if len(ids) > self.places:
            raise TextTooLong(f"the text has {len(ids)} tokens, and CLIP reads {self.places}")
        pixels = prepare(image, self.side)[None].to(self.device)  # (1, 3, side, side)
        features = self.network.get_image_features(pixel_values=pixels).pooler_output  # (1, d)
        words = self.network.get_text_features(
            input_ids=torch.tensor([ids], device=self.device)
        ).pooler_output  # (1, d)
        return float(torch.nn.functional.cosine_similarity(features.float(), words.float()).item())
