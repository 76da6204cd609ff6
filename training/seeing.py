"""What a patch shows, said in the language model's own words: how the vision tower is taught.

A patch of an object has a name, a colour and a place. The tower's vector for it shall lie where the words of all three
lie among the language model's embeddings, so that a picture reads like a plan. Taught by answers alone, a yes or a no
for all patches, the tower had learned next to nothing after thousands of pictures (docs/experiments.md). Here every
patch is a lesson, and the language model is not even run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from milr.tasks import COLORS, OBJECT_NAMES
from training.icons import GROUNDS
from training.scenes import GRID, PLACES, Scene

UNSAID = -100
NAMES = (*OBJECT_NAMES, "ground")
HUES = (*COLORS, *GROUNDS)
KINDS: dict[str, tuple[str, ...]] = {"name": NAMES, "color": HUES, "place": tuple(PLACES)}
"""What is said of a patch, and all that can be said."""
SHARPNESS = 20.0  # of the softmax over words
UNSTEADY = 0.5  # the noise on words that stand for patches, beside their own size
GROUND_SHARE = 0.05  # of the ground that teaches: plain ground is most of a picture and soon known


@dataclass(frozen=True)
class SeenBatch:
    """Pictures, and what each of their patches shows."""

    pixels: torch.Tensor | None  # (B, 3, 144, 144) in [-1, 1]; None where words stand for them
    said: torch.Tensor  # (B, 81, 3) int64: of each kind, the word's number, or UNSAID
    objects: torch.Tensor  # (B, 81) bool: patches of objects, not ground


def say(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Of each patch the words' numbers (81, 3), and whether it is an object's (81,)."""
    said = np.full((GRID, GRID, len(KINDS)), UNSAID)
    said[..., 0], said[..., 1] = NAMES.index("ground"), HUES.index(scene.ground)
    objects = np.zeros((GRID, GRID), bool)
    for item in scene.items:
        top, left, bottom, right = item.box
        hue = UNSAID if item.color is None else HUES.index(item.color)
        said[top:bottom, left:right] = NAMES.index(item.name), hue, list(PLACES).index(item.place)
        objects[top:bottom, left:right] = True
    return said.reshape(-1, len(KINDS)), objects.ravel()


def tell_patches(scenes: Sequence[Scene], pixels: torch.Tensor | None) -> SeenBatch:
    """A batch of these scenes and their pictures (B, 3, 144, 144), or of their words alone."""
    said, objects = (torch.from_numpy(np.stack(facts)) for facts in zip(*map(say, scenes), strict=True))
    return SeenBatch(pixels, said, objects)


class Lexicon:
    """The words of every kind, as token ids."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """A lexicon.

        Args:
            encode: Text -> token ids, the beginning of a sentence first.
        """
        self.ids: dict[str, Sequence[list[int]]] = {
            kind: [encode(f" {word}")[1:] for word in words] for kind, words in KINDS.items()
        }

    def vectors(self, table: torch.Tensor) -> list[torch.Tensor]:
        """Where each kind's words lie: the mean of their tokens' embeddings.

        Args:
            table: (vocabulary, d) embeddings.

        Returns:
            A (words, d) float32 tensor for each kind.
        """
        table = table.detach().float()
        return [torch.stack([table[ids].mean(0) for ids in words]) for words in self.ids.values()]


def spell(batch: SeenBatch, words: Sequence[torch.Tensor], random: np.random.Generator) -> torch.Tensor:
    """What a faultless tower would see, unsteadily: the sum of each patch's words, with noise (B, 81, d).

    Args:
        batch: What patches show.
        words: Of each kind, (words, d).
        random: The source of the noise.
    """
    exact = sum_words(batch.said, words)
    noise = torch.from_numpy(random.standard_normal(exact.shape, np.float32))
    return exact + UNSTEADY * exact.square().mean().sqrt() * noise


def sum_words(said: torch.Tensor, words: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each patch the sum of its words: (..., 3) numbers -> (..., d)."""
    parts = zip(words, said.unbind(-1), strict=True)
    return sum((table[n.clamp_min(0)] * (n != UNSAID)[..., None] for table, n in parts), torch.zeros(()))


def seeing_loss(
    seen: torch.Tensor, batch: SeenBatch, words: Sequence[torch.Tensor], random: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    """How far patches lie from the words of what they show: mean cross-entropies, and the squared distance, added.

    Words of a kind are told apart by what is not common to all of them.

    Args:
        seen: (B, 81, d) the aligner's vectors.
        batch: The pictures.
        words: Of each kind, (words, d).
        random: Picks the ground that counts.
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
