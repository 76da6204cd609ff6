"""A model that lacks latents: ratios asked for are refused, defaults become a note."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milr.config import SearchConfig
from milr.errors import UsageError
from milr.models.absent import check_latents
from milr.search import search
from milr.testing import FakeModel, FakeReward
from milr.types import Task


@pytest.mark.parametrize(("there", "absent"), [("image", ["text"]), ("text", ["image"]), ("none", ["text", "image"])])
def test_a_search_moves_what_there_is_and_says_what_there_is_not(there: str, absent: list[str]) -> None:
    model = FakeModel()
    model.capabilities = replace(model.capabilities, latents=there)
    config = SearchConfig(steps=2, text_ratio=0.5, image_ratio=0.2, stop_at=1.0)
    first, *later = search([Task(prompt="two dogs")], model, FakeReward(), config)
    assert first.notes == tuple(f"{name}: this model has no {name} latents, so none move" for name in absent)
    assert (first.text_latents == 0) == ("text" in absent)
    assert (first.image_latents == 0) == ("image" in absent)
    assert all(not set(absent) & set(record.moved) for record in later)
    assert all(record.moved or there == "none" for record in later)


def test_a_ratio_that_was_asked_for_in_vain_is_refused() -> None:
    image_only = replace(FakeModel.capabilities, latents="image")
    with pytest.raises(UsageError, match="text_ratio 0.2: this model has no text latents"):
        check_latents({"text_ratio": 0.2}, image_only)
    check_latents({"text_ratio": 0.0, "image_ratio": 0.1}, image_only)
    check_latents({}, image_only)
    check_latents({"text_ratio": 0.2}, FakeModel.capabilities)
