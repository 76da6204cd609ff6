"""GenEval's colours: CLIP ViT-L/14 chooses one of ten colours for an object.

Source: `evaluation/evaluate_images.py` of djghosh13/geneval, commit af4902f; open_clip 2.20.0's evaluation transform;
clip_benchmark 1.4.0's zero-shot classifier. Weights and arithmetic are float32 throughout, while the original uses fp16
on a GPU: only near-ties can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers.models.auto.tokenization_auto import AutoTokenizer

from milr.rewards.geneval.detector import Instance, Mask
from milr.rewards.images.tensors import to_tensor
from milr.rewards.pretrained import load_clip, load_tokenizer
from milr.tasks import COLORS

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""Three texts per colour and object."""
GREY = (153, 153, 153)
"""Grey outside the object's mask: #999."""


def cut_out(image: Image.Image, mask: Mask, box: tuple[float, float, float, float]) -> Image.Image:
    """Return the object on flat grey, cropped to its box.

    Args:
        image: RGB.
        mask: (h, w), true on the object.
        box: (x0, y0, x1, y1), whole numbers.
    """
    composed = Image.composite(image, Image.new("RGB", image.size, GREY), Image.fromarray(mask))
    x0, y0, x1, y1 = (round(edge) for edge in box)
    return composed.crop((x0, y0, x1, y1))


def prepare(image: Image.Image, side: int) -> torch.Tensor:
    """Apply open_clip's evaluation transform; it cuts off the ends of an elongated object.

    The short side becomes ``side`` by PIL's bicubic, the long one is rounded down; the middle is cut out, half pixels
    to the even side; then CLIP's normalisation. transformers' processor rounds the cut otherwise.

    Args:
        image: RGB.
        side: Side of the network's input, 224.

    Returns:
        (3, side, side) float32.
    """
    short = min(image.size)
    size = tuple(side if edge == short else int(side * edge / short) for edge in image.size)
    large = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    left, top = (round((edge - side) / 2) for edge in large.size)
    cut = large.crop((left, top, left + side, top + side))
    return to_tensor(cut)[0]


class ColorClassifier:
    """A classifier of the colours of detections."""

    def __init__(self, network: Any, tokenizer: Any, device: str = "cpu") -> None:
        """Take a `CLIPModel` and its tokenizer, for use only."""
        self.network = network.float().eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = device
        self._directions: dict[str, torch.Tensor] = {}

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> ColorClassifier:
        """Read a transformers folder.

        Raises:
            UsageError: It has no readable CLIP, or one with another activation than OpenAI's.
        """
        way_out = "get openai/clip-vit-large-patch14 as it was published"
        network = load_clip(folder, way_out, device)
        return cls(network, load_tokenizer(AutoTokenizer, folder, way_out), device)

    @torch.inference_mode()
    def classify(self, image: Image.Image, objects: Sequence[Instance]) -> list[str]:
        """Return the most probable of GenEval's ten colours for each object, by its class name.

        Args:
            image: The RGB image of the objects.
            objects: Detections with boxes of at least one pixel.
        """
        side: int = self.network.config.vision_config.image_size
        colors: list[str] = []
        for seen in objects:
            pixels = prepare(cut_out(image, seen.mask, seen.box), side)[None].to(self.device)  # (1, 3, side, side)
            direction = F.normalize(self.network.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
            likeness = 100 * direction @ self._names(seen.name)  # (1, 10)
            colors.append(COLORS[int(likeness.argmax())])
        return colors

    def _names(self, name: str) -> torch.Tensor:
        """Return (d, 10): each colour's direction, the normalised mean of its three normalised texts."""
        if name not in self._directions:
            columns: list[torch.Tensor] = []
            for color in COLORS:
                texts = [template.format(color=color, name=name) for template in TEMPLATES]
                read = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
                words = self.network.get_text_features(
                    input_ids=read["input_ids"], attention_mask=read["attention_mask"]
                ).pooler_output
                columns.append(F.normalize(F.normalize(words, dim=-1).mean(0), dim=-1))
            self._directions[name] = torch.stack(columns, dim=1)
        return self._directions[name]
