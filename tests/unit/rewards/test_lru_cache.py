"""Caches of rewards: each result is computed once, and evicting it changes no answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.rewards.lru_cache import LruCache


@given(st.lists(st.lists(st.integers(0, 6))), st.integers(1, 8))
def test_results_equal_those_without_cache_and_nothing_is_computed_twice_in_a_call(
    calls: list[list[int]], room: int
) -> None:
    cache: LruCache[int, int] = LruCache(room)
    last: list[int] = []
    for keys in calls:
        found: list[int] = []

        def find(places: Sequence[int], keys: list[int] = keys, found: list[int] = found) -> list[int]:
            found += [keys[place] for place in places]
            return [10 * keys[place] for place in places]

        assert cache.get_all(keys, find) == [10 * key for key in keys]
        assert len(set(found)) == len(found) and set(found) <= set(keys)
        newest = list(dict.fromkeys(reversed(last)))[:room]
        assert not set(found) & set(newest)  # the latest entry is kept
        last += keys


def test_a_failed_conversion_leaves_no_file() -> None:
    cache: LruCache[str, int] = LruCache(4)

    def fail(places: Sequence[int]) -> list[int]:
        raise OSError("no")

    with pytest.raises(OSError):
        cache.get_all(["a"], fail)
    assert cache.get_all(["a"], lambda places: [1 for _ in places]) == [1]
