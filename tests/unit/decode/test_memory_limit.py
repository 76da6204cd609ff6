"""Searches under a real limit of address space (`ulimit -v`), each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from milr.models import embedded_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit of address space"),
    pytest.mark.skipif(not embedded_folder().is_dir(), reason="no embedded model: `make train` makes one"),
]

PROGRAM = """
import json, os, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import milr.decode.engine
import milr.runs.writer as writer
from milr import load_model, search, tasks_from_prompts
from milr.cli.main import main
from milr.errors import MilrError
from milr.testing import FakeReward

def limit(more):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))

def run(rows, room, blind, after):
    if blind:  # free memory is unknown: memory really runs out
        milr.decode.engine.fitting = lambda *_: None
    found, error = [], None
    if room and not after:
        limit(room)
    try:
        for record in search(tasks, model, FakeReward(), steps=0, batch_size=rows):
            found.append(record.best.tokens)
            if after and len(found) == after:
                limit(room)
    except MilrError as raised:
        error = str(raised)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    return {"found": found, "error": error, "batches": batches}

def generate(folder):
    write = writer.RunWriter.write
    def limited(self, record, *more):
        found = write(self, record, *more)
        if record.finished:
            limit(2**20)
        return found
    writer.RunWriter.write = limited
    code = main(["generate", "a photo of a red cat", "a photo of a blue dog", "--batch-size", "1", "--steps", "0",
                 "--out", folder])
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    return code

model = load_model()
pixel = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
decode = model._decode_pixels
model._decode_pixels = lambda tokens: pixel.repeat(len(tokens), 1, 1, 1)  # an image needs as much as six rows
batches = []
whole = model._draw
model._draw = lambda batch, sampling: (batches.append(len(batch)), whole(batch, sampling))[1]
tasks = tasks_from_prompts([f"a photo of a {c} cat" for c in ("red", "blue", "green", "black", "white", "pink")])
for rows in range(6, 0, -1):  # late imports happen now, and oneDNN compiles kernels, where it crashes without memory
    list(search(tasks, model, FakeReward(), steps=0, batch_size=rows))
batches.clear()
for line in iter(sys.stdin.readline, ""):
    name, given, screen = json.loads(line)
    if not os.fork():
        answers = os.dup(1)
        for stream in (1, 2):
            os.dup2(os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.write(answers, json.dumps({"run": run, "generate": generate}[name](*given)).encode() + b"\\n")
        os._exit(0)
    if os.wait()[1]:
        print("null", flush=True)
"""
"""Loads the model once, then does each piece of work in a fork of itself."""
GIVE_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Settings with which malloc keeps little of what is freed, so that a limit is reached."""
MIB = 2**20
NOT_MET = "no limit that was tried was met: malloc had kept enough of what was freed before"


class Searches:
    """The program above: each search has a memory limit of its own, which the next one does not inherit."""

    def __init__(self, screen: Path) -> None:
        self.screen = screen
        command = [sys.executable, "-c", PROGRAM]
        surroundings = {**os.environ, **GIVE_BACK}
        self._program = subprocess.Popen(
            command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, name: str, *given: Any) -> Any:
        assert self._program.stdin is not None and self._program.stdout is not None
        self.screen.unlink(missing_ok=True)
        print(json.dumps([name, given, str(self.screen)]), file=self._program.stdin, flush=True)
        found = json.loads(self._program.stdout.readline())
        assert found is not None, self.screen.read_text()
        return found

    def run(self, rows: int, room: int | None, *, blind: bool = False, after: int = 0) -> Any:
        """Run a search with this many bytes left, from the start or after some records."""
        return self._ask("run", rows, room, blind, after)

    def generate(self, folder: Path) -> tuple[int, str]:
        """Draw two images by `milr generate`, the second one without memory; return the exit code and the screen."""
        code: int = self._ask("generate", str(folder))
        return code, self.screen.read_text()

    def close(self) -> None:
        self._program.communicate()


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searches]:
    found = Searches(tmp_path_factory.mktemp("memory") / "screen")
    yield found
    found.close()


@pytest.fixture(scope="module")
def free(searches: Searches) -> Any:
    """Run the search without a limit."""
    found = searches.run(6, None)
    assert len(found["found"]) == 6 and found["batches"] == [6]
    return found


def meet(searches: Searches, free: Any, rooms: Sequence[int], met: Callable[[Any], bool], **how: Any) -> Any:
    """The first run that meets its limit. How much room that takes differs by run: malloc keeps some of what is freed.

    Whatever the limit, what is found is right, and either all of it or all before an error of one line.
    """
    for room in rooms:
        found = searches.run(room=room * MIB, **how)
        assert found["found"] == free["found"][: len(found["found"])]
        assert (found["error"] is None) == (len(found["found"]) == len(free["found"]))
        if met(found):
            return found
    pytest.skip(NOT_MET)


def test_batches_are_as_large_as_the_limit_allows(searches: Searches, free: Any) -> None:
    found = meet(searches, free, (24, 20, 28), lambda run: max(run["batches"]) < 6 and run["error"] is None, rows=6)
    assert found["found"] == free["found"] and found["error"] is None
    assert 1 <= max(found["batches"]) < 6


def test_out_of_memory_loses_nothing(searches: Searches, free: Any) -> None:
    found = meet(
        searches, free, (16, 18, 12), lambda run: len(run["batches"]) > 1 and run["error"] is None, rows=6, blind=True
    )
    assert found["found"] == free["found"] and found["error"] is None
    assert found["batches"][:2] == [6, 3]


def test_finished_tasks_stay_if_not_even_one_row_fits(searches: Searches, free: Any) -> None:
    # No more than the memory in use: nothing more can be allocated.
    found = meet(searches, free, (0, -64, -128), lambda run: run["error"] is not None, rows=1, after=2)
    assert 2 <= len(found["found"]) < 6  # memory that was freed before may be enough for one more
    assert found["found"] == free["found"][: len(found["found"])]
    assert "one row at a time" in found["error"]


def test_a_run_without_memory_leaves_a_readable_folder(searches: Searches, tmp_path: Path) -> None:
    """`ulimit -v` on the command line: the error is one line, and every finished image is readable."""
    from milr import read_run

    code, screen = searches.generate(tmp_path / "run")
    if not code:
        pytest.skip(NOT_MET)
    assert code == 2
    error = screen.splitlines()[-1]
    assert error.startswith("error: ") and "memory ran out" in error
    assert len(list((tmp_path / "run").rglob("best.png"))) == 1
    assert read_run(tmp_path / "run")
