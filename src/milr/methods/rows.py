"""Unfinished images of the tasks that somebody watches, while a model draws them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from PIL import Image

from milr.models.base import ImageRequest, TaskState
from milr.models.optional import Watchable

_LOOK = 0.3  # seconds between two images of a task that are shown while they are drawn


class RowWatch:
    """A watcher of a model's rows. It is an `milr.models.optional.OnRows`."""

    def __init__(
        self,
        model: Watchable,
        find: Callable[[TaskState], int | None],
        wanted: Callable[[int], bool],
        show: Callable[[int, int, Image.Image], None],
    ) -> None:
        """Begin to watch the model.

        Args:
            model: A model that draws; this watcher replaces another one.
            find: Returns the index of the task in progress that a state belongs to.
            wanted: Returns true if somebody watches a task's images grow.
            show: Gets a task's index, the number of tokens that its first image has, and the image so far.
        """
        self._model, self._find, self._wanted, self._show = model, find, wanted, show
        self._next: dict[int, float] = {}  # index -> when its next image is shown
        model.on_rows = self

    def __call__(self, requests: Sequence[ImageRequest], read: Callable[[], list[list[int]]]) -> None:
        """Show the first image of each task that is watched and was not shown a moment ago."""
        found = {self._find(one.state): place for place, one in reversed(list(enumerate(requests)))}
        now = time.monotonic()
        self._next = {index: at for index, at in self._next.items() if at > now}
        watched = {
            index: place
            for index, place in found.items()
            if index is not None and index not in self._next and self._wanted(index)
        }
        if not watched:
            return
        tokens = read()
        for index, place in watched.items():
            self._next[index] = now + _LOOK
            self._show(index, len(tokens[place]), self._model.show_tokens(tokens[place]))
