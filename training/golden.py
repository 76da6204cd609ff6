"""`python -m training golden`: the golden images of the icon world, rendered, never drawn by a model.

`milr.rewards.icons.golden` holds both detectors to them; `answers.json` beside them has a prompt that each image meets
and one that it does not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.scenes import Item, Library, Scene, render

FOLDER = Path(__file__).parents[1] / "src" / "milr" / "assets" / "golden"
SCENES = {
    "three_cats.png": Scene(
        (Item("cat", None, 0, 1, "small"), Item("cat", None, 2, 6, "large"), Item("cat", None, 6, 2, "large")),
        ground="tiled",
        camera="near",
        horizon=5,
        style="classic",
    ),
    "apple_and_clock.png": Scene(
        (Item("apple", "red", 3, 0, "large"), Item("clock", "blue", 4, 6, "large")),
        ground="striped",
        camera="near",
        horizon=5,
        style="classic",
    ),
    "dog_above_bench.png": Scene(
        (Item("dog", "black", 0, 3, "small", 1), Item("bench", "green", 6, 2, "large", 1)),
        ground="meadow",
        camera="near",
        horizon=5,
        style="flat",
    ),
    "four_of_two_colors.png": Scene(
        (
            Item("bus", "yellow", 0, 0, "large"),
            Item("vase", None, 1, 6, "small"),
            Item("pizza", "pink", 5, 5, "large"),
            Item("vase", None, 6, 0, "large"),
        ),
        ground="shaded",
        camera="far",
        horizon=5,
        style="classic",
    ),
}


def draw_golden(library: Library, folder: Path) -> None:
    """Write every golden image to ``folder`` as a PNG."""
    for name, scene in SCENES.items():
        pixels = render(scene, library).round().clip(0, 255).astype(np.uint8)  # (160, 160, 3)
        Image.fromarray(pixels).save(folder / name, optimize=True)
