"""Options in a model's name: ``family:NAME,key=value,...``."""

from __future__ import annotations

from collections.abc import Collection

from milr.errors import UsageError, unknown_name

_DIGITS = 5
"""Most digits of a number of pixels."""


def read_arguments(
    family: str, argument: str | None, known: Collection[str], *, nameless: str
) -> tuple[str, dict[str, str]]:
    """Split ``NAME,key=value,...``, which follows ``family:``, into the name and its options.

    Raises:
        UsageError: There is no name (with the message `nameless`), or an option without a value or not among the known.
    """
    name, *options = (argument or "").split(",")
    found: dict[str, str] = {}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign or not value.strip():
            raise UsageError(f"{option!r} is no option of a model's name: write key=value, for instance size=512")
        found[key.strip()] = value.strip()
    if not name.strip():
        raise UsageError(nameless)
    for key in found:
        if key in ("width", "height") and "size" in known:
            raise UsageError(f"{key}={found[key]}: give both in one, size=WIDTHxHEIGHT, such as size=1024x768")
        if key not in known:
            raise unknown_name(f"option of {family}:", key, known)
    return name.strip(), found


def read_size(text: str) -> tuple[int, int] | None:
    """Read a size in pixels: "512", a side of a square, or "768x512", width and height; None if it is neither."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(one.isascii() and one.isdecimal() and len(one) <= _DIGITS for one in sides):
        return None
    width, height = int(sides[0]), int(sides[-1])
    return (width, height) if width and height else None


def write_size(size: tuple[int, int]) -> str:
    """Write a size as `read_size` reads it: "512" for a square, else "768x512"."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
