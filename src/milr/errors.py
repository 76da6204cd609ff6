"""Errors that a user can fix: what was given, what is allowed, what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class MilrError(Exception):
    """The base of all errors that the command line shows as one line."""

    exit_code = 2
    """Exit code of a command that ends with it."""

    def extend(self, more: str) -> MilrError:
        """Return the error with more words after its own, and with its exit code."""
        extended = MilrError(f"{self}{more}")
        extended.exit_code = self.exit_code
        return extended


class UsageError(MilrError):
    """The error for a value that is not allowed; the message lists the allowed ones."""


_MOST_SHOWN = 200
"""Most characters of an unknown name that its error shows."""
_RENAMED = {"wise-verified": "wise"}
"""Name of earlier versions -> its name now."""


def unknown_name(kind: str, given: str, allowed: Iterable[str], also: str = "") -> UsageError:
    """Return the error for an unknown name, with its new name or the nearest known one.

    Args:
        kind: Kind of the name.
        given: The unknown name.
        allowed: The known names.
        also: Words after the known names, for what else may be typed.
    """
    names = sorted(allowed)
    renamed = _RENAMED.get(given)
    if renamed in names:
        return UsageError(f"the {kind} {given!r} is called {renamed!r} now: type {renamed}")
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = given if len(given) <= _MOST_SHOWN else f"{given[:_MOST_SHOWN]}..."
    listed = (repr(name) if "," in name or " " in name else name for name in names)  # as it must be typed
    return UsageError(f"unknown {kind} {shown!r}: {hint}known: {', '.join(listed)}{also}")


_REASONS = {
    "int_parsing": "must be an integer",
    "int_type": "must be an integer",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table of names and values",
    "missing": "is missing",
    "extra_forbidden": "is unknown",
}
"""Pydantic's type of a fault -> the reason in plain words."""


def say_reason(fault: Mapping[str, Any]) -> str:
    """Return why pydantic refused a value, in words that go after the value's name.

    Args:
        fault: One of `ValidationError.errors()`.
    """
    message = str(fault["msg"]).removeprefix("Value error, ")
    return _REASONS.get(str(fault["type"]), message.replace("Input should", "must"))
