"""A new reward is one file, this one, and one line in a table.

In `REWARDS` of `src/milr/rewards/__init__.py`::

"sharpness": Entry("milr.rewards.sharpness:Sharpness", "how sharp an image is"),
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFilter, ImageStat

from milr.rewards.images.convert import to_rgb
from milr.types import Score, Task, Unscored


class Sharpness:
    """The mean strength of edges: a reward of the image alone, for any task."""

    name = "sharpness@1"
    stop_at = 0.9

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image) for image, _ in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image) -> Score | Unscored:
        try:
            grey = to_rgb(image).convert("L")
        except (OSError, ValueError) as error:
            return Unscored(f"the image cannot be read: {error}", self.name)
        if min(grey.size) < 3:
            return Unscored(
                f"an image of {grey.width} x {grey.height} pixels has no inside to find edges in", self.name
            )
        inside = grey.filter(ImageFilter.FIND_EDGES).crop((1, 1, grey.width - 1, grey.height - 1))
        strength = ImageStat.Stat(inside).mean[0] / 255
        return Score(strength, self.name, self.stop_at, explanation=f"mean edge strength {strength:.2f}")
