"""Counts in messages."""

from __future__ import annotations

import pytest

from milr.types import say_count


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "search", "1 search"),
        (0, "search", "0 searches"),
        (1024, "image", "1,024 images"),
        (1.5, "drawing", "1.5 drawings"),
    ],
)
def test_a_count_agrees_with_its_noun(count: float, noun: str, said: str) -> None:
    assert say_count(count, noun) == said
