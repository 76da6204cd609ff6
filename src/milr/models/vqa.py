"""A Janus checkpoint that looks: pictures go through its vision tower, its language model answers about them.

Source of the architecture: `transformers.models.janus` (JanusVisionModel, JanusVisionAlignerMLP).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from milr.decode.batching import work_in_batches
from milr.decode.engine import Engine
from milr.decode.tensors import to_integers, to_numbers
from milr.models.prompts import Prompts


@dataclass(frozen=True)
class VisualQA:
    """What looking needs of a loaded checkpoint; it holds no weights of its own."""

    network: Any
    """transformers' JanusForConditionalGeneration."""
    engine: Engine
    """Of its language model."""
    prompts: Prompts
    tokenizer: Any
    image_processor: Any
    embed: Callable[[Sequence[int]], torch.Tensor]
    """Token ids -> (T, d)."""
    text_logits: Callable[[torch.Tensor], torch.Tensor]
    """(n, d) float32 -> (n, V) float32."""
    pictures_at_once: int
    """How many go through the vision tower together."""

    @torch.inference_mode()
    def answer(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float]:
        """p(yes) / (p(yes) + p(no)) of a yes/no question about each picture."""
        if not pictures:
            return []
        yes, no = (self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
        kept = self.engine.read_all(self._look(pictures, questions, self.prompts.question))
        logits = self.text_logits(torch.stack([one.last for one in kept]))  # (n, V)
        return to_numbers(torch.softmax(logits[:, [yes, no]], dim=-1)[:, 0])

    @torch.inference_mode()
    def reply(self, pictures: Sequence[Image.Image], questions: Sequence[str], limit: int) -> list[str]:
        """A free answer about each picture, written greedily, of at most that many tokens."""
        if not pictures:
            return []
        return self.engine.in_batches(
            self._look(pictures, questions, self.prompts.open_question),
            lambda batch: self._reply(batch, limit),
            tokens=lambda row: len(row) + limit,
            shape=lambda row: (len(row),),
        )

    def _reply(self, batch: Sequence[torch.Tensor], limit: int) -> list[str]:
        end: int = self.tokenizer.eos_token_id
        rows = self.engine.open([None] * len(batch), max(map(len, batch)), limit)
        rows.read(batch)
        written: list[list[int]] = [[] for _ in batch]
        for _ in range(limit):
            following = to_integers(self.text_logits(rows.newest).argmax(-1))
            for tokens, token in zip(written, following, strict=True):
                if tokens[-1:] != [end]:
                    tokens.append(token)
            if all(tokens[-1:] == [end] for tokens in written):
                break
            rows.step(self.embed(following))
        written = [[token for token in tokens if token != end] for tokens in written]
        return [self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]

    def _look(
        self, pictures: Sequence[Image.Image], questions: Sequence[str], ask: Callable[[str, int], list[int]]
    ) -> list[torch.Tensor]:
        """Questions as rows of embeddings (T, d), each picture's features in its places.

        A picture that is given for several questions, as the same object, goes through the vision tower once.
        """
        placeholder = self.tokenizer.image_token_id
        different = {id(picture): picture for picture in pictures}
        features, _ = work_in_batches(list(different.values()), self._see, self.pictures_at_once)
        seen = dict(zip(different, features, strict=True))
        rows: list[torch.Tensor] = []
        for picture, question in zip(pictures, questions, strict=True):
            found = seen[id(picture)]
            ids = ask(question, len(found))
            holes = torch.tensor([i == placeholder for i in ids], device=found.device)
            rows.append(self.embed(ids).masked_scatter(holes[:, None], found))
        return rows

    def _see(self, pictures: Sequence[Image.Image]) -> Sequence[torch.Tensor]:
        """Each picture's features, (tokens, d)."""
        pixels = self.image_processor([p.convert("RGB") for p in pictures], return_tensors="pt")["pixel_values"]
        inner = self.network.model
        pixels = pixels.to(self.network.device, self.network.dtype)  # (B, 3, H, W)
        return inner.aligner(inner.vision_model(pixels).last_hidden_state).unbind()
