"""Hooks on every change to the file system, so that a test can stop a program before any of them."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_CHANGES = ("mkdir", "replace", "rename", "unlink", "remove", "rmdir", "truncate", "symlink", "link")


@contextmanager
def watch(on_event: Callable[[str, object, bytes], None]) -> Iterator[None]:
    """Call a function before each change: folders, names, files opened for writing, and writes.

    Args:
        on_event: Gets the kind, the path and, for a write, the bytes; what it raises comes out of the change.
    """
    real_open, real_os_open = io.open, os.open

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            on_event("write", self.name, bytes(content))
            return super().write(content)

    def open_file(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(file, int) or options.get("opener"):
            return real_open(file, mode, *rest, **options)
        on_event("open", file, b"")
        raw = File(os.fspath(file), mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, options.get("encoding") or "utf-8", newline=options.get("newline"))

    def os_open(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            on_event("open", path, b"")
        return real_os_open(path, flags, *rest, **options)

    def change(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(path: Any, *rest: Any, **options: Any) -> Any:
            on_event(name, path, b"")
            return real(path, *rest, **options)

        return changed

    changes = {name: change(name, getattr(os, name)) for name in _CHANGES}
    with (
        patch.object(io, "open", open_file),
        patch.object(builtins, "open", open_file),
        patch.multiple(os, open=os_open, **changes),
    ):
        yield


def run_killed(work: Callable[[], object], before: int) -> bool:
    """Do some work in a process that is killed before a change; return true if it reached that change.

    Args:
        work: Done in a fork of this process.
        before: Which of the changes, from 0. A write that is cut by the kill has half of its bytes on the disk.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED
    seen = 0
    write = os.write

    def kill(kind: str, path: object, content: bytes) -> None:
        nonlocal seen
        if seen == before:
            if kind == "write":
                with suppress_all():
                    descriptor = os.open(os.fspath(path), os.O_WRONLY | os.O_APPEND)  # type: ignore[call-overload]
                    write(descriptor, content[: len(content) // 2])
            os._exit(_KILLED)
        seen += 1

    code = 1
    try:
        with watch(kill):
            work()
        code = 0
    finally:
        os._exit(code)
    return False


_KILLED = 9


@contextmanager
def suppress_all() -> Iterator[None]:
    """Ignore every error, because the process is about to die."""
    try:
        yield
    except Exception:
        return


@contextmanager
def full_disk(after: int) -> Iterator[list[str]]:
    """Let every change fail with "no space left", starting at one of them; names can still be removed.

    Args:
        after: How many changes succeed.

    Yields:
        The changes that failed, as "kind path".
    """
    seen = 0
    failed: list[str] = []

    def refuse(kind: str, path: object, content: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen > after and kind not in ("unlink", "remove", "rmdir", "replace", "rename"):
            failed.append(f"{kind} {path}")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with watch(refuse):
        yield failed
