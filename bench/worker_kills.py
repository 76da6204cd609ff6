"""Kill workers, the coordinator or a Ray node by SIGKILL at random moments; compare the runs with an undisturbed one.

    python -m bench.worker_kills worker --rounds 10 --seed 0
    python -m bench.worker_kills coordinator --rounds 10 --into FOLDER   # again: goes on after the rounds it has
    python -m bench.worker_kills node --rounds 10          # a local Ray cluster of two nodes besides the head

Each round is a run of the same tasks by two workers, one thread a process. The moment is drawn uniformly over the
records of the run, and a random part of the time of two records after that, or at the next one. Nothing finished may
be lost, and the whole run must be equal, but for times, to that of one process; each round is compared when it ends.
``--model fake`` draws with the fake model of `milr.testing`, which costs hardly any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Timer
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded; other numbers of threads round otherwise

from milr.jobs import Job, begin_run, resume_run  # noqa: E402
from milr.models.devices import Placement  # noqa: E402
from milr.parts import Names, Parts, load_parts  # noqa: E402
from milr.runs import read_manifest, read_run  # noqa: E402
from milr.runs.layout import RECORDS  # noqa: E402
from milr.tasks import tasks_from_prompts  # noqa: E402
from milr.workers import WorkerChoice, load_team  # noqa: E402

PROMPTS = ("two dogs", "a red apple", "three cats", "a blue clock", "two dogs", "a green car", "four birds", "a cow")
SETTINGS: dict[str, Any] = {"batch_size": 2, "stop_at": 1.0}
FAKE = "tests.support.worker_parts:load"
LOG = "rounds.jsonl"


def answers(folder: Path) -> list[Any]:
    """Return everything of a run but its times: the records of each task, and the bytes of all its other files."""
    run = read_run(folder)
    if run.damaged:
        raise SystemExit(f"{folder}: {run.damaged}")
    return [
        (
            task.index,
            [step.model_dump(exclude={"seconds"}) for step in task.steps],
            {
                str(file.relative_to(task.folder)): file.read_bytes()
                for file in task.folder.rglob("*")
                if file.is_file() and file.name != RECORDS
            },
        )
        for task in run.tasks
    ]


def make_names() -> Names:
    """Return the parts' names."""
    return Names("embedded", "icons", "milr", None, "icons-judge")


def begin(folder: Path, parts: Parts, size: tuple[int, int] = (len(PROMPTS), 3)) -> Job:
    """Return a job of the first so many prompts, with so many steps after the first image."""
    settings = parts.model.settings("milr", **{**SETTINGS, "steps": size[1]})
    tasks = tasks_from_prompts(PROMPTS[: size[0]])
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


@dataclass(frozen=True)
class Round:
    """A round's folder and the moment of its kill."""

    folder: Path
    size: tuple[int, int]
    """Tasks, and steps of each."""
    after: int
    """Records before it."""
    delay: float
    """Seconds after that record."""
    dice: random.Random


Rounds = Generator[str, Round]
"""Makes the run of each round that is sent to it; yields what was killed, in words."""


@contextmanager
def sharing(parts: Any) -> Generator[Any]:
    """Keep a team open for the jobs of the block, and end it after them."""
    end = parts.team.close
    parts.team.close = lambda: None
    try:
        yield parts
    finally:
        end()


def disturb(job: Job, one: Round, kill: Callable[[], None], mend: Callable[[], None] = lambda: None) -> str:
    """Run a job, and kill at the round's moment, before its next record; return the state of the tasks then.

    Args:
        job: The run.
        one: The moment.
        kill: Called once, perhaps in another thread.
        mend: Called after it, in this thread.
    """
    done, begun, said, once = 0, set[int](), "", Lock()

    def fire() -> None:
        if once.acquire(blocking=False):
            kill()

    timer = Timer(one.delay, fire)
    with closing(job.run()) as run:
        for seen, (record, _, _) in enumerate(run):
            if seen == one.after + 1:
                fire()
                timer.join()
                mend()
            done += record.finished is not None
            begun.add(record.index)
            if seen == one.after:
                said = f"{done} tasks finished, {len(begun) - done} under way"
                timer.start()
    if job.set_aside:
        raise SystemExit(f"{one.folder}: set aside {job.set_aside}")
    return said


def kill_workers(fake: bool) -> Rounds:
    """Kill a random worker once per run; the same team makes all runs."""
    with sharing(load_spread(WorkerChoice(2, loader=FAKE if fake else None))) as parts:
        team, said = parts.team, ""
        while True:
            one = yield said

            def kill(dice: random.Random = one.dice) -> None:
                able = [member for member in team.members if member.open] or team.members  # all are idle at times
                os.kill(dice.choice(able).handle.process.pid, signal.SIGKILL)

            replaced = team.replaced
            said = disturb(begin(one.folder, parts, one.size), one, kill)
            said += f"; {team.replaced - replaced} workers replaced"


def add_node(cluster: Any, gpus: int = 0) -> Any:
    """Add a node with room for a worker; Ray gives up after 30 s, which a busy machine may need more than once."""
    for tries in reversed(range(4)):
        try:
            return cluster.add_node(num_cpus=1, num_gpus=gpus)
        except Exception as error:
            if not tries or "during startup" not in str(error):
                raise


@contextmanager
def local_cluster(gpus: int = 0) -> Generator[tuple[Any, list[Any]]]:
    """Start a Ray cluster here for the block, and connect: a head without room, and two nodes for a worker each.

    Args:
        gpus: GPUs that each node claims to have.
    """
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a busy machine would hardly run them
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [add_node(cluster, gpus) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_nodes(fake: bool) -> Rounds:
    """Kill a random node of a cluster once per run, and add another one."""
    choice, said = WorkerChoice(2, ray=True, loader=FAKE if fake else None), ""
    with local_cluster() as (cluster, nodes), sharing(load_spread(choice)) as parts:
        while True:
            one = yield said

            def kill(dice: random.Random = one.dice) -> None:
                cluster.remove_node(nodes.pop(dice.randrange(2)), allow_graceful=False)

            def mend() -> None:
                nodes.append(add_node(cluster))

            replaced = parts.team.replaced
            said = disturb(begin(one.folder, parts, one.size), one, kill, mend)
            said += f"; {parts.team.replaced - replaced} workers replaced"


def kill_coordinators(fake: bool) -> Rounds:
    """Kill the coordinator once per run, then go on with the run in this process."""
    parts, said = load_here(fake), ""
    while True:
        one = yield said
        words = [sys.executable, "-m", "bench.worker_kills", "coordinate", "--into", str(one.folder)]
        words += ["--model", "fake" if fake else "embedded", "--tasks", str(one.size[0]), "--steps", str(one.size[1])]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for seen, _ in enumerate(process.stdout):
                if seen == one.after:
                    time.sleep(one.delay)
                    process.kill()
        finished = {folder.name for folder in (one.folder / "tasks").glob("*") if folder.suffix != ".part"}
        begun = len(list((one.folder / "tasks").glob("*.part")))
        stamps = {name: (one.folder / "tasks" / name / "records.jsonl").stat().st_mtime_ns for name in finished}
        manifest = read_manifest(one.folder)
        if manifest.status == "running":
            list(Job(parts, resume_run(one.folder, manifest, parts, make_names())).run())
        lost = [n for n, at in stamps.items() if (one.folder / "tasks" / n / "records.jsonl").stat().st_mtime_ns != at]
        if lost:
            raise SystemExit(f"{one.folder}: finished tasks were lost: {lost}")
        said = f"{len(finished)} tasks finished, {begun} under way; 0 finished ones made again"


def coordinate(into: Path, size: tuple[int, int], fake: bool) -> None:
    """Be the coordinator that is killed: print a line per record."""
    parts = load_spread(WorkerChoice(2, loader=FAKE if fake else None))
    for _ in begin(into, parts, size).run():
        print("record", flush=True)


def make_whole(folder: Path, size: tuple[int, int], fake: bool) -> tuple[list[Any], float]:
    """Return the undisturbed run, made by one process unless it is there, and its seconds a record."""
    if not (folder.exists() and read_manifest(folder).status == "finished"):
        shutil.rmtree(folder, ignore_errors=True)
        list(begin(folder, load_here(fake), size).run())
    whole = answers(folder)
    return whole, read_manifest(folder).seconds / sum(len(steps) for _, steps, _ in whole)


def make_rounds(what: str, folder: Path, size: tuple[int, int], many: int, seed: int, fake: bool) -> None:
    """Make the rounds that the folder's log does not have yet, and print how many are equal.

    Raises:
        SystemExit: A run is not equal; its folder is kept.
    """
    whole, pace = make_whole(folder / f"whole-{size[0]}-{size[1]}", size, fake)
    records = sum(len(steps) for _, steps, _ in whole)
    log = folder / LOG
    kept = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    same = {"what": what, "seed": seed, "size": list(size)}
    known = {one["round"]: one for one in kept if {name: one[name] for name in same} == same}
    kinds = {"worker": kill_workers, "coordinator": kill_coordinators, "node": kill_nodes}
    if missing := [number for number in range(many) if number not in known]:
        with closing(kinds[what](fake)) as maker:
            next(maker)
            for number in missing:
                dice = random.Random(f"{what} {seed} {number}")
                after, delay = dice.randrange(records - 1), dice.random() * 2 * pace
                one = Round(folder / f"{what}-{seed}-{number}", size, after, delay, dice)
                shutil.rmtree(one.folder, ignore_errors=True)
                began = time.monotonic()
                said = maker.send(one)
                equal = answers(one.folder) == whole
                moment = f"{what} {number}: killed {one.delay:.2f} s after record {one.after + 1}, {said}"
                print(f"{moment}; {'equal' if equal else 'DIFFERENT'}; {time.monotonic() - began:.0f} s", flush=True)
                known[number] = {**same, "round": number, "equal": equal, "said": moment}
                with log.open("a") as file:
                    file.write(json.dumps(known[number]) + "\n")
                if equal:
                    shutil.rmtree(one.folder)
    equal = sum(known[number]["equal"] for number in range(many))
    print(f"{what}: {equal} of {many} runs are equal to the undisturbed one ({records} records each)")
    if equal < many:
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the rounds and count the equal runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["worker", "coordinator", "node", "coordinate"])
    parser.add_argument("--tasks", type=int, default=len(PROMPTS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=["embedded", "fake"], default="embedded")
    parser.add_argument("--into", type=Path, help="folder of runs and log; rounds that it has are not made again")
    given = parser.parse_args(argv)
    fake, size = given.model == "fake", (given.tasks, given.steps)
    if given.what == "coordinate":
        coordinate(given.into, size, fake)
        return
    with tempfile.TemporaryDirectory() as root:
        make_rounds(given.what, given.into or Path(root), size, given.rounds, given.seed, fake)


if __name__ == "__main__":
    main()
