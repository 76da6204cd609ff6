"""Optional parts of a model: images that can be watched while they are drawn, and the length of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from PIL import Image

from milr.models.base import ImageRequest

OnRows: TypeAlias = Callable[[Sequence[ImageRequest], Callable[[], list[list[int]]]], None]
"""A watcher. It gets the requests of a batch and a call that returns the tokens of each so far, which waits for the
device."""


@runtime_checkable
class Watchable(Protocol):
    """A model that draws its images token by token and shows partial images."""

    on_rows: OnRows | None
    """Called in the drawing thread each time that a row of tokens was added to a batch's images; None, the default,
    costs nothing. It changes nothing of what is drawn."""

    def show_tokens(self, tokens: Sequence[int]) -> Image.Image:
        """Decode the first tokens of an image, at least one, in raster order; a flat rest follows them."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A model that counts the tokens of a prompt."""

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without those that the model puts around it."""
        ...
