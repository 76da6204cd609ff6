"""LRU cache of a reward's results: a search often shows the same image again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class LruCache(Generic[Key, Found]):
    """A bounded cache; the least recently used entry is dropped first."""

    def __init__(self, capacity: int) -> None:
        """Keep at most this many entries from one call to the next."""
        self._capacity = capacity
        self._known: OrderedDict[Key, Found] = OrderedDict()  # the oldest first

    def get_all(self, keys: Sequence[Key], find: Callable[[Sequence[int]], Sequence[Found]]) -> list[Found]:
        """Return one value per key, in order.

        Args:
            keys: A repeated key is computed once.
            find: Called once with the indices in ``keys`` of the unknown keys; returns one value for each. If it
                raises, nothing is stored.
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
