"""A model that lacks latents: ratios asked for are refused, defaults become a note."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milr import search
from milr.errors import UsageError
from milr.models.absent import check_latents
from milr.testing import FakeModel, FakeReward
from milr.types import Task


@pytest.mark.parametrize(("there", "absent"), [("image", ["text"]), ("text", ["image"]), ("none", ["text", "image"])])
def test_a_search_moves_what_there_is_and_says_what_there_is_not(there: str, absent: list[str]) -> None:
    model = FakeModel()
    model.capabilities = replace(model.capabilities, latents=there)
    settings = model.settings("milr", steps=2, text_ratio=0.5, image_ratio=0.2, stop_at=1.0)
    records = list(search([Task(prompt="two dogs")], model, FakeReward(), settings))
    assert records[0].notes == tuple(f"{name}: this model has no {name} latents, so none move" for name in absent)
    assert not any(record.notes for record in records[1:])
    first, *later = [record.trace for record in records]
    assert first is not None
    assert (first.text_latents == 0) == ("text" in absent)
    assert (first.image_latents == 0) == ("image" in absent)
    for trace in later:
        assert trace is not None and not set(absent) & set(trace.moved)
        assert trace.moved or there == "none"


def test_a_ratio_that_was_asked_for_in_vain_is_refused() -> None:
    image_only = replace(FakeModel.capabilities, latents="image")
    with pytest.raises(UsageError, match="text_ratio 0.2: this model has no text latents"):
        check_latents({"text_ratio": 0.2}, image_only)
    check_latents({"text_ratio": 0.0, "image_ratio": 0.1}, image_only)
    check_latents({}, image_only)
    check_latents({"text_ratio": 0.2}, FakeModel.capabilities)
