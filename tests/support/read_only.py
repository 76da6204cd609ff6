"""Folders that cannot be written to, for root too: work in a child process that has given up the right."""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

_NEW_NAMES, _READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
_VERSION, _MAY_WRITE_ANYWHERE = 0x20080522, 1  # linux/capability.h: version 3, CAP_DAC_OVERRIDE


def run_apart(work: Callable[[], Any]) -> Any:
    """Do some work in a fork of this process, and return its result; skip the test if it raises `pytest.skip`."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        torch.set_num_threads(1)  # the threads of this process are not in its fork
        try:
            found: Any = ("done", work())
        except pytest.skip.Exception as reason:
            found = ("skip", str(reason))
        except BaseException:
            found = ("failed", traceback.format_exc())
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        kind, found = pickle.load(pipe)
    os.waitpid(child, 0)
    if kind == "skip":
        pytest.skip(found)
    assert kind == "done", found
    return found


def mount_read_only(folder: Path) -> None:
    """Make a folder read-only for this process alone: a read-only mount of it, in namespaces of its own."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: a mount that one process sees")
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(folder)
    for call in (
        lambda: libc.unshare(_NEW_NAMES),
        lambda: libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None),
        lambda: libc.mount(place, place, None, _BIND, None),
        lambda: libc.mount(place, place, None, _BIND | _REMOUNT | _READ_ONLY, None),
    ):
        if call():
            pytest.skip(f"this user may not mount a folder read-only ({os.strerror(ctypes.get_errno())})")


def forbid_writing(folder: Path) -> None:
    """Take a folder's and its files' permission to be written to; as root, give up the right to write all the same."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid():
        return
    if sys.platform != "linux":
        pytest.skip("root may write anywhere, and only Linux lets it give this up: run the tests as another user")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        pytest.skip(f"no capabilities here ({os.strerror(ctypes.get_errno())}): run the tests as another user")
    for place in range(3):  # effective, permitted, inheritable, each in two words
        sets[place] &= ~(1 << _MAY_WRITE_ANYWHERE)
    if libc.capset(header, sets):
        pytest.skip(f"root keeps its rights here ({os.strerror(ctypes.get_errno())}): run the tests as another user")


WAYS: dict[str, Callable[[Path], None]] = {"read-only disk": mount_read_only, "no permission": forbid_writing}
