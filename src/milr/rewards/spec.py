"""Reward names with arguments: ``icons``, ``gpt-4o:p-yes``, ``mix:icons-soft*0.7+self*0.3``, ``http://host/path``.

The name of code, ``package.module:attribute`` or ``./file.py:attribute``, has a colon itself: its argument comes after
the second one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from milr.errors import UsageError
from milr.registry import Entry, check_stored, find, is_code, is_named, split_code

MIX_FORM = "write mix:NAME*WEIGHT+NAME*WEIGHT, for instance mix:icons-soft*0.7+self*0.3"
_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class MixPart:
    """One part of a mix."""

    name: str
    """A reward's name, with its argument."""
    weight: float
    """Above 0, as given."""


def split_name(text: str, table: Mapping[str, Entry]) -> tuple[str, str | None]:
    """Split a name into the name and its argument, the text after the first colon, or None.

    A URL as a whole is the argument of ``http``. The argument of code comes after its second colon, unless milr or an
    installed package has the name before the first one.

    Args:
        text: The text as a user writes it.
        table: milr's own names.
    """
    base, colon, argument = text.partition(":")
    if base.lower() in _SCHEMES:
        return "http", text
    if is_code(text) and not is_named("reward", base, table):
        return split_code(text)
    return base, argument if colon else None


def parse_mix(argument: str | None) -> tuple[MixPart, ...]:
    """Return the parts of a mix.

    Args:
        argument: The text after ``mix:``. A missing weight is 1. A plus sign inside a URL is written %2B, because a
            bare one ends the part.

    Raises:
        UsageError: Names the part that cannot be read.
    """
    if not argument:
        raise UsageError(f"the reward 'mix' names no parts: {MIX_FORM}")
    parts: list[MixPart] = []
    for place, written in enumerate(argument.split("+"), start=1):
        where = f"part {place} of 'mix:{argument}', {written!r},"
        name, star, weight = written.strip().rpartition("*")
        if not star:
            name, weight = weight, "1"
        if not name.strip():
            raise UsageError(f"{where} names no reward: {MIX_FORM}")
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight.strip()) or not 0 < float(weight) < math.inf:
            raise UsageError(f"{where} has the weight {weight!r}: give a number above 0; {MIX_FORM}")
        if name.strip().partition(":")[0] == "mix":
            raise UsageError(f"{where} is a mix itself: write its parts out; {MIX_FORM}")
        parts.append(MixPart(name.strip(), float(weight)))
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is twice in 'mix:{argument}': give it once, with the sum of its weights")
    return tuple(parts)


def check_name(text: str, table: Mapping[str, Entry]) -> None:
    """Refuse a name that no reward of the table has, before anything is loaded.

    Raises:
        UsageError: Names the part.
    """
    base, argument = split_name(text, table)
    find("reward", base, table)
    for part in parse_mix(argument) if base == "mix" else ():
        try:
            check_name(part.name, table)
        except UsageError as error:
            raise UsageError(f"in {text!r}: {error}") from None


def list_parts(text: str, table: Mapping[str, Entry]) -> list[str]:
    """Return the names of a mix's parts with their arguments; for any other reward its own name.

    Raises:
        UsageError: The mix cannot be read.
    """
    base, argument = split_name(text, table)
    return [part.name for part in parse_mix(argument)] if base == "mix" else [text]


def check_stored_name(text: str, table: Mapping[str, Entry], where: object, typed: Collection[str] = ()) -> None:
    """Refuse code in a reward's name or in parts of a mix that the user did not type: see `check_stored`."""
    for part in [] if text in typed else list_parts(text, table):
        check_stored("reward", split_name(part, table)[0], table, where, typed)
