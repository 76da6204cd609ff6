"""The vision tower's own loss: a patch's vector must be near the embeddings of the words for what the patch shows.

A patch of an object has a name, a colour and a place. Its vector must be near the sum of the language model's
embeddings of these three words, so that an image reads like a text. Taught by the answers to questions alone, the tower
had learned next to nothing after thousands of images (docs/experiments.md). Here every patch is an example, and the
language model is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from milr.tasks import COLORS, OBJECT_NAMES
from training.grounds import GRID, GROUNDS
from training.scenes import PLACES, Scene

UNSAID = -100
NAMES = (*OBJECT_NAMES, "ground")
HUES = (*COLORS, *GROUNDS)
KINDS: dict[str, tuple[str, ...]] = {"name": NAMES, "color": HUES, "place": PLACES}
"""The words that a patch can have, by kind."""
SHARPNESS = 20.0  # inverse temperature of the softmax over words
UNSTEADY = 0.5  # deviation of the noise on words that stand for patches, relative to their size
GROUND_SHARE = 0.05  # share of ground patches that count: ground is most of an image and soon known


@dataclass(frozen=True)
class SeenBatch:
    """Images and the words for each of their patches."""

    pixels: torch.Tensor | None  # (B, 3, 160, 160) in [-1, 1]; None if words stand for them
    said: torch.Tensor  # (B, 100, 3) int64: the number of each kind's word, or UNSAID
    objects: torch.Tensor  # (B, 100) bool: patches of objects, not ground


def say(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of each patch's words (100, 3), and which patches are an object's (100,)."""
    said = np.full((GRID, GRID, len(KINDS)), UNSAID)
    said[..., 0], said[..., 1] = NAMES.index("ground"), HUES.index(scene.ground)
    objects = np.zeros((GRID, GRID), bool)
    for item in scene.items:
        top, left, bottom, right = item.box
        hue = UNSAID if item.color is None else HUES.index(item.color)
        said[top:bottom, left:right] = NAMES.index(item.name), hue, PLACES.index(item.place)
        objects[top:bottom, left:right] = True
    return said.reshape(-1, len(KINDS)), objects.ravel()


def tell_patches(scenes: Sequence[Scene], pixels: torch.Tensor | None) -> SeenBatch:
    """Return a batch of scenes with their images (B, 3, 160, 160), or of their words alone."""
    said, objects = (torch.from_numpy(np.stack(facts)) for facts in zip(*map(say, scenes), strict=True))
    return SeenBatch(pixels, said, objects)


class Lexicon:
    """Token ids of the words of every kind."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """Look the words up.

        Args:
            encode: Returns a text's token ids, the beginning of a sentence first.
        """
        self.ids: dict[str, Sequence[list[int]]] = {
            kind: [encode(f" {word}")[1:] for word in words] for kind, words in KINDS.items()
        }

    def vectors(self, table: torch.Tensor) -> list[torch.Tensor]:
        """Return the vectors of each kind's words: the mean of their tokens' embeddings.

        Args:
            table: (vocabulary, d) embeddings.

        Returns:
            A (words, d) float32 tensor for each kind.
        """
        table = table.detach().float()
        return [torch.stack([table[ids].mean(0) for ids in words]) for words in self.ids.values()]


def spell(batch: SeenBatch, words: Sequence[torch.Tensor], random: np.random.Generator) -> torch.Tensor:
    """Return the vectors (B, 100, d) of a faultless tower: the sum of each patch's words, with noise.

    Args:
        batch: The words of the patches.
        words: Vectors (words, d) of each kind.
        random: The source of the noise.
    """
    exact = sum_words(batch.said, words)
    noise = torch.from_numpy(random.standard_normal(exact.shape, np.float32))
    return exact + UNSTEADY * exact.square().mean().sqrt() * noise


def sum_words(said: torch.Tensor, words: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of each patch's words (..., d); ``said`` (..., 3) has their numbers."""
    parts = zip(words, said.unbind(-1), strict=True)
    return sum((table[n.clamp_min(0)] * (n != UNSAID)[..., None] for table, n in parts), torch.zeros(()))


def seeing_loss(
    seen: torch.Tensor, batch: SeenBatch, words: Sequence[torch.Tensor], random: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of patches: mean cross-entropies of their words plus the squared distance, and figures.

    The mean of a kind's words is subtracted first: it does not tell them apart.

    Args:
        seen: The aligner's vectors (B, 100, d).
        batch: The images.
        words: Vectors (words, d) of each kind.
        random: Chooses the ground patches that count.
    """
    some = batch.objects | torch.from_numpy(random.random(batch.objects.shape) < GROUND_SHARE)
    vectors, said = seen[some].float(), batch.said[some]  # (n, d), (n, 3)
    total, loss, figures = sum_words(said, words), torch.zeros(()), dict[str, float]()
    for kind, table, wanted in zip(KINDS, words, said.unbind(-1), strict=True):
        told = wanted != UNSAID
        own = table - table.mean(0)
        named = SHARPNESS * F.normalize(vectors[told], dim=-1) @ F.normalize(own, dim=-1).T
        loss = loss + F.cross_entropy(named, wanted[told])
        figures[f"seen_{kind}_right"] = (named.argmax(-1) == wanted[told]).float().mean().item()
    off = (vectors - total).square().mean() / total.square().mean()
    return loss + off, figures | {"seen_off": off.item()}
