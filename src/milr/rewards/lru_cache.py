"""An LRU cache of what a reward found before: a search often shows one image again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class LruCache(Generic[Key, Found]):
    """A bounded cache; the entry that was used longest ago is dropped first."""

    def __init__(self, capacity: int) -> None:
        """Keep at most so many entries from one call to the next."""
        self._capacity = capacity
        self._known: OrderedDict[Key, Found] = OrderedDict()  # the oldest first

    def get_all(self, keys: Sequence[Key], find: Callable[[Sequence[int]], Sequence[Found]]) -> list[Found]:
        """Return one value per key, in order.

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
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return found
