"""Compare a run of one process with those of 1, 2 and 3 worker processes, and of a local Ray cluster of two nodes.

    python -m bench.worker_equality            # processes
    python -m bench.worker_equality --ray      # and the cluster: a head without room, two nodes with room for a worker

Eight tasks, four drawings each, one thread a process. Every record, token, score and pixel must be equal.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded; other numbers of threads round otherwise

from bench.worker_kills import FAKE, answers, begin, load_here, load_spread, local_cluster  # noqa: E402
from milr.workers import WorkerChoice  # noqa: E402


def compare(folder: Path, choice: WorkerChoice, whole: list[object], name: str) -> bool:
    """Make a run by workers; print and return whether it is equal."""
    began = time.monotonic()
    job = begin(folder, load_spread(choice))
    records = sum(1 for _ in job.run())
    equal = answers(folder) == whole
    said = "equal" if equal else "DIFFERENT"
    print(f"{name}: {records} records, {said}; {time.monotonic() - began:.0f} s with loading", flush=True)
    return equal


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--model", choices=["embedded", "fake"], default="embedded")
    given = parser.parse_args(argv)
    loader = FAKE if given.model == "fake" else None
    with tempfile.TemporaryDirectory() as root:
        list(begin(Path(root) / "whole", load_here(loader is not None)).run())
        whole = answers(Path(root) / "whole")
        found = [
            compare(Path(root) / str(many), WorkerChoice(many, loader=loader), whole, f"{many} worker processes")
            for many in given.workers
        ]
        if given.ray:
            with local_cluster():
                choice = WorkerChoice(2, ray=True, loader=loader)
                found.append(compare(Path(root) / "ray", choice, whole, "2 workers on two Ray nodes"))
    print(f"{sum(found)} of {len(found)} runs are equal to that of one process ({given.model}, {len(whole)} tasks)")
    if not all(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
