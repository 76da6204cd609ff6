"""Atomic writing of files: an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from milr.errors import UsageError

PART = ".part"
LOCK = "lock"
"""Name of the lock file of a folder."""
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def find_cache(variable: str) -> Path:
    """Return the folder for files that milr keeps between runs: `~/.cache`, or XDG_CACHE_HOME.

    Args:
        variable: The environment variable that overrides the folder, for the error.

    Raises:
        UsageError: There is no home folder: no HOME, and no entry for this user among the machine's accounts.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise UsageError(f"this user has no home folder: set {variable} (or HOME) to a folder for such files") from None


@contextmanager
def hold(folder: Path, refuse: Callable[[], Exception], *, name: str = LOCK, patience: float = 0.0) -> Generator[None]:
    """Lock a folder against other processes. The operating system releases the lock when this process ends.

    Args:
        folder: An existing folder.
        refuse: Error to raise if another process holds the lock.
        name: Name of the lock file.
        patience: Seconds to wait for a process that holds it.
    """
    if (folder / name).is_symlink():
        raise UsageError(f"{folder / name} is a link, and a process that locks it would change another file: remove it")
    lock = FileLock(folder / name, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise refuse() from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str, *, asked: bool = False) -> None:
    """Write UTF-8 text with its own line ends; see `write_bytes`."""
    write_bytes(path, text.encode(), asked=asked)


def write_bytes(path: Path, content: bytes, *, asked: bool = False) -> None:
    """Write under a temporary name, flush to the disk, then rename.

    Args:
        path: A link in its place is replaced: in a folder from elsewhere it may lead to any file.
        content: The whole content.
        asked: The user typed the path. Then a link is followed, and a device or a pipe is written to directly, because
            a file in its place would break other programs.
    """
    if asked and is_device(path):
        with path.open("wb") as file:
            file.write(content)
        return
    path = path.resolve() if asked else path
    fresh = path.with_name(f"{path.name}{PART}")
    fresh.unlink(missing_ok=True)
    with fresh.open("xb") as file:  # never through an existing link
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    flush(path.parent)


def is_device(path: Path) -> bool:
    """Return true if a path is written to directly; /dev/stdout may lead to a regular file, /dev/shm holds files."""
    place = path.absolute()
    in_dev = place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")
    return path.exists() and (in_dev or not (path.is_file() or path.is_dir()))


def move(fresh: Path, path: Path) -> None:
    """Rename a file or folder after flushing it, and everything in it, to the disk."""
    for one in (fresh, *(fresh.rglob("*") if fresh.is_dir() else ())):
        flush(one)
    os.replace(fresh, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk, if the file system supports it."""
    try:
        held = os.open(path, os.O_RDONLY)
    except OSError:  # a folder, on Windows
        return
    try:
        os.fsync(held)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(held)
