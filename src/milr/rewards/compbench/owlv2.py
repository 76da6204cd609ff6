"""OWLv2 over UniDet's class names: the default substitute for UniDet.

It keeps the rule's exact label space, including the words that UniDet does not know. Its confidences are not
UniDet's, and confidences are half of the spatial score: its numbers cannot be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.owlv2.modeling_owlv2 import Owlv2ForObjectDetection

from milr.rewards.compbench.spatial import Seen, official_frame
from milr.rewards.compbench.unidet import split_label
from milr.rewards.images.tensors import to_tensor
from milr.rewards.pretrained import load_network, load_tokenizer

THRESHOLD = 0.1
"""UniDet's effective threshold; a detection needs a score above it."""
MOST_DETECTIONS = 300
"""UniDet's limit."""
_WAY_OUT = "get google/owlv2-base-patch16-ensemble"
_GREY = 128
_QUERY = "a photo of a {name}"
_BATCH = 64


class Owlv2Detector:
    """A detector that looks for every class name of a label space and returns the best box of each.

    The spatial rule only uses the most confident detection of a name, so others are left out.
    """

    def __init__(self, network: Any, tokenizer: Any, labels: Sequence[str], device: str = "cpu") -> None:
        """Embed all names once.

        Args:
            network: An `Owlv2ForObjectDetection` in evaluation mode.
            tokenizer: CLIP's.
            labels: UniDet's names. If a label joins several names by commas, each is looked for, and the best one
                counts.
            device: Device of the network.
        """
        self.network = network
        self.labels = tuple(labels)
        self.device = device
        self.side: int = network.config.vision_config.image_size
        owners = [(i, name) for i, label in enumerate(self.labels) for name in split_label(label)]
        self._owner = [i for i, _ in owners]
        self._queries = self._embed([name for _, name in owners], tokenizer)  # (Q, d)

    @classmethod
    def from_folder(cls, folder: Path, labels: Sequence[str], device: str = "cpu") -> Owlv2Detector:
        """Load `google/owlv2-base-patch16-ensemble`.

        Raises:
            UsageError: The folder holds no OWLv2.
        """
        network = load_network(Owlv2ForObjectDetection, folder, _WAY_OUT, device)
        return cls(network, load_tokenizer(CLIPTokenizer, folder, _WAY_OUT), labels, device)

    @torch.inference_mode()
    def detect(self, image: Image.Image) -> tuple[Seen, ...]:
        """Return the best detection of each name above the threshold, most confident first, at most 300.

        Boxes are in the frame that UniDet would use for the image.
        """
        features = self.network.image_embedder(pixel_values=self._pixels(image))[0]  # (1, h, w, d)
        flat = features.flatten(1, 2)  # (1, P, d)
        logits = self.network.class_predictor(flat, self._queries[None])[0][0]  # (P, Q)
        boxes = self.network.box_predictor(flat, features)[0].cpu()  # (P, 4): centre x, y, width, height in the square
        best, places = (one.cpu() for one in logits.float().sigmoid().max(0))  # (Q,), (Q,)
        found: dict[int, Seen] = {}
        for query in cast("list[int]", best.argsort(descending=True, stable=True).tolist()):
            score, owner = float(best[query]), self._owner[query]
            if score <= THRESHOLD or len(found) == MOST_DETECTIONS:
                break
            if owner not in found:
                box = self._to_frame(boxes[places[query]].tolist(), image)
                found[owner] = Seen(self.labels[owner], score, box)
        return tuple(found.values())

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to (1, 3, side, side): padded right and bottom to a square with grey, then resized."""
        longest = max(image.size)
        square = Image.new("RGB", (longest, longest), (_GREY,) * 3)
        square.paste(image, (0, 0))
        small = square.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return to_tensor(small).to(self.device)

    def _to_frame(self, box: Sequence[float], image: Image.Image) -> tuple[float, float, float, float]:
        """Convert a box relative to the padded square to corners in UniDet's frame, cropped to the image."""
        x, y, width, height = (value * max(image.size) for value in box)
        frame = official_frame(*image.size)
        scales = (frame[0] / image.width, frame[1] / image.height)
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        x0, y0, x1, y1 = (min(max(value * scales[i % 2], 0.0), float(frame[i % 2])) for i, value in enumerate(corners))
        return (x0, y0, x1, y1)

    @torch.inference_mode()
    def _embed(self, names: Sequence[str], tokenizer: Any) -> torch.Tensor:
        """Embed names as (Q, d)."""
        places: int = self.network.config.text_config.max_position_embeddings
        embedded: list[torch.Tensor] = []
        for start in range(0, len(names), _BATCH):
            texts = [_QUERY.format(name=name) for name in names[start : start + _BATCH]]
            # OWLv2 was trained on texts padded to its full sixteen tokens
            encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=places, return_tensors="pt")
            features = self.network.owlv2.get_text_features(
                input_ids=encoded["input_ids"].to(self.device),
                attention_mask=encoded["attention_mask"].to(self.device),
            )
            embedded.append(features.pooler_output)
        return torch.cat(embedded)
