"""What a reward found before: a search often shows one picture again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Memory(Generic[Key, Found]):
    """The last findings, by what they are of; what has not been asked for longest is forgotten first."""

    def __init__(self, room: int) -> None:
        """Remember at most so many findings from one call to the next."""
        self._room = room
        self._known: OrderedDict[Key, Found] = OrderedDict()  # the oldest first

    def recall(self, keys: Sequence[Key], find: Callable[[Sequence[int]], Sequence[Found]]) -> list[Found]:
        """One finding a key, in order.

        Args:
            keys: The same key twice is found once.
            find: Given the places in ``keys`` of those that are not known, all at once, finds one for each. What it
                raises is passed on, and nothing is remembered.
        """
        places: dict[Key, int] = {}
        for place, key in enumerate(keys):
            if key not in self._known:
                places.setdefault(key, place)
        new = dict(zip(places, find(list(places.values())), strict=True)) if places else dict[Key, Found]()
        self._known |= new
        for key in keys:
            self._known.move_to_end(key)
        found = [self._known[key] for key in keys]
        while len(self._known) > self._room:
            self._known.popitem(last=False)
        return found
