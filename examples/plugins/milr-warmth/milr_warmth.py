"""A reward: how warm an image's colours are. A class, since it is made with settings; a function would do as well."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageStat

from milr import Region, Score, Task, Unscored
from milr.rewards.base import Candidate


class Warmth:
    """The share of red in an image's mean colour."""

    name = "warmth@1"
    stop_at = 0.6

    def __init__(self, argument: str | None = None) -> None:
        """Take what stands after the colon: `warmth:left` looks at the left half only."""
        self.left_only = argument == "left"

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return [self._score(image) for image, _ in zip(images, tasks, strict=True)]

    def _score(self, image: Image.Image) -> Score | Unscored:
        width = image.width // 2 if self.left_only else image.width
        if not width or not image.height:
            return Unscored(f"an image of {image.width} x {image.height} pixels has no colour", self.name)
        red, green, blue = ImageStat.Stat(image.convert("RGB").crop((0, 0, width, image.height))).mean
        share = red / max(red + green + blue, 1)
        seen = (Region("warm", (0, 0, width, image.height), share),)
        return Score(share, self.name, self.stop_at, explanation=f"{share:.0%} of the light is red", regions=seen)

    def compare(self, a: Candidate, b: Candidate) -> float:
        """Prefer the brighter one of two that are equally warm."""
        bright, dark = (sum(ImageStat.Stat(one.image.convert("RGB")).mean) for one in (a, b))
        return bright - dark
