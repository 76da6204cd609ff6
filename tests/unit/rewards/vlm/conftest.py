"""Fixtures of the tests of VLM judges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from milr.rewards.vlm.client import VlmClient


@pytest.fixture
def clients() -> Iterator[list[VlmClient]]:
    """Return a test's clients, which are closed after it."""
    made: list[VlmClient] = []
    yield made
    for client in made:
        client.close()
