"""Errors that a user can mend: what was given, what is allowed, what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MilrError(Exception):
    """The base of all errors that the command line shows as one line, exit code 2."""


class UsageError(MilrError):
    """Something given is not allowed; the message says what is."""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """An error for a wrong name, with the nearest right one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")
