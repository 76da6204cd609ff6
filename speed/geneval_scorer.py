"""Time and memory of GenEval's scorer a picture, and how it scales over processes, with random weights.

    python -m speed.geneval_scorer                                  # real size: 2 GB of weights are made first
    python -m speed.geneval_scorer --size tiny --pictures 6         # whether it runs at all

Random weights cost what real ones cost, but for the masks that are read (the table says how many) and for how often
a colour is asked for: here for every picture whose task names one, which is 194 in 553 as in GenEval. The self-test is
left out: it would refuse such weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milr.tasks import parse_prompt
from milr.weights import ROOT_VARIABLE

# Colours in two of six, as 194 of GenEval's 553 prompts have them.
PROMPTS = (
    "a photo of a dog",
    "a photo of a dog and a cat",
    "a photo of two dogs",
    "a photo of a red dog",
    "a photo of a dog left of a cat",
    "a photo of a red dog and a blue cat",
)


def main() -> None:
    """Make the weights and the pictures, then measure each number of processes in a program of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "real"), default="real", help="of the networks")
    parser.add_argument("--pictures", type=int, default=12, help="scored in each measurement")
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, help="a folder that keeps weights and pictures; default: a temporary one")
    parser.add_argument("--measure", choices=("stages", "folder"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure == "stages":
        print(json.dumps(measure_stages(given.side)))
    elif given.measure == "folder":
        print(json.dumps(measure_folder(given.work, given.processes[0])))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            report(given, given.work or Path(temporary))


def report(given: argparse.Namespace, work: Path) -> None:
    """Print two tables: the stages of one picture, then the folder over processes."""
    weights = work / f"weights-{given.size}"
    if not weights.exists():
        print(f"making {given.size} random weights in {weights} ...", flush=True)
        write_weights(weights, given.size)
    os.environ[ROOT_VARIABLE] = str(weights)
    write_pictures(work / "pictures", given.pictures, given.side)
    print(f"\n{given.size} networks, pictures of {given.side} x {given.side}, {os.cpu_count()} cores\n")
    stages = run_apart("stages", work, given.side, 1)
    print("one picture, one process, all threads")
    for name, value in stages.items():
        print(f"  {name:<36} {value:>9.3f}" if isinstance(value, float) else f"  {name:<36} {value:>9}")
    print(f"\n{'processes':>9} {'s to the first':>15} {'s a picture':>12} {'pictures/min':>13} {'peak MiB, all':>14}")
    for processes in given.processes:
        found = run_apart("folder", work, given.side, processes)
        seconds = found["seconds a picture"]
        print(
            f"{processes:>9} {found['seconds to the first']:>15.2f} {seconds:>12.2f} {60 / seconds:>13.1f} "
            f"{found['peak MiB']:>14.0f}"
        )


def run_apart(measure: str, work: Path, side: int, processes: int) -> dict[str, Any]:
    """One measurement in a fresh program, so that peaks of memory are its own."""
    command = [sys.executable, "-m", "speed.geneval_scorer", "--measure", measure, "--work", str(work)]
    command += ["--side", str(side), "--processes", str(processes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_weights(folder: Path, size: str) -> None:
    """A detector and a CLIP of that size."""
    from milr.convert.geneval_detector import make_config
    from milr.rewards.geneval_check import tiny_config
    from milr.rewards.geneval_scorer import CLIP, DETECTOR
    from speed.random_weights import large_clip, tiny_clip, write_clip, write_detector

    write_detector(folder / DETECTOR.name, tiny_config() if size == "tiny" else make_config())
    write_clip(folder / CLIP.name, tiny_clip() if size == "tiny" else large_clip())


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Patterns in GenEval's layout, no two alike."""
    from milr.rewards.geneval_detector import make_pattern

    for number in range(count):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True, exist_ok=True)
        task = parse_prompt(PROMPTS[number % len(PROMPTS)])
        metadata = task.model_dump(by_alias=True, exclude_none=True, exclude={"explanation"})
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
        make_pattern(side + number, side).crop((number, 0, side + number, side)).save(samples / "0000.png")


def measure_stages(side: int) -> dict[str, float | int]:
    """Seconds of each stage of one picture, the best of three after one that warms up, and the peak of memory."""
    import torch

    from milr.rewards.geneval_detector import make_pattern, prepare, read_output
    from milr.rewards.geneval_scorer import GenEval

    found: dict[str, float | int] = {"threads": torch.get_num_threads()}
    start = time.perf_counter()
    reward = GenEval(self_test=False)
    found["imports and detector, s"] = time.perf_counter() - start
    picture = make_pattern(side, side)
    found["prepare, s"], prepared = clock(lambda: prepare(picture))
    found["detector's network, s"], output = clock(lambda: reward.detector.run(prepared.pixels))
    found["read masks and boxes, s"], instances = clock(lambda: read_output(*output, prepared))
    found["masks read"] = len(instances)
    found["peak with the detector, MiB"] = peak(resource.RUSAGE_SELF)
    start = time.perf_counter()
    colors = reward.load_colors()
    found["load CLIP, s"] = time.perf_counter() - start
    seen = instances[0] if instances else whole(picture.width, picture.height)
    start = time.perf_counter()
    colors.classify(picture, [seen])
    found["first colour of a class, s"] = time.perf_counter() - start
    found["a colour, s"], _ = clock(lambda: colors.classify(picture, [seen]))
    found["peak with both, MiB"] = peak(resource.RUSAGE_SELF)
    return found


def whole(width: int, height: int) -> Any:
    """A detection of everything."""
    import numpy as np

    from milr.rewards.geneval_detector import Instance

    return Instance("dog", 1.0, (0.0, 0.0, float(width), float(height)), np.ones((height, width), dtype=np.bool_))


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """The best of three calls after one that does not count, in seconds, and what the last gave."""
    result = call()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, result


def measure_folder(work: Path, processes: int) -> dict[str, float]:
    """A whole folder through `milr score-folder`'s engine.

    The rate is that of the pictures after the first of each process, so that loading is not in it. Memory is the peak
    of this program and, where there are several, of the largest process times their number: an upper bound.
    """
    from milr.score_folder import FolderJob

    with tempfile.TemporaryDirectory() as out:
        job = FolderJob(work / "pictures", "geneval", out=Path(out), processes=processes, options={"self_test": False})
        start = time.perf_counter()
        arrivals = [time.perf_counter() - start for _ in job.run()]
    after = arrivals[min(processes, len(arrivals) - 1) - 1]
    counted = max(len(arrivals) - processes, 1)
    children = peak(resource.RUSAGE_CHILDREN) * processes if processes > 1 else 0.0
    return {
        "seconds to the first": arrivals[0],
        "seconds a picture": (arrivals[-1] - after) / counted,
        "peak MiB": peak(resource.RUSAGE_SELF) + children,
    }


def peak(whose: int) -> float:
    """The largest resident size so far, in MiB."""
    size = resource.getrusage(whose).ru_maxrss
    return size / 2**20 if sys.platform == "darwin" else size / 2**10


if __name__ == "__main__":
    main()
