"""How long the embedded model takes: seconds a reasoning, a drawing and a score, by batch; and the peak memory.

    python speed/embedded.py                    # batches of 1, 8 and 40
    python speed/embedded.py --attention sdpa   # beside transformers' own attention

Each figure is the median of the repeats, with the least and the most: other work on the machine shows there. Compare
ratios of runs made one after the other, not seconds of different days.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch

from milr import load_model, load_reward, tasks_from_prompts
from milr.decode.streams import open_stream
from milr.models.base import DrawRequest, Model, Sketch
from milr.rewards.base import Reward

PROMPT = "a photo of a red apple left of a blue clock"


def measure(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    work()
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def show(seconds: list[float], rows: int) -> str:
    """Median, least and most, a row."""
    return f"{statistics.median(seconds) / rows:.3f} ({min(seconds) / rows:.3f}-{max(seconds) / rows:.3f})"


def time_batch(model: Model, reward: Reward, rows: int, repeats: int) -> list[str]:
    """Seconds a row of reasoning, drawing and scoring that many rows at once."""
    tasks = tasks_from_prompts([PROMPT]) * rows
    guidance = float(str(model.search_defaults.get("guidance", 5.0)))
    thoughts = model.reason(tasks, [()] * rows)

    def draw() -> list[Sketch]:
        requests = [
            DrawRequest(task, thought.reasoning, open_stream(0, task.key, place, 0))
            for place, (task, thought) in enumerate(zip(tasks, thoughts, strict=True))
        ]
        return model.draw(requests, guidance=guidance, temperature=1.0, keep=5)

    pictures = [sketch.drawing.picture for sketch in draw()]
    works: list[Callable[[], object]] = [
        lambda: model.reason(tasks, [()] * rows),
        draw,
        lambda: reward(pictures, tasks),
    ]
    return [show(measure(work, repeats), rows) for work in works]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 40])
    parser.add_argument("--attention", help="transformers' name of another attention, for instance sdpa")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, reward = load_model(given.model, dtype=given.dtype), load_reward("icons")
    if given.attention:
        model.network.model.language_model.set_attn_implementation(given.attention)  # type: ignore[attr-defined]
    print("| rows | reasoning, s a row | drawing, s a row | score, s a row |")  # noqa: T201
    print("|---|---|---|---|")  # noqa: T201
    for rows in given.batches:
        print(f"| {rows} | {' | '.join(time_batch(model, reward, rows, given.repeats))} |")  # noqa: T201
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{given.threads} threads, {given.dtype}, {given.repeats} repeats; peak memory {peak:.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    main()
