"""Plan past this machine: simulate 8 to 512 workers, and measure how many records a coordinator takes.

    python -m bench.cluster records                # records and bytes a second of one coordinator, measured
    python -m bench.cluster simulate --figure docs/images/cluster.svg

The simulation (simpy) has the rules of `milr.workers.team_runner`: shares, places, tasks moved at the end, tasks that
come back from a worker that dies and go on from their last step. It takes measured numbers: the seconds of a step on
one core by the tasks in the batch (`bench/results/embedded-float32.json`; `janus-1b.json` for the size of
Janus-Pro-1B), the steps of each of GenEval's 553 tasks (the compact run `experiments/runs/geneval.results.xz/default`),
and the coordinator's seconds a record (`bench/results/cluster.json`, which `records` writes). Failures and stragglers
are assumptions, which options change. Of the full matrix five runs are simulated, and their time is multiplied.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import random
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import simpy

from bench.tables import save_figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
_SIMULATED = 5  # runs of the full matrix
MODELS = (("embedded", "embedded-float32.json", 160), ("1B", "janus-1b.json", 384))
"""Model, its measured steps on one core, and the side of its images."""
WORKERS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Plan:
    """Parameters of the simulation."""

    workers: int
    rounds: Sequence[int]
    """Steps of each task."""
    runs: int = 1
    """Runs one after another, each of all tasks."""
    places: int = 16
    lifetime: float = 24 * 3600.0
    """Mean seconds until a worker dies; infinite for never."""
    loading: float = 60.0
    """Seconds until its replacement is ready."""
    slow_share: float = 0.05
    slow: float = 2.0
    """This share of the workers takes so many times as long."""
    jitter: float = 0.1
    """Standard deviation of a step's seconds, as a share of them."""
    record: float = 0.0
    """Seconds of the coordinator for a record."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """Results of the simulation."""

    seconds: float
    busy: float
    """Share of the workers' time in which they drew."""
    coordinator: float
    """Share of the time in which the coordinator worked."""
    deaths: int


def read_step_seconds(file: str) -> list[tuple[int, float]]:
    """Return the measured seconds of a step by the number of tasks in the batch; files have them for each task."""
    found = json.loads((RESULTS / file).read_text())["batches"]
    return sorted((one["batch"], one["batch"] * one["engine"]["step"]) for one in found)


def read_rounds() -> list[int]:
    """Return the steps of GenEval's tasks in the measured run."""
    from milr.report.inputs import open_run

    run = open_run(ROOT / "experiments/runs/geneval.results.xz/default", notes=[])
    return [len(task.steps) for task in run.tasks]


class Simulation:
    """One plan, simulated."""

    def __init__(self, plan: Plan, table: Sequence[tuple[int, float]]) -> None:
        """Prepare."""
        self.plan, self.table = plan, table
        self.dice = random.Random(plan.seed)
        self.env = simpy.Environment()
        self.coordinator = simpy.Resource(self.env)
        self.held: list[list[int]] = [[] for _ in range(plan.workers)]  # steps left of each task in progress
        self.waiting: deque[int] = deque()
        self.busy = self.coordinating = 0.0
        self.deaths = self.left = 0
        self.changed = self.env.event()

    def run(self) -> Outcome:
        """Return what comes of the plan."""
        slow = set(self.dice.sample(range(self.plan.workers), round(self.plan.slow_share * self.plan.workers)))
        for number in range(self.plan.workers):
            self.env.process(self._work(number, self.plan.slow if number in slow else 1.0))
        for _ in range(self.plan.runs):
            self.waiting = deque(self.plan.rounds)
            self.left = len(self.waiting)
            self._wake()
            while self.left:
                self.env.run(until=self.changed)
        whole = self.env.now
        return Outcome(whole, self.busy / whole / self.plan.workers, self.coordinating / whole, self.deaths)

    def _wake(self) -> None:
        changed, self.changed = self.changed, self.env.event()
        changed.succeed()

    def _step_seconds(self, tasks: int) -> float:
        """Return the seconds of a step: between measured batches on a line, beyond the last in proportion."""
        for (few, short), (many, long) in zip(self.table, self.table[1:], strict=False):
            if tasks <= many:
                return short + (long - short) * max(0, tasks - few) / (many - few)
        most, seconds = self.table[-1]
        return seconds * tasks / most

    def _fill(self, number: int) -> None:
        """Take waiting tasks up to the worker's share; at the end, take one from the most loaded worker."""
        mine, plan = self.held[number], self.plan
        share = max(1, math.ceil(self.left / plan.workers))
        while self.waiting and len(mine) < min(plan.places, share):
            mine.append(self.waiting.popleft())
        if not mine and not self.waiting:
            donor = max(self.held, key=len)
            if len(donor) >= 2:
                moved = max(donor)
                donor.remove(moved)
                mine.append(moved + 1)  # its first step is drawn again, for its hidden states

    def _work(self, number: int, slowness: float) -> Generator[Any, Any, None]:
        plan, mine = self.plan, self.held[number]
        dies = self.env.now + self._lifetime()
        while True:
            self._fill(number)
            if not mine:
                yield self.changed
                continue
            began = self.env.now
            step = self._step_seconds(len(mine)) * slowness * max(0.2, self.dice.gauss(1, plan.jitter))
            at_work = list(mine)
            if began + step > dies:
                yield self.env.timeout(max(0.0, dies - began))
                self.busy += self.env.now - began
                self.deaths += 1
                self.waiting.extendleft(one + 1 for one in mine)
                mine.clear()
                self._wake()
                yield self.env.timeout(plan.loading)
                dies = self.env.now + self._lifetime()
                continue
            yield self.env.timeout(step)
            self.busy += step
            with self.coordinator.request() as turn:  # records go out one after another, and wait to be read
                yield turn
                spent = plan.record * len(at_work)
                self.coordinating += spent
                yield self.env.timeout(spent)
            still = len(mine)
            mine[:] = [one - 1 for one in mine if one > 1]
            self.left -= still - len(mine)
            if still > len(mine):
                self._wake()

    def _lifetime(self) -> float:
        return math.inf if math.isinf(self.plan.lifetime) else self.dice.expovariate(1 / self.plan.lifetime)


def measure(side: int, tasks: int, steps: int) -> dict[str, float]:
    """Measure a coordinator: read messages of a worker from a pipe's bytes, and write the run.

    Returns:
        Records and bytes a second of this process's CPU time, and the share of it that reading takes.
    """
    from PIL import Image

    from milr.runs import RunWriter
    from milr.runs.strip_images import StripImages
    from milr.settings import make_settings
    from milr.tasks import tasks_from_prompts
    from milr.types import ImageSample, Reasoning, Score, StepRecord
    from milr.workers.messages import Step

    with Image.open(ROOT / "docs/images/strip.webp") as strip:
        images = [strip.convert("RGB").crop((x, 0, x + 160, 160)).resize((side, side)) for x in range(0, 320, 40)]
    prompts = tasks_from_prompts([f"prompt {number}" for number in range(tasks)], free=True)
    messages: list[tuple[int, bytes]] = []
    for index, task in enumerate(prompts):
        shown, pictures = StripImages(), dict[str, Image.Image]()
        for step in range(steps):
            sample = ImageSample(tuple(range(576)), images[(index + step) % len(images)])
            score = Score(step / steps, "icons@1", 0.9, {"apple": 1.0, "left of": 0.0}, "an apple, but to the right")
            record = StepRecord(
                task=task,
                index=0,
                step=step,
                reasoning=Reasoning("a red apple on the left of a blue clock " * 3, tuple(range(40))),
                images=(sample,),
                scores=(score,),
                best=sample,
                best_score=score,
                best_step=step,
                drawings_spent=step + 1.0,
                tokens_spent=600 * (step + 1),
                reward_calls=step + 1,
                seconds=float(step),
                cost=0.0,
                finished="out of steps" if step + 1 == steps else None,
            )
            pictures.update(zip(shown.add(record), [sample.image], strict=True))
            drawn = None if record.finished is None else shown.draw(record, pictures.__getitem__)
            messages.append((index, pickle.dumps(Step(index, record, False, strip=drawn))))
    with tempfile.TemporaryDirectory() as root:
        writer = RunWriter(
            Path(root) / "run", tasks=prompts, settings=make_settings("milr"), model="bench", reward="icons@1"
        )
        with writer:
            began, wall = time.process_time(), time.monotonic()
            for index, content in messages:
                message: Step = pickle.loads(content)
                writer.write(replace(message.record, index=index), strip=message.strip)
            spent, waited = time.process_time() - began, time.monotonic() - wall
            began = time.process_time()
            for _, content in messages:
                pickle.loads(content)
            reading = time.process_time() - began
    size = sum(len(content) for _, content in messages)
    many = len(messages)
    return {
        "side": side,
        "tasks": tasks,
        "records": many,
        "bytes_a_record": size / many,
        "cpu_ms_a_record": 1e3 * spent / many,
        "of_these_reading_ms": 1e3 * reading / many,
        "records_a_cpu_second": many / spent,
        "bytes_a_cpu_second": size / spent,
        "wall_seconds": waited,
    }


def simulate(given: argparse.Namespace) -> dict[str, Any]:
    """Return the outcomes of both plans for all numbers of workers."""
    rounds, kept = read_rounds(), json.loads((RESULTS / "cluster.json").read_text())["records"]
    common = {
        "lifetime": given.lifetime * 3600,
        "slow_share": given.slow_share,
        "places": given.places,
        "seed": given.seed,
    }
    alone = {"workers": 1, "lifetime": math.inf, "slow_share": 0.0, "record": 0.0, "places": given.places}
    found: dict[str, Any] = {"assumed": {**common, "slow": Plan.slow, "loading": Plan.loading, "jitter": Plan.jitter}}
    plans = (("GenEval x 4", rounds * 4, 1), ("full matrix", rounds, given.runs))
    for (model, file, side), (kind, tasks, runs) in product(MODELS, plans):
        name, table = f"{kind}, {model}", read_step_seconds(file)
        record = next(one for one in kept if one["side"] == side)["cpu_ms_a_record"] / 1e3
        one = Simulation(Plan(rounds=tasks, **alone), table).run().seconds * runs
        rows: list[dict[str, float]] = []
        for workers in WORKERS:
            simulated = min(runs, _SIMULATED)
            got = Simulation(Plan(workers, tasks, simulated, record=record, **common), table).run()
            seconds = got.seconds * runs / simulated
            rows.append(
                {
                    "workers": workers,
                    "seconds": seconds,
                    "efficiency": one / workers / seconds,
                    "busy": got.busy,
                    "coordinator": got.coordinator,
                    "deaths": got.deaths,
                }
            )
            print(
                f"{name:<26} {workers:>4} workers {seconds:>11,.0f} s  efficiency {rows[-1]['efficiency']:>4.0%}  "
                f"busy {got.busy:>4.0%}  coordinator {got.coordinator:>5.1%}  {got.deaths} deaths",
                flush=True,
            )
        found[name] = {"tasks": len(tasks), "runs": runs, "seconds_of_one": one, "rows": rows}
    return found


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw efficiency and time over the number of workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in [name for name in found if name != "assumed"]:
        rows = found[name]["rows"]
        workers = [row["workers"] for row in rows]
        left.plot(workers, [100 * row["efficiency"] for row in rows], "o-", label=name, markersize=3)
        right.plot(workers, [row["seconds"] / 3600 for row in rows], "o-", label=name, markersize=3)
    left.set(xscale="log", ylim=(0, 105), xlabel="workers", ylabel="efficiency against one worker, %")
    right.set(xscale="log", yscale="log", xlabel="workers", ylabel="hours")
    for axes in (left, right):
        axes.set_xticks(WORKERS, [str(one) for one in WORKERS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    save_figure(figure, file)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure or simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["records", "simulate"])
    parser.add_argument("--lifetime", type=float, default=24.0, help="mean hours until a worker dies")
    parser.add_argument("--slow-share", type=float, default=0.05, help="share of workers that take twice as long")
    parser.add_argument("--places", type=int, default=16, help="tasks in progress at once in each worker")
    parser.add_argument("--runs", type=int, default=50, help="runs of the full matrix, of one seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--tasks", type=int, default=100, help="tasks of the measured run")
    parser.add_argument("--results", type=Path, default=RESULTS / "cluster.json", help="the file of both")
    given = parser.parse_args(argv)
    kept: Path = given.results
    before: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if given.what == "records":
        before["records"] = [measure(side, given.tasks, 4) for side in (160, 384)]
        for one in before["records"]:
            print(json.dumps(one))
    else:
        before["simulation"] = simulate(given)
        if given.figure is not None:
            draw(before["simulation"], given.figure)
    kept.write_text(json.dumps(before, indent=1) + "\n")


if __name__ == "__main__":
    main()
