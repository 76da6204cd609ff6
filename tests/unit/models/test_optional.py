"""Drawings that are watched: rows come as they are drawn, and nothing of what is drawn changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from milr import search
from milr.models.base import ImageRequest
from milr.models.janus import Janus
from milr.models.optional import Watchable
from milr.testing import FakeModel, FakeReward
from tests.support.janus_folders import tiny_sizes, write_deepseek


def make_janus(folder: Path) -> Janus:
    """Return a tiny model of random weights."""
    with tiny_sizes():
        write_deepseek(folder)
        return Janus(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fake", "janus"])
def test_a_watcher_sees_each_row_and_changes_nothing(name: str, tmp_path: Path) -> None:
    model: Any = FakeModel() if name == "fake" else make_janus(tmp_path)
    assert isinstance(model, Watchable)
    settings = model.settings("milr", strategy="joint", steps=1, seed=3)
    prompt = "a red apple"
    expected = [one.images[0].tokens for one in search([prompt], model, FakeReward(lambda *_: 0.1), settings)]
    seen: list[list[int]] = []

    def watch(requests: Sequence[ImageRequest], read: Callable[[], list[list[int]]]) -> None:
        assert [runner.find(one.state) for one in requests] == [0]
        seen.extend(read())

    runner = search([prompt], model, FakeReward(lambda *_: 0.1), settings)
    model.on_rows = watch
    try:
        drawn = [one.images[0].tokens for one in runner]
    finally:
        model.on_rows = None
    assert drawn == expected
    side = round(model.capabilities.image_tokens**0.5)
    assert [len(one) for one in seen[: side - 1]] == [side * row for row in range(1, side)]
    assert all(
        one == list(whole[: len(one)]) for one, whole in zip(seen[: side - 1], [expected[0]] * side, strict=False)
    )
    shown = model.show_tokens(seen[0])
    assert shown.width == shown.height == model.capabilities.image_size
