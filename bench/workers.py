"""Throughput of workers against one process, and the coordinator's share: ``python -m bench.workers --workers 2``.

The same run (icons, best-of-n without stopping, so that every task has the same drawings) is made by one process with
one thread, then by N workers with one thread each, eight tasks in a batch. Wall time counts from the first record's
begin, without loading; processor seconds are those of drawing and scoring, so they say what a busy machine hides. Run
it on a quiet machine for the ratio of wall times; the load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded; other numbers of threads round otherwise

from bench.worker_kills import answers  # noqa: E402


def read_seconds(process: int | str = "self") -> float:
    """Return the processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def draw(folder: Path, workers: int | None, tasks: int, steps: int) -> dict[str, Any]:
    """Make a run; return its figures."""
    from milr.jobs import Job, begin_run
    from milr.models.devices import Placement
    from milr.parts import Names, load_parts
    from milr.tasks import tasks_from_prompts
    from milr.workers import WorkerChoice, load_team

    names, placement = Names("embedded", "icons", "best-of-n"), Placement()
    given: dict[str, Any] = {"steps": steps, "stop_at": 1.0, "batch_size": 8}
    if workers is None:
        parts: Any = load_parts(names, placement)
    else:
        parts = load_team(names, placement, WorkerChoice(workers), settings=given)
        team = parts.team
        while not all(one.ready for one in team.members):
            team.receive(0.25)
    words = ("dog", "cat", "apple", "clock", "car", "bird", "cow", "cup")
    prompts = tasks_from_prompts([f"two {words[n % 8]}s" if n % 2 else f"a red {words[n % 8]}" for n in range(tasks)])
    settings = parts.model.settings("best-of-n", **given)
    job = Job(parts, begin_run(folder, prompts, settings, parts, names, placement, deterministic=True))
    of_workers = [] if workers is None else [one.handle.process.pid for one in parts.team.members]
    write, writing = job.writer.write, 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal writing
        began = time.process_time()
        try:
            return write(*arguments)
        finally:
            writing += time.process_time() - began

    job.writer.write = timed
    own, theirs, wall = read_seconds(), sum(map(read_seconds, of_workers)), time.monotonic()
    records = job.run()
    many, worked = 0, theirs
    for _ in records:
        many += 1
        if of_workers and many % tasks == 0:
            worked = sum(map(read_seconds, of_workers))
        if many == tasks * (steps + 1):  # the last one: the workers end after it
            seconds, spent = time.monotonic() - wall, read_seconds() - own
    return {
        "workers": workers or 0,
        "drawings": many,
        "wall_seconds": seconds,
        "own_cpu_seconds": spent,
        "writing_cpu_seconds": writing,
        "workers_cpu_seconds": worked - theirs,
        "load": os.getloadavg()[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "report": parts.report(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        one = draw(Path(root) / "one", None, given.tasks, given.steps)
        print(json.dumps(one), flush=True)
        many = draw(Path(root) / "many", given.workers, given.tasks, given.steps)
        print(json.dumps(many), flush=True)
        equal = answers(Path(root) / "one") == answers(Path(root) / "many")
    tick = 1 / os.sysconf("SC_CLK_TCK")  # the clock's resolution: a tiny run may take none
    cpu = max(many["own_cpu_seconds"] + many["workers_cpu_seconds"], tick)
    print(f"equal: {equal}; {one['drawings']} drawings; load {one['load']:.1f} and {many['load']:.1f}")
    ratio = one["wall_seconds"] / many["wall_seconds"]
    print(f"wall: {one['wall_seconds']:.1f} s and {many['wall_seconds']:.1f} s: {ratio:.2f} x")
    print(f"processor: {one['own_cpu_seconds']:.1f} s and {cpu:.1f} s")
    over = many["own_cpu_seconds"] - many["writing_cpu_seconds"]
    print(f"coordinator: {many['own_cpu_seconds']:.2f} s, {many['own_cpu_seconds'] / cpu:.2%} of all; of these")
    wrote = many["writing_cpu_seconds"], one["writing_cpu_seconds"]
    print(f"{wrote[0]:.2f} s to write the run, which took the one process {wrote[1]:.2f} s;")
    print(f"without them {over:.2f} s, {over / cpu:.2%} of all")


if __name__ == "__main__":
    main()
