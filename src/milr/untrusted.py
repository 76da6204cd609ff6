"""Safe readers of untrusted input: files that others wrote, replies of servers, text of either.

The functions read a bounded number of bytes, keep paths below their root, and make text safe to print.
"""

from __future__ import annotations

import lzma
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from milr.errors import say_reason

MOST_BYTES = 32 * 2**20
"""Most bytes of one file that is read whole: a hundred times those of milr's runs. A JSON text of numbers takes up to
twenty times its bytes while it is read."""
MOST_LINE = 16 * 2**20
"""Most bytes of one line of a packed file."""
MOST_UNPACKED = 2**29
"""Most bytes of a packed file after unpacking."""
_FREE, _MOST_RATIO = 2**24, 100
"""Bytes that any packed file may unpack to, and how many more for each of its own: milr's runs have up to 56."""
MOST_PACKED = 256 * 2**20
"""Most bytes of a packed file on the disk."""
MOST_WORDS = 2000
"""Most characters of foreign text that are printed or kept."""
_PIECE = 2**18
_UNSEEN = frozenset("\u061c\u200e\u200f\u2028\u2029\ufeff\ufff9\ufffa\ufffb") | {
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080))
}
"""Characters that change how the text around them is shown."""


class UntrustedError(ValueError):
    """The error for a file or reply that is refused; the message gives the reason in one line."""


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: A device or a pipe, which may never end, is refused.
        most: Bytes that it may have.

    Raises:
        UntrustedError: It is longer, or no regular file.
        OSError: It cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError("it is no regular file")
        content = file.read(min(most, status.st_size) + 1)  # as much memory as the file needs
    if len(content) > most:
        raise UntrustedError(f"it has more than {most:,} bytes")
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait for one


def read_packed_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of text under LZMA, unpacked piece by piece: a small file may unpack to terabytes.

    Args:
        path: In xz's format.

    Raises:
        UntrustedError: It is another kind of file, it was cut off, or a line or the file is far too long.
        OSError: It cannot be read.
    """
    whole = 0
    begun: list[bytes] = []
    length = 0
    content = read_file(path, MOST_PACKED)
    most = min(MOST_UNPACKED, _FREE + _MOST_RATIO * len(content))
    for piece in _unpack(content):
        whole += len(piece)
        if whole > most:
            raise UntrustedError(f"it unpacks to more than {most:,} bytes")
        first, *rest = piece.split(b"\n")
        for line in rest:
            yield b"".join((*begun, first))
            begun, length, first = [], 0, line
        begun.append(first)
        length += len(first)
        if length > MOST_LINE:
            raise UntrustedError(f"it has a line of more than {MOST_LINE:,} bytes")
    if any(begun):
        yield b"".join(begun)


def _unpack(content: bytes) -> Iterator[bytes]:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_PACKED)
    try:
        yield decoder.decompress(content, _PIECE)
        while not decoder.eof:
            piece = decoder.decompress(b"", _PIECE)
            if not piece and decoder.needs_input:
                raise UntrustedError("it was cut off")
            yield piece
    except lzma.LZMAError as error:
        raise UntrustedError(str(error)) from error


def resolve_inside(root: Path, path: Path | str) -> Path:
    """Return where a path below a root leads, with every link followed.

    Args:
        root: A folder; it may be a link itself.
        path: From the root. It need not exist.

    Raises:
        UntrustedError: It leads out of the root: by `..`, as an absolute path, or by a link.
    """
    base = root.resolve()
    try:
        found = (base / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL
        raise UntrustedError(f"{printable(str(path), 80)!r} leads nowhere") from error
    if found == base or not found.is_relative_to(base):
        raise UntrustedError(f"{printable(str(path), 80)!r} leads out of {root}")
    return found


def printable(text: str, longest: int | None = None) -> str:
    """Return untrusted text in printable form: characters that control a terminal or hide text become their codes.

    Args:
        text: Any; line ends and tabs stay.
        longest: Characters that are kept, the rest becomes "..."; None keeps all.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: max(0, longest - 3)]}..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_show, text))


def _show(sign: str) -> str:
    if sign in "\n\t" or (sign.isprintable() and sign not in _UNSEEN):
        return sign
    if sign in _UNSEEN or ord(sign) < 0x20 or 0x7F <= ord(sign) < 0xA0 or 0xD800 <= ord(sign) < 0xE000:
        return f"\\x{ord(sign):02x}" if ord(sign) < 0x100 else f"\\u{ord(sign):04x}"
    return sign  # blanks of other widths, and characters of a newer Unicode


def one_line(text: str, longest: int = MOST_WORDS) -> str:
    """Return foreign words on one line, as `printable` shows them, cut where they are long."""
    return printable(" ".join(text[: 4 * longest].split()), longest)


def keep_plain(value: object, clean: Callable[[str], str], *, most: int = 1000, depth: int = 8) -> object:
    """Return foreign JSON with clean words in it.

    Args:
        value: The value from a JSON reader.
        clean: Makes a string fit to be kept.
        most: Values that it may hold, all levels together.
        depth: Levels that it may have.

    Raises:
        UntrustedError: It has more of either, or is not JSON.
    """
    left = most

    def keep(one: object, depth: int) -> object:
        nonlocal left
        left -= 1
        if left < 0 or depth < 0:
            raise UntrustedError(f"it holds more than {most:,} values" if left < 0 else "it is too deep")
        if isinstance(one, str):
            return clean(one)
        if one is None or isinstance(one, bool | int | float):
            return one
        if isinstance(one, list):
            return [keep(each, depth - 1) for each in cast("list[object]", one)]
        if isinstance(one, dict):
            entries = cast("dict[object, object]", one)
            return {clean(str(name)): keep(each, depth - 1) for name, each in entries.items()}
        raise UntrustedError(f"it holds a {type(one).__name__}")

    return keep(value, depth)


def first_fault(error: ValidationError) -> str:
    """Return where a model refuses its data, and why, in one line; the data itself is left out."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"][:6]))
    reason = say_reason(first)
    return one_line(f"{where}: {reason}" if where else reason, 200)
