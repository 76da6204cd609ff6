"""Writing files so that a kill leaves the old one or the new one, never half of one."""

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
"""The file by which one process holds a folder."""
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def find_cache(variable: str) -> Path:
    """Return the folder for what milr keeps for its user between runs: `~/.cache`, or what XDG_CACHE_HOME says.

    Args:
        variable: The environment's variable that names a folder in its place, for the error.

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
    """Keep other processes out of a folder. The operating system lets go of it when this process ends, however that is.

    Args:
        folder: It exists.
        refuse: What is raised where another process holds it.
        name: Of the lock's file: what is held is the folder, or what in it goes by that name.
        patience: Seconds to wait for a process that holds it.
    """
    lock = FileLock(folder / name, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise refuse() from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, its line ends as they are; as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename; what is written is on the disk before it gets its name.

    A link is followed. What is there and no regular file (a device, a pipe) is written to, for a file in its place
    would take it from everybody.
    """
    if _is_device(path):
        with path.open("wb") as file:
            file.write(content)
        return
    path = path.resolve()
    fresh = path.with_name(f"{path.name}{PART}")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    flush(path.parent)


def _is_device(path: Path) -> bool:
    """Return whether a path is written to as it is; /dev/stdout may well lead to a regular file."""
    return path.exists() and (not (path.is_file() or path.is_dir()) or path.absolute().is_relative_to("/dev"))


def move(fresh: Path, path: Path) -> None:
    """Give a file or folder another name, once it and all that is in it are on the disk."""
    for one in (fresh, *(fresh.rglob("*") if fresh.is_dir() else ())):
        flush(one)
    os.replace(fresh, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; where a file system cannot tell, go on."""
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
