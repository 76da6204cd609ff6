"""A store of images by the VQ model: they are slow to make, so a detector sees each of them several times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.coders import Coder, Encoded, VqCoder, psnr
from training.damage import coded_images
from training.layouts import MOST, SIDE, Sampler
from training.stage import Settings, log


class Store:
    """Images of the generator's icons by the VQ model, made chunk by chunk and kept on disk."""

    def __init__(self, coders: Sequence[Coder], sampler: Sampler, settings: dict[str, Any], folder: Path) -> None:
        """Open an empty store.

        Args:
            coders: Make its chunks in turn.
            sampler: Samples the layouts, with the generator's icons.
            settings: The detector's: ``coded_images``, ``coded_damaged``, ``chunk`` and ``seed``.
            folder: Holds the chunks' files.
        """
        self.coders, self.sampler, self.folder = coders, sampler, folder
        self.chunk, self.most, self.seed = settings["chunk"], settings["coded_images"], settings["seed"]
        self.damaged = settings["coded_damaged"]
        self.images = np.empty((self.most, SIDE, SIDE, 3), np.uint8)
        self.labels = np.empty((self.most, MOST, 6), np.float32)
        self.filled = 0

    def grow(self) -> bool:
        """Add a chunk, from its file if there is one; return False if all are made."""
        if self.filled + self.chunk > self.most:
            return False
        file = self.folder / f"{self.filled:05d}.npz"
        if file.exists():
            with np.load(file) as stored:
                images, labels = stored["images"], stored["labels"]
        else:
            random = np.random.default_rng([self.seed, 1, self.filled])
            coder = self.coders[self.filled // self.chunk % len(self.coders)]
            images, labels = coded_images(self.sampler, coder, random, self.chunk, self.damaged)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, images=images, labels=labels)
            partial.rename(file)
        fresh = slice(self.filled, self.filled + self.chunk)
        self.images[fresh], self.labels[fresh] = images, labels
        self.filled += self.chunk
        return True

    def pick(self, random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a random choice of images and labels, with replacement."""
        index = random.integers(0, self.filled, number)
        return self.images[index], self.labels[index]


def open_store(settings: Settings, name: str, sampler: Sampler, folder: Path) -> Store:
    """Return a detector's store of images by the newest VQ model, with the first ones.

    Half of them are put together from known codes, as the generator draws; half are encoded first.
    """
    own, coder = settings["critics"][name], VqCoder(settings, sampler.library, folder)
    encoded = Encoded(coder, sampler)
    log(name, vq_step=coder.step, vq_psnr=psnr(coder, sampler), encoded_psnr=psnr(encoded, sampler))
    store = Store([coder, encoded], sampler, own, folder / f"{name}-images-{coder.step}")
    while store.filled < own["first_images"] and store.grow():
        pass
    return store
