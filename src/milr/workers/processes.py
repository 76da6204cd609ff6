"""The backend of processes on this machine.

A worker is a new Python process with one end of a socket pair. The program that started it is not imported again, so a
script needs no main guard. A worker ends itself when the other end is closed, however the coordinator ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread

from milr.workers.messages import Command, Died, Message, Spec, Stop

_PATIENCE = 5.0  # seconds for workers to end by themselves


class Process:
    """A worker process. Implements `milr.workers.backend.Handle`."""

    def __init__(self, spec: Spec, number: int, environment: Mapping[str, str]) -> None:
        """Start it."""
        self.pipe, other = Pipe(duplex=True)
        # -P: nothing of the working folder is imported that this process would not import
        words = [sys.executable, "-P", "-c", f"from {__name__} import main; main({other.fileno()})"]
        paths = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            words,
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdin=subprocess.DEVNULL,
        )
        other.close()
        self.where = f"worker {number + 1} (process {self.process.pid})"
        self.over = False
        self._lock = Lock()
        self.send_object(spec)

    def send(self, command: Command) -> None:
        """See `Handle`."""
        self.send_object(command)

    def send_object(self, what: Spec | Command) -> None:
        """Send anything; a process that is gone gets nothing."""
        with self._lock, contextlib.suppress(OSError):
            self.pipe.send(what)

    def end(self) -> Died:
        """Return how it died, once its pipe is closed."""
        self.over = True
        try:
            code = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.pipe.close()
        how = f"was killed by signal {-code} ({_name(-code)})" if code < 0 else f"ended with exit code {code}"
        return Died(f"{self.where} {how}")


class Processes:
    """Worker processes. Implements `milr.workers.backend.Backend`."""

    def __init__(self, count: int, environments: Sequence[Mapping[str, str]]) -> None:
        """Prepare.

        Args:
            count: Number of workers.
            environments: Variables of each worker: its GPUs, its threads.
        """
        self.count, self._environments = count, environments
        self._all: list[Process] = []

    def start(self, spec: Spec, number: int) -> Process:
        """See `Backend`."""
        self._all = [one for one in self._all if not one.over]
        process = Process(spec, number, self._environments[number])
        self._all.append(process)
        return process

    def receive(self, seconds: float) -> list[tuple[Process, Message]]:
        """See `Backend`: one message of each worker that has sent any."""
        pipes = {one.pipe: one for one in self._all if not one.over}
        received: list[tuple[Process, Message]] = []
        for pipe in wait(list(pipes), seconds):
            process = pipes[pipe]  # pyright: ignore[reportArgumentType]
            try:
                received.append((process, process.pipe.recv()))
            except (EOFError, OSError):
                received.append((process, process.end()))
        return received

    def close(self) -> None:
        """See `Backend`: first all workers are told to end, then those that continue are killed."""
        open_ones = [one for one in self._all if not one.over]
        for one in open_ones:
            one.over = True
            one.send(Stop())
            one.pipe.close()  # a worker that waits for its messages to be read ends by that
        for one in open_ones:
            try:
                one.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        self._all = []


def _name(number: int) -> str:
    return signal.Signals(number).name if number in {one.value for one in signal.Signals} else "unknown"


def main(descriptor: int) -> None:
    """Be a worker: read the spec, then commands, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the coordinator decides
    pipe = Connection(descriptor)
    spec: Spec = pipe.recv()
    from milr.workers.worker import Worker

    worker = Worker(spec, pipe.send)

    def read() -> None:
        try:
            while not isinstance(command := pipe.recv(), Stop):
                worker.take_command(command)
        except (EOFError, OSError):  # the coordinator is gone
            pass
        except BaseException:
            traceback.print_exc()
        os._exit(0)  # nothing here is worth a moment more

    Thread(target=read, daemon=True).start()
    try:
        worker.run()
    except OSError:  # the coordinator is gone
        os._exit(0)
