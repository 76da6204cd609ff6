"""Optional parts of a model: images in work on a device, images that can be watched, and the length of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from PIL import Image

from milr.models.base import ImageOutput, ImageRequest, Model
from milr.settings import SamplingParams

OnRows: TypeAlias = Callable[[Sequence[ImageRequest], Callable[[], list[list[int]]]], None]
"""A watcher. It gets the requests of a batch and a call that returns the tokens of each so far, which waits for the
device."""


@dataclass(frozen=True)
class BegunDrawing:
    """Images whose tokens are sampled, and whose pixels may still be in work on the device."""

    done: Callable[[], bool]
    """Returns true if `wait` would return at once."""
    wait: Callable[[], list[ImageOutput]]
    """Returns the images; call it once."""


@runtime_checkable
class Overlapping(Protocol):
    """A model whose device decodes pixels while it does other work."""

    def begin_draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> BegunDrawing:
        """Sample the tokens of each requested image, and begin to decode them to pixels.

        Until the images are waited for, their states must not be drawn from again.
        """
        ...


def begin_draw(model: Model, requests: Sequence[ImageRequest], sampling: SamplingParams) -> BegunDrawing:
    """Begin to draw each requested image; a model that cannot overlap draws them now."""
    if isinstance(model, Overlapping):
        return model.begin_draw(requests, sampling)
    images = model.draw(requests, sampling)
    return BegunDrawing(lambda: True, lambda: images)


@runtime_checkable
class Releasing(Protocol):
    """A model that keeps memory between drawings, to use it again."""

    def release_memory(self) -> None:
        """Give that memory back; the next drawing takes it again. Nothing may be drawn meanwhile."""
        ...


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


def count_tokens(model: Model, prompt: str) -> int | None:
    """Return the number of tokens of a prompt (see `Counting`); None if the model does not count them."""
    return model.count_tokens(prompt) if isinstance(model, Counting) else None
