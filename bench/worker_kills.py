"""Kill workers, the coordinator or a Ray node by SIGKILL at random moments; compare the runs with an undisturbed one.

    python -m bench.worker_kills worker --rounds 10 --seed 0
    python -m bench.worker_kills coordinator --rounds 10
    python -m bench.worker_kills node --rounds 10          # a local Ray cluster of two nodes besides the head

Each round is a run of the same tasks by two workers. The moment is drawn uniformly over the records of the run: after
so many records, and a random part of a second. Nothing finished may be lost, and the whole run must be equal, but for
times, to that of one process. ``--model fake`` draws with the fake model of `milr.testing`, which costs hardly any.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from milr.jobs import Job, begin_run, resume_run
from milr.models.devices import Placement
from milr.parts import Names, Parts, load_parts
from milr.runs import read_manifest, read_run
from milr.tasks import tasks_from_prompts
from milr.workers import WorkerChoice, load_team

PROMPTS = ("two dogs", "a red apple", "three cats", "a blue clock", "two dogs", "a green car", "four birds", "a cow")
SETTINGS: dict[str, Any] = {"steps": 3, "batch_size": 2, "stop_at": 1.0}
FAKE = "tests.support.worker_parts:load"


def answers(folder: Path) -> list[Any]:
    """Return everything of a run but its times."""
    run = read_run(folder)
    if run.damaged:
        raise SystemExit(f"{folder}: {run.damaged}")
    return [
        (
            task.index,
            [step.model_dump(exclude={"seconds"}) for step in task.steps],
            task.evaluated,
            [task.load_image(one.image).tobytes() for one in task.images],
        )
        for task in run.tasks
    ]


def make_names() -> Names:
    """Return the parts' names."""
    return Names("embedded", "icons", "milr", None, "icons-judge")


def begin(folder: Path, parts: Parts) -> Job:
    """Return a job of all prompts."""
    settings = parts.model.settings("milr", **SETTINGS)
    tasks = tasks_from_prompts(PROMPTS)
    writer = begin_run(folder, tasks, settings, parts, make_names(), Placement(), deterministic=True)
    return Job(parts, writer)


def load_here(fake: bool) -> Parts:
    """Return the parts in this process."""
    if fake:
        from tests.support.worker_parts import load

        return load(make_names())
    return load_parts(make_names(), Placement())


def load_spread(choice: WorkerChoice) -> Parts:
    """Return the parts in workers."""
    return load_team(make_names(), Placement(), choice, settings=SETTINGS)


class _Open:
    """Parts whose team several jobs share."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts
        object.__setattr__(parts.team, "close_really", parts.team.close)
        parts.team.close = lambda: None

    def end(self) -> None:
        self.parts.team.close_really()


def kill_worker(choice: WorkerChoice, folder: Path, records: int, rounds: int, dice: random.Random) -> list[Path]:
    """Kill a random worker once per run; the same team makes all runs."""
    parts = _Open(load_spread(choice))
    team, made = parts.parts.team, list[Path]()
    for number in range(rounds):
        made.append(folder / f"worker-{number}")
        after = dice.randrange(records - 1)
        with closing(begin(made[-1], parts.parts).run()) as run:
            for seen, _ in enumerate(run):
                if seen == after:  # all are idle at times, between two tasks
                    able = [one for one in team.members if one.open] or team.members
                    os.kill(dice.choice(able).handle.process.pid, signal.SIGKILL)
        print(f"{made[-1].name}: a worker killed after record {after + 1}", flush=True)
    parts.end()
    return made


@contextmanager
def local_cluster() -> Generator[tuple[Any, list[Any]]]:
    """Start a Ray cluster here for the block, and connect: a head without room, and two nodes for a worker each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes: list[Any] = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_node(folder: Path, fake: bool, records: int, rounds: int, dice: random.Random) -> list[Path]:
    """Kill a random node of a cluster once per run, and add another one."""
    made = list[Path]()
    choice = WorkerChoice(2, ray=True, loader=FAKE if fake else None)
    with local_cluster() as (cluster, nodes):
        parts = _Open(load_spread(choice))
        for number in range(rounds):
            made.append(folder / f"node-{number}")
            after = dice.randrange(records)
            with closing(begin(made[-1], parts.parts).run()) as run:
                for seen, _ in enumerate(run):
                    if seen == after:
                        cluster.remove_node(nodes.pop(dice.randrange(2)), allow_graceful=False)
                        nodes.append(cluster.add_node(num_cpus=1))
            print(f"{made[-1].name}: a node killed after record {after + 1}", flush=True)
        parts.end()
    return made


def kill_coordinator(folder: Path, fake: bool, records: int, rounds: int, dice: random.Random) -> list[Path]:
    """Kill the coordinator once per run, then go on with the run in this process."""
    made = list[Path]()
    for number in range(rounds):
        made.append(folder / f"coordinator-{number}")
        after, more = dice.randrange(records), dice.random() / 4
        words = [sys.executable, "-m", "bench.worker_kills", "coordinate", "--into", str(made[-1])]
        words += ["--model", "fake" if fake else "embedded"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as one:
            assert one.stdout is not None
            for seen, _ in enumerate(one.stdout):
                if seen == after:
                    time.sleep(more)
                    one.kill()
        finished = {folder.name for folder in (made[-1] / "tasks").glob("*") if folder.suffix != ".part"}
        stamps = {name: (made[-1] / "tasks" / name / "records.jsonl").stat().st_mtime_ns for name in finished}
        manifest, parts = read_manifest(made[-1]), load_here(fake)
        if manifest.status == "running":
            list(Job(parts, resume_run(made[-1], manifest, parts, make_names())).run())
        lost = [n for n, at in stamps.items() if (made[-1] / "tasks" / n / "records.jsonl").stat().st_mtime_ns != at]
        kept = f"{len(finished)} tasks were finished, {len(lost)} of them made again"
        print(f"{made[-1].name}: killed after record {after + 1} and {more:.2f} s; {kept}", flush=True)
        if lost:
            raise SystemExit("a finished task was lost")
    return made


def coordinate(into: Path, fake: bool) -> None:
    """Be the coordinator that is killed: print a line per record."""
    parts = load_spread(WorkerChoice(2, loader=FAKE if fake else None))
    for _ in begin(into, parts).run():
        print("record", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the rounds and count the equal runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["worker", "coordinator", "node", "coordinate"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=["embedded", "fake"], default="embedded")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args(argv)
    fake, dice = given.model == "fake", random.Random(given.seed)
    if given.what == "coordinate":
        coordinate(given.into, fake)
        return
    with tempfile.TemporaryDirectory() as root:
        folder = given.into or Path(root)
        records = sum(1 for _ in begin(folder / "whole", load_here(fake)).run())
        whole = answers(folder / "whole")
        kills: dict[str, Callable[[], list[Path]]] = {
            "worker": lambda: kill_worker(
                WorkerChoice(2, loader=FAKE if fake else None), folder, records, given.rounds, dice
            ),
            "coordinator": lambda: kill_coordinator(folder, fake, records, given.rounds, dice),
            "node": lambda: kill_node(folder, fake, records, given.rounds, dice),
        }
        made = kills[given.what]()
        equal = sum(answers(one) == whole for one in made)
        print(f"{given.what}: {equal} of {len(made)} runs are equal to the undisturbed one ({records} records each)")
        if equal < len(made):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
