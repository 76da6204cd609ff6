"""CLIPScore, the scorer of T2I-CompBench's non-spatial prompts: the plain cosine of CLIP ViT-B/32.

Source: `CLIPScore_eval/CLIP_similarity.py` of Karine-Huang/T2I-CompBench, commit 1b70949. No factor, no clipping. The
official script runs in half precision on CUDA; here it is float32, which differs in about the fourth decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from milr.errors import UsageError
from milr.rewards.geneval_colors import prepare


class TextTooLong(ValueError):
    """A text that does not fit CLIP's 77 places; an error officially too."""


class ClipScore:
    """The cosine of a picture and a text."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, device: str = "cpu") -> None:
        """Score with that model, in evaluation mode."""
        self.model = model.to(device)  # pyright: ignore[reportArgumentType]
        self.device = device
        self.tokenizer = tokenizer
        config = cast("Any", model.config)
        self.side = int(config.vision_config.image_size)
        self.places = int(config.text_config.max_position_embeddings)

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> ClipScore:
        """Load `openai/clip-vit-base-patch32`.

        Raises:
            UsageError: What lies there is no CLIP, or one without OpenAI's quick GELU.
        """
        try:
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"{str(folder)!r} holds no CLIP ({error}): give openai/clip-vit-base-patch32") from error
        config = cast("Any", model).config
        if {config.text_config.hidden_act, config.vision_config.hidden_act} != {"quick_gelu"}:
            raise UsageError(f"the CLIP in {str(folder)!r} has no quick GELU: give openai/clip-vit-base-patch32")
        return cls(cast("Any", model).eval(), cast("CLIPTokenizer", tokenizer), device)

    @torch.inference_mode()
    def compare(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """The cosine of each RGB picture with its text, in [-1, 1].

        Raises:
            TextTooLong: A text of more tokens than CLIP has places.
        """
        return [self._compare(picture, text) for picture, text in zip(pictures, texts, strict=True)]

    def _compare(self, picture: Image.Image, text: str) -> float:
        ids = cast("list[int]", self.tokenizer(text)["input_ids"])
        if len(ids) > self.places:
            raise TextTooLong(f"the text has {len(ids)} tokens, and CLIP reads {self.places}")
        pixels = prepare(picture, self.side)[None].to(self.device)  # (1, 3, side, side)
        model = cast("Any", self.model)
        image = model.get_image_features(pixel_values=pixels).pooler_output  # (1, d)
        words = model.get_text_features(input_ids=torch.tensor([ids], device=self.device)).pooler_output  # (1, d)
        return float(torch.nn.functional.cosine_similarity(image.float(), words.float()).item())
