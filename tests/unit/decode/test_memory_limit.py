"""Searches under a real limit of address space (`ulimit -v`), each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from milr.models import embedded_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit of address space"),
    pytest.mark.skipif(not embedded_folder().is_dir(), reason="no embedded model: `make train` makes one"),
]

SEARCH = """
import json, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from milr import load_model, search, tasks_from_prompts
from milr.errors import MilrError
from milr.testing import FakeReward

def limit(more):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))

rows, room, blind, after = json.loads(sys.argv[1])
if blind:  # free memory is unknown: memory really runs out
    import milr.decode.engine
    milr.decode.engine.fitting = lambda *_: None
model = load_model()
pixel = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
model._decode_pixels = lambda tokens: pixel.repeat(len(tokens), 1, 1, 1)  # an image needs as much as six rows
batches = []
whole = model._draw
model._draw = lambda batch, sampling: (batches.append(len(batch)), whole(batch, sampling))[1]
tasks = tasks_from_prompts([f"a photo of a {c} cat" for c in ("red", "blue", "green", "black", "white", "pink")])
list(search(tasks[:1], model, FakeReward(), steps=0))  # late imports happen now
batches.clear()
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
print(json.dumps({"found": found, "error": error, "batches": batches}))
"""
MIB = 2**20
NOT_MET = "no limit that was tried was met: malloc had kept enough of what was freed before"


def run(rows: int, room: int | None, *, blind: bool = False, after: int = 0) -> Any:
    """Run a search with this many bytes left, from the start or after some records."""
    given = json.dumps([rows, room, blind, after])
    done = subprocess.run([sys.executable, "-c", SEARCH, given], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def free() -> Any:
    """Run the search without a limit."""
    found = run(6, None)
    assert len(found["found"]) == 6 and found["batches"] == [6]
    return found


def meet(free: Any, rooms: Sequence[int], met: Callable[[Any], bool], **how: Any) -> Any:
    """The first run that meets its limit. How much room that takes differs by run: malloc keeps some of what is freed.

    Whatever the limit, what is found is right, and either all of it or all before an error of one line.
    """
    for room in rooms:
        found = run(room=room * MIB, **how)
        assert found["found"] == free["found"][: len(found["found"])]
        assert (found["error"] is None) == (len(found["found"]) == len(free["found"]))
        if met(found):
            return found
    pytest.skip(NOT_MET)


def test_batches_are_as_large_as_the_limit_allows(free: Any) -> None:
    found = meet(free, (24, 20, 28), lambda run: max(run["batches"]) < 6 and run["error"] is None, rows=6)
    assert found["found"] == free["found"] and found["error"] is None
    assert 1 <= max(found["batches"]) < 6


def test_out_of_memory_loses_nothing(free: Any) -> None:
    found = meet(free, (24, 20, 28), lambda run: len(run["batches"]) > 1 and run["error"] is None, rows=6, blind=True)
    assert found["found"] == free["found"] and found["error"] is None
    assert found["batches"][:2] == [6, 3]


def test_finished_tasks_stay_if_not_even_one_row_fits(free: Any) -> None:
    # Less than the memory in use: nothing more can be allocated.
    found = meet(free, (-64, -96, -128), lambda run: run["error"] is not None, rows=1, after=2)
    assert 2 <= len(found["found"]) < 6  # memory that was freed before may be enough for one more
    assert found["found"] == free["found"][: len(found["found"])]
    assert "one row at a time" in found["error"]


def test_the_folder_of_such_a_run_is_whole(tmp_path: Path) -> None:
    """`ulimit -v` on the command line: the error is one line, and every finished image is readable."""
    from milr import read_run

    folder = tmp_path / "run"
    command = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from milr.cli.main import main\n"
        "import milr.runs.writer as writer\n"
        "write = writer.RunWriter.write\n"
        "def limited(self, record, *more):\n"
        "    found = write(self, record, *more)\n"
        "    if record.finished:\n"
        "        size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (size + 2**20, resource.RLIM_INFINITY))\n"
        "    return found\n"
        "writer.RunWriter.write = limited\n"
        "sys.exit(main(['generate', 'a photo of a red cat', 'a photo of a blue dog', '--batch-size', '1', '--steps', "
        f"'0', '--out', {str(folder)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    if not done.returncode:
        pytest.skip(NOT_MET)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "memory ran out" in done.stderr
    assert len(list(folder.rglob("best.png"))) == 1
    assert read_run(folder)
