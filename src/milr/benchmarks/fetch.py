"""Download of a benchmark's prompt files from the authors' servers. Only files with the known hash are kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2  # which huggingface_hub brings

from milr.errors import MilrError, UsageError
from milr.files import PART
from milr.proxies import check_proxies
from milr.sources import DataFile, Source
from milr.weights import hash_file

MOST_BYTES = 20_000_000
"""Most bytes of a file: far more than any of the files has."""
SECONDS = 60.0
"""Longest time in seconds without a byte from the server."""
WHOLE_SECONDS = 600.0
"""For a whole file, however slowly it comes."""
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class FetchError(MilrError):
    """The error for a file that could not be fetched; nothing of it is kept, and earlier files stay."""

    exit_code = 1


def fetch(source: Source, folder: Path, address: str | None = None) -> Iterator[tuple[DataFile, bool]]:
    """Fetch the missing files one by one.

    Args:
        source: Source of the benchmark.
        folder: Folder for the files; made if it is missing.
        address: Another server with the same files, a mirror.

    Yields:
        Each file, and whether it was fetched; False if the correct file was there already.

    Raises:
        UsageError: The address is neither https nor on this machine, or the folder cannot be written.
        FetchError: The server does not give the file, or gives a different one.
    """
    base = _check_address(address or source.address)
    check_proxies()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make {folder} ({error.strerror}): give --out a folder that you may write to"
        ) from error
    for file in source.all_files:
        path = folder / file.name
        fresh = not path.is_file() or hash_file(path) != file.sha256
        if fresh:
            _fetch_file(f"{base}/{quote(file.path)}", path, file.sha256)
        yield file, fresh


def _check_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _THIS_MACHINE):
        raise UsageError(f"--from {address}: give an address that begins with https://")
    return address.rstrip("/")


def _read_address(address: str) -> bytes:
    """Return a server's reply, up to a file's largest size, through the environment's proxies."""
    content = b""
    until = time.monotonic() + WHOLE_SECONDS
    with httpx2.stream("GET", address, timeout=SECONDS, follow_redirects=True) as answer:
        if answer.status_code != 200:
            raise OSError(f"{answer.status_code} {answer.reason_phrase}")
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                break
            if time.monotonic() > until:
                raise OSError(f"it has not ended after {WHOLE_SECONDS:g} s")
    return content


def _fetch_file(address: str, path: Path, sha256: str) -> None:
    try:
        content = _read_address(address)
    except (httpx2.HTTPError, OSError) as error:
        raise FetchError(
            f"cannot fetch {address} ({error}): try again later, or fetch it by hand into {path}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise FetchError(
            f"{address} gave {len(content):,} bytes that are not the known file (SHA-256 {found[:16]}..., expected "
            f"{sha256[:16]}...): nothing was kept"
        )
    fresh = path.with_name(path.name + PART)
    try:
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): make room, or give another --out") from error
