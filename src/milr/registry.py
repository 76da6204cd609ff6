"""Lazy tables of names: a model or a reward is one file and one line, imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from milr.errors import unknown_name


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    target: str
    """The object's place: "package.module:Name"."""
    summary: str
    """What it is, in one line, for `milr info`."""


def find(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Return the entry of that name; imports nothing.

    Raises:
        UsageError: No entry has it; names the nearest.
    """
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def load(entry: Entry) -> Any:
    """Import the entry's module and return the object that it names."""
    module, _, attribute = entry.target.partition(":")
    return getattr(import_module(module), attribute)
