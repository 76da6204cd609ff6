"""Fakes for tests of plug-ins and of milr itself: no weights, no network."""

from milr.testing.fakes import FakeModel, FakeReward, brightness, fake_records, fake_sample, fake_score, read_tokens

__all__ = ["FakeModel", "FakeReward", "brightness", "fake_records", "fake_sample", "fake_score", "read_tokens"]
