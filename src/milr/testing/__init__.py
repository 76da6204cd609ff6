"""Fakes for tests of plug-ins and of milr itself: no weights, no network."""

from milr.testing.fakes import FakeModel, FakeReward, brightness, fake_drawing, fake_records, fake_score, read_tokens

__all__ = ["FakeModel", "FakeReward", "brightness", "fake_drawing", "fake_records", "fake_score", "read_tokens"]
