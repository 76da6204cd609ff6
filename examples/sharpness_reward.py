"""A new reward is one file, this one, and one line in a table.

In `REWARDS` of `src/milr/rewards/__init__.py`::

"sharpness": Entry("milr.rewards.sharpness:Sharpness", "how sharp a picture is"),
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFilter, ImageStat

from milr.rewards.images.convert import to_rgb
from milr.types import Score, Task, Unscored


class Sharpness:
    """Edges by their mean strength: a reward of the picture alone, whatever the task asks for."""

    name = "sharpness@1"
    stop_at = 0.9

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        return [self._score(picture) for picture, _ in zip(pictures, tasks, strict=True)]

    def _score(self, picture: Image.Image) -> Score | Unscored:
        try:
            grey = to_rgb(picture).convert("L")
        except (OSError, ValueError) as error:
            return Unscored(f"the picture cannot be read: {error}", self.name)
        if min(grey.size) < 3:
            return Unscored(
                f"a picture of {grey.width} x {grey.height} pixels has no inside to find edges in", self.name
            )
        inside = grey.filter(ImageFilter.FIND_EDGES).crop((1, 1, grey.width - 1, grey.height - 1))
        strength = ImageStat.Stat(inside).mean[0] / 255
        return Score(strength, self.name, self.stop_at, explanation=f"mean edge strength {strength:.2f}")
