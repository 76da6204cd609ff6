"""Time and memory of GenEval's scorer per image, and its scaling over processes, with random weights.

    python -m bench.geneval_scorer                                  # real size: 2 GB of weights are made first
    python -m bench.geneval_scorer --work build/speed --json        # keeps them; one JSON object
    python -m bench.geneval_scorer --size tiny --pictures 4         # whether it runs at all

Random weights cost what real ones cost. These see a hundred dogs and cats on every picture, so that all masks are read
(real weights see fewer) and a colour is asked for wherever a task names one: in 2 pictures of 6, as in 194 of GenEval's
553. The self-test is left out: it would refuse such weights.

Each figure is the median, with the least and the most. Of a folder they are over rounds of as many pictures as there
are processes, after a picture a process that loads all weights and does not count. Memory is read from /proc while the
work goes on: the largest process's peak of resident memory, and the peak of all together, shared pages counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from milr.tasks import parse_prompt
from milr.weights import ROOT_VARIABLE

# colours in two of six, as in 194 of GenEval's 553 prompts
PROMPTS = (
    "a photo of a dog",
    "a photo of a dog and a cat",
    "a photo of two dogs",
    "a photo of a red dog",
    "a photo of a dog left of a cat",
    "a photo of a red dog and a blue cat",
)
SEEN = ("dog", "cat")
WARM = PROMPTS[-1]
"""Task that asks for a colour of both classes, so that CLIP and its texts are loaded before anything counts."""
PROGRAM = (sys.executable, "-m", "bench.geneval_scorer")
"""Starts a fresh program of this one."""
_INTERVAL = 0.5
"""Seconds between two readings of the memory."""

Spread = dict[str, float]
"""{"median", "least", "most"}."""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the weights and the pictures, then measure each number of processes in a program of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "real"), default="real", help="of the networks")
    parser.add_argument("--pictures", type=int, default=6, help="that count in each measurement of a folder")
    parser.add_argument("--repeats", type=int, default=3, help="of each stage")
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="none leaves the folder out")
    parser.add_argument("--work", type=Path, help="a folder that keeps weights and pictures; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON object in the tables' place")
    parser.add_argument("--measure", choices=("weights", "stages", "folder"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.measure == "weights":
        write_weights(given.work, given.size)
        say({})
    elif given.measure == "stages":
        say(measure_stages(given.side, given.repeats))
    elif given.measure == "folder":
        say(measure_folder(given.work, given.processes[0]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            found = measure_all(given, given.work or Path(temporary))
        if given.json:
            say(found)
        else:
            report(found)


def say(found: object) -> None:
    """Print one JSON object on a line of its own."""
    print(json.dumps(found))


def measure_all(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure everything, each measurement in a fresh program."""
    weights = work / f"weights-{given.size}"
    os.environ[ROOT_VARIABLE] = str(weights)
    if not weights.exists():
        run_apart("weights", "--work", str(weights), "--size", given.size)
    found: dict[str, Any] = {
        "networks": given.size,
        "side": given.side,
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "one picture": run_apart("stages", "--side", str(given.side), "--repeats", str(given.repeats)),
        "folder": [],
    }
    for processes in given.processes:
        pictures = work / f"pictures-{given.side}-{processes}-{given.pictures}"
        write_pictures(pictures, processes, given.pictures, given.side)
        measured = run_apart("folder", "--work", str(pictures), "--processes", str(processes))
        found["folder"].append({"processes": processes, **measured})
    return found


def report(found: dict[str, Any]) -> None:
    """Print two tables: the stages of one picture, then the folder over processes."""
    print(f"{found['networks']} networks, pictures of {found['side']} x {found['side']}, {found['cores']} cores")
    print("\none picture, one process, all threads")
    for name, value in found["one picture"].items():
        print(f"  {name:<28} {show(value):>24}")
    print(f"\n{'processes':>9} {'s to the first':>15} {'s a picture':>24} {'largest MiB':>12} {'all MiB':>9}")
    for row in found["folder"]:
        print(
            f"{row['processes']:>9} {row['seconds to the first']:>15.1f} {show(row['seconds a picture']):>24} "
            f"{show(row['peak MiB of the largest process']):>12} {show(row['peak MiB of all']):>9}"
        )


def show(value: Spread | float | None) -> str:
    """Return a figure, with its spread if it has one."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['median']:.3f} ({value['least']:.3f}-{value['most']:.3f})"
    return f"{value:.0f}"


def spread(values: Sequence[float]) -> Spread:
    """Return median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def run_apart(measure: str, *options: str) -> dict[str, Any]:
    """Run one measurement in a fresh program; return its result with the peaks of memory of its processes."""
    command = [*PROGRAM, "--measure", measure, *options]
    largest = together = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        while program.poll() is None:
            sizes = list(look_at_memory(program.pid))
            largest = max([largest, *(peak for peak, _ in sizes)])
            together = max(together, sum(share for _, share in sizes))
            time.sleep(_INTERVAL)
        said = program.stdout.read().splitlines()
    if program.returncode:
        raise SystemExit(program.returncode)
    found: dict[str, Any] = json.loads(said[-1])
    return {**found, "peak MiB of the largest process": largest or None, "peak MiB of all": together or None}


def look_at_memory(program: int) -> Iterator[tuple[float, float]]:
    """Return a process tree's peak resident memory, and its share of memory now, in MiB."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended since
            continue
    family = {program}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    for process in family:
        try:
            peak = read_size(Path(f"/proc/{process}/status"), "VmHWM:")
            yield peak, read_size(Path(f"/proc/{process}/smaps_rollup"), "Pss:")
        except OSError:
            continue


def read_size(file: Path, name: str) -> float:
    """Return the value of a line "Name: 123 kB" of a file of /proc, in MiB; 0 if there is none."""
    return next((int(line.split()[1]) / 2**10 for line in file.read_text().splitlines() if line.startswith(name)), 0.0)


def write_weights(folder: Path, size: str) -> None:
    """Return a detector and a CLIP of that size."""
    from bench.random_weights import large_clip, tiny_clip, write_clip, write_detector
    from milr.convert.geneval_detector import make_config
    from milr.rewards.geneval.known_answers import tiny_config
    from milr.rewards.geneval.weights import CLIP, DETECTOR

    write_detector(folder / DETECTOR.name, tiny_config() if size == "tiny" else make_config(), sees=SEEN)
    write_clip(folder / CLIP.name, tiny_clip() if size == "tiny" else large_clip())


def write_pictures(folder: Path, warm: int, count: int, side: int) -> None:
    """Write patterns in GenEval's layout, all different: one per process to warm up, then those that count."""
    from milr.rewards.geneval.detector import make_pattern

    for number in range(warm + count):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True, exist_ok=True)
        task = parse_prompt(WARM if number < warm else PROMPTS[(number - warm) % len(PROMPTS)])
        metadata = task.model_dump(by_alias=True, exclude_none=True, exclude={"explanation"})
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
        make_pattern(side + number, side).crop((number, 0, side + number, side)).save(samples / "0000.png")


def measure_stages(side: int, repeats: int) -> dict[str, Spread | float]:
    """Return the seconds of each stage of one image."""
    import torch

    from milr.rewards.geneval.detector import make_pattern, prepare, read_output
    from milr.rewards.geneval.reward import GenEval

    found: dict[str, Spread | float] = {"threads": torch.get_num_threads()}
    start = time.perf_counter()
    reward = GenEval(self_test=False)
    found["load detector, s"] = spread([time.perf_counter() - start])
    picture = make_pattern(side, side)
    found["prepare, s"], prepared = clock(lambda: prepare(picture), repeats)
    found["detector's network, s"], output = clock(lambda: reward.detector.run(prepared.pixels), repeats)
    found["read masks and boxes, s"], instances = clock(lambda: read_output(*output, prepared), repeats)
    found["masks read"] = len(instances)
    start = time.perf_counter()
    colors = reward.load_colors()
    found["load CLIP, s"] = spread([time.perf_counter() - start])
    start = time.perf_counter()
    colors.classify(picture, instances[:1])
    found["first colour of a class, s"] = spread([time.perf_counter() - start])
    found["a colour, s"], _ = clock(lambda: colors.classify(picture, instances[:1]), repeats)
    return found


def clock(call: Callable[[], Any], repeats: int) -> tuple[Spread, Any]:
    """Return the seconds of some calls after a first one that does not count, and the last result."""
    result = call()
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return spread(seconds), result


def measure_folder(pictures: Path, processes: int) -> dict[str, Any]:
    """Measure a whole folder through `milr score-folder`'s engine."""
    from milr.benchmarks.score_folder import FolderJob

    with tempfile.TemporaryDirectory() as out:
        job = FolderJob(pictures, "geneval", out=Path(out), processes=processes, options={"self_test": False})
        start = time.perf_counter()
        arrivals = [time.perf_counter() - start for _ in job.run()]
    ends = arrivals[processes - 1 :: processes]
    rounds = [(after - before) / processes for before, after in zip(ends, ends[1:], strict=False)]
    return {"seconds to the first": arrivals[0], "pictures": len(arrivals), "seconds a picture": spread(rounds)}


if __name__ == "__main__":
    main()
