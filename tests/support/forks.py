"""Python programs that run in forks of one process.

A Python that starts `milr` spends seconds on importing torch and transformers. The server here has imported them, and
runs each program in a fork of itself, with the caller's arguments, folder, environment and open files. The caller is
a small program, `python`, that passes signals on and ends as its program ends: where it is killed, its program is
killed too.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

IMPORTS = (
    *("milr.cli.main", "milr.models.janus", "milr.models.absent", "milr.models.deepseek_layout", "milr.methods.milr"),
    *("milr.methods.runner", "milr.benchmarks.runner", "milr.rewards.icons.reward", "milr.rewards.vlm.client"),
    *("milr.rewards.geneval.rules", "milr.runs.packing", "milr.report.page", "scipy.stats", "httpx2", "jinja2"),
    *("transformers.models.janus.modeling_janus", "transformers.models.llama.modeling_llama", "PIL.PngImagePlugin"),
    *("filelock", "openai", "stamina"),
)
"""Modules that most commands import late."""

PYTHON = "python"
"""Name of the caller."""

MANY = 256
"""A number above all file descriptors of the server or a caller."""

CALLER = """#!{python}
import json, os, signal, socket, sys

if os.getuid() != {uid}:  # the first program of another user imports everything as that user
    try:
        open(f"{address}-{{os.getuid()}}", "x").close()
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    except FileExistsError:
        pass
files = []
for name in os.listdir("/proc/self/fd"):  # a shell's <(...) is one too
    if os.path.exists("/proc/self/fd/" + name):
        files.append(int(name))
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    request = {{"words": sys.argv[1:], "folder": os.getcwd(), "files": files, "surroundings": dict(os.environ)}}
    request["user"] = os.getuid()
    body = json.dumps(request).encode()
    socket.send_fds(server, [len(body).to_bytes(8, "big")], files)
    server.sendall(body)
    answers = server.makefile()
    program = int(answers.readline())

    def pass_on(number, frame):
        try:
            os.kill(program, number)
        except ProcessLookupError:  # its answer is on the way
            pass

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = int(answers.readline())
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""

MODULE = """#!{python}
import runpy

runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""


class ForkServer:
    """The server's process; its callers, which are small programs, are in a folder with a short path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = folder / "server"
        surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__, str(self.address)]
        self._process = subprocess.Popen(
            command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        text = CALLER.format(python=sys.executable, uid=os.getuid(), address=self.address)
        self.python = self._write(PYTHON, text)
        """The program to use in the place of `sys.executable`."""

    def caller(self, name: str, module: str) -> Path:
        """Return a program with this name that runs the module as ``python -m`` does."""
        program = self.folder / name
        return program if program.exists() else self._write(name, MODULE.format(python=self.python, module=module))

    def _write(self, name: str, text: str) -> Path:
        program = self.folder / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return program

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


def serve(address: str) -> None:
    """Run one program per caller, until standard input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background would ignore it
    for name in IMPORTS:
        importlib.import_module(name)
    sys.executable = str(Path(address).with_name(PYTHON))  # programs that a program starts are forks too
    spawn.set_executable(sys.executable)
    # programs ask a failing judge as often as always, and do not wait in between
    importlib.import_module("stamina").set_testing(True, attempts=100, cap=True)
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door, selectors.DefaultSelector() as selector:
        door.bind(address)
        door.listen(64)
        selector.register(door, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            (key, _), *_ = selector.select()  # one event at a time, because each may close the files of others
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is door:
                _begin(door, selector)
            else:
                _end(key, selector)


def _begin(door: socket.socket, selector: selectors.BaseSelector) -> None:
    """Start the caller's program; wait until the caller or the program ends."""
    caller, _ = door.accept()
    head, files, _, _ = socket.recv_fds(caller, 8, 64)
    body = caller.makefile("rb").read(int.from_bytes(head, "big"))
    process = os.fork()
    if not process:
        selector.close()
        for one in (door, caller):
            one.close()
        _run(json.loads(body), files)
    for file in files:
        os.close(file)
    with suppress(BrokenPipeError):
        caller.sendall(f"{process}\n".encode())
    ended = os.pidfd_open(process)
    selector.register(caller, selectors.EVENT_READ, (process, caller, ended))
    selector.register(ended, selectors.EVENT_READ, (process, caller, ended))


def _end(key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
    """Tell a caller how its program ended; kill the program if its caller is gone."""
    process, caller, ended = key.data
    if key.fileobj is caller:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with suppress(BrokenPipeError):
        caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    selector.unregister(caller)
    selector.unregister(ended)
    caller.close()
    os.close(ended)


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run a program as the caller's process would, then exit."""
    if request["user"] != os.getuid():
        os.setresuid(request["user"], -1, -1)  # the real user; files are opened as the server's
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["surroundings"])
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, MANY) for file in files]
    os.closerange(3, MANY)
    for file, number in zip(apart, request["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout = _open_stream(1)
    sys.stderr = _open_stream(2)
    code = 1
    try:
        _run_words(request["words"])
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # pyright: ignore  # as the interpreter does: it waits for the threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:  # as the tracker of multiprocessing's resources does
                stream.flush()
        os._exit(code & 0xFF)


def _run_words(words: Sequence[str]) -> None:
    """Do what Python does with these words of its command line: a file, ``-m``, ``-c`` or ``-``, after its options."""
    safe_path = False
    while words[0].startswith("-") and words[0] not in ("-", "-c", "-m"):
        safe_path = safe_path or words[0] == "-P"
        words = words[2:] if words[0] in ("-W", "-X") else words[1:]
    what, *rest = words
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in added if path and path not in sys.path]
    if what == "-m":
        module, *rest = rest
        sys.argv = [what, *rest]
        sys.path[:0] = [] if safe_path else [os.getcwd()]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif what in ("-c", "-"):
        code, *rest = rest if what == "-c" else (sys.stdin.read(), *rest)
        sys.argv = [what, *rest]
        sys.path[:0] = [] if safe_path else [""]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    else:
        sys.argv = [what, *rest]
        sys.path[:0] = [] if safe_path else [str(Path(what).resolve().parent)]
        runpy.run_path(what, run_name="__main__")


def _open_stream(number: int) -> io.TextIOWrapper:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED")) or number == 2
    stream = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(stream, "utf-8", errors, line_buffering=unbuffered or os.isatty(number))


if __name__ == "__main__":
    serve(sys.argv[1])
