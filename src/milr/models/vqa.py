"""Visual question answering with a Janus checkpoint: vision tower, then language model.

Source of the architecture: `transformers.models.janus` (JanusVisionModel, JanusVisionAlignerMLP).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.decode.engine import Engine
from milr.decode.loop import DecodeLoop, LoopRequest
from milr.decode.tensors import split_rows, to_numbers
from milr.models.heads import TextHead
from milr.models.prompts import Prompts


@dataclass(frozen=True)
class VisualQA:
    """The parts of a loaded checkpoint that answer questions about images; it holds no weights of its own."""

    network: Any
    """transformers' `JanusForConditionalGeneration`."""
    engine: Engine
    """Engine of its language model."""
    prompts: Prompts
    tokenizer: Any
    image_processor: Any
    text_head: TextHead
    embed: Callable[[Sequence[Sequence[int]]], list[torch.Tensor]]
    """Maps rows of token ids to (T_i, d) each."""
    images_at_once: int
    """Images per batch of the vision tower."""

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """Return p(yes) / (p(yes) + p(no)) of a yes/no question about each image, over the spellings of both.

        It is NaN if yes and no together have less than half of the probability, because the model would give another
        answer.
        """
        if not images:
            return []
        prefixes = self.engine.prefill_all(self._embed(images, questions, self.prompts.question))
        logits = self.text_head.logits(torch.stack([prefix.last for prefix in prefixes]))  # (n, V)
        chances = torch.softmax(logits, dim=-1)
        yes, no = (chances[:, self._spellings(word)].sum(-1) for word in ("yes", "no"))
        return to_numbers((yes / (yes + no)).where(yes + no >= 0.5, math.nan))

    @torch.inference_mode()
    def reply(self, images: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """Return a free answer about each image, decoded greedily, of at most that many tokens."""
        if not images:
            return []
        return self.engine.in_batches(
            self._embed(images, questions, self.prompts.open_question),
            lambda batch: self._reply(batch, limit),
            loops=True,
            tokens=lambda row: len(row) + limit,
            shape=lambda row: (len(row),),
        )

    def _spellings(self, word: str) -> list[int]:
        """Return the tokens that spell a word; the first token of the usual spelling if there is none."""
        ways = [self.tokenizer(one, add_special_tokens=False)["input_ids"] for one in _spell(word)]
        return sorted({ids[0] for ids in ways if len(ids) == 1}) or ways[0][:1]

    def _reply(self, batch: Sequence[torch.Tensor], limit: int) -> list[str]:
        end: int = self.tokenizer.eos_token_id
        rows = self.engine.open([None] * len(batch), max(map(len, batch)), limit)
        rows.prefill(batch)
        none = torch.zeros(0, dtype=torch.long, device=rows.newest.device)
        loop = DecodeLoop(rows, self.text_head, LoopRequest(limit, [none] * len(batch), ends=frozenset({end})))
        loop.run()
        written = [[token for token in tokens if token != end] for tokens in loop.read_tokens()]
        return [self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]

    def _embed(
        self, images: Sequence[Image.Image], questions: Sequence[str], write: Callable[[str, int], list[int]]
    ) -> list[torch.Tensor]:
        """Return the questions as rows of embeddings (T, d), with each image's features at its positions.

        An image that is given for several questions, as the same object, goes through the vision tower once.
        """
        placeholder = self.tokenizer.image_token_id
        different = {id(image): image for image in images}
        found, _ = work_in_batches(list(different.values()), self._encode, self.images_at_once)
        features = dict(zip(different, found, strict=True))
        ids = [write(question, len(features[id(image)])) for image, question in zip(images, questions, strict=True)]
        marked = torch.tensor([token == placeholder for row in ids for token in row])[:, None]  # (all tokens, 1)
        embedded = torch.cat(self.embed(ids))
        own = torch.cat([features[id(image)] for image in images])
        filled = embedded.masked_scatter(marked.to(embedded.device), own)
        return split_rows(filled, [len(row) for row in ids])

    def _encode(self, images: Sequence[Image.Image]) -> Sequence[torch.Tensor]:
        """Return each image's features, (tokens, d)."""
        side, ground = self.image_processor.size["height"], self.image_processor.background_color
        squares = [to_square(image.convert("RGB"), side, ground) for image in images]
        pixels = self.image_processor(squares, return_tensors="pt")["pixel_values"]
        inner = self.network.model
        pixels = pixels.to(self.network.device, self.network.dtype)  # (B, 3, H, W)
        return inner.aligner(inner.vision_model(pixels).last_hidden_state).unbind()


def _spell(word: str) -> tuple[str, ...]:
    return f" {word}", word, f" {word.title()}", word.title()


def to_square(image: Image.Image, side: int, ground: tuple[int, int, int], least: int = 14) -> Image.Image:
    """Scale an image so that its longer edge is `side` pixels, and centre it on a square background.

    The shorter edge is truncated to whole pixels; transformers' processor rounds it, and one row of pixels changes
    answers. Source: deepseek-ai/Janus, VLMImageProcessor.

    Args:
        image: RGB, of any size.
        side: Pixels.
        ground: Background colour, RGB, 0 to 255.
        least: Least number of pixels of the shorter edge.
    """
    longer = max(image.size)
    width, height = (max(int(edge / longer * side), least) for edge in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    if width == height:
        return scaled
    square = Image.new("RGB", (max(width, height), max(width, height)), ground)
    square.paste(scaled, ((square.width - width) // 2, (square.height - height) // 2))
    return square
