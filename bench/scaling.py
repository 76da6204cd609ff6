"""Cost against tasks and K: time must grow as they do, memory must not grow with tasks.

    python -m bench.scaling --json bench/results/scaling.json

Whole searches of the embedded model at a fixed batch size, each in a process of its own, so that each peak is its own.
All drawings are cut short.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from milr import load_model, search, tasks_from_prompts
from milr.files import write_text
from milr.models.base import ImageOutput, ImageRequest
from milr.models.janus import Janus
from milr.settings import SamplingParams
from milr.testing import FakeReward

COLORS = ("red", "blue", "green", "yellow", "black", "white", "orange", "purple")
THINGS = ("cat", "dog", "bird", "bus", "car", "apple", "clock", "chair")
DRAWN = 16  # image tokens per drawing: the subject is growth, not speed


def one(tasks: int, steps: int, batch_size: int) -> dict[str, float]:
    """Search this many tasks for this many steps, none of them met; return seconds of this thread and peak memory."""
    torch.set_num_threads(1)
    model = cast("Janus", load_model(dtype="bfloat16"))
    draw = model.draw

    def draw_beginnings(requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        return draw([replace(request, until=DRAWN) for request in requests], sampling)

    model.draw = draw_beginnings  # type: ignore[method-assign]
    prompts = [f"a photo of a {COLORS[i % 8]} {THINGS[i // 8 % 8]}" for i in range(tasks)]
    settings = model.settings(steps=steps, stop_at=1.0, batch_size=batch_size)
    model.profile = replace(model.profile, max_reasoning_tokens=16)
    started = time.thread_time()
    drawings = sum(1 for _ in search(tasks_from_prompts(prompts), model, FakeReward(), settings))
    seconds = time.thread_time() - started
    return {
        "tasks": tasks,
        "steps": steps,
        "batch_size": batch_size,
        "drawings": drawings,
        "seconds": seconds,
        "seconds_each": seconds / drawings,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run each size in its own process and write its cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--one", type=int, nargs=3, metavar=("TASKS", "STEPS", "BATCH_SIZE"), help="one run, here")
    parser.add_argument("--json", type=Path, help="a file to write as well")
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(one(*given.one)))  # noqa: T201
        return
    sizes = [(tasks, given.steps[0]) for tasks in given.tasks] + [(given.tasks[0], steps) for steps in given.steps[1:]]
    runs: list[object] = []
    for tasks, steps in sizes:
        command = [sys.executable, "-m", "bench.scaling", "--one", str(tasks), str(steps), str(given.batch_size)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        text = json.dumps({"batch_size": given.batch_size, "runs": runs}, indent=1)
        if given.json:
            write_text(given.json, text + "\n")
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
