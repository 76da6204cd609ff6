"""Methods side by side on the embedded model: the share of tasks that the reward calls right, by drawings spent.

    python experiments/methods.py GENEVAL_METADATA --out build/methods --methods best-of-n milr keep-right
    python experiments/methods.py GENEVAL_METADATA --out build/methods --tables      # the tables of what is there

A choice of GenEval's prompts of the four tags that one drawing seldom meets. Reward and judge are one: nothing here is
free of reward hacking. This is for choosing what is worth a judged run. Each method writes a line a record as it goes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.first_look import choose_geneval, interval
from milr import SearchConfig, Task, load_model, load_reward
from milr.methods import load_method

TAGS = ("two_object", "counting", "position", "color_attr")
NUMBERS = (1, 2, 4, 8, 13, 21)


def run(name: str, tasks: Sequence[Task], given: argparse.Namespace, path: Path) -> None:
    """Run one method, a line a record; a colon behind its name begins settings, as in "milr:credit=zero"."""
    method, _, settings = name.partition(":")
    own = dict(one.split("=") for one in settings.split(",") if one)
    model, reward = load_model(given.model, dtype=given.dtype), load_reward(given.reward)
    config = SearchConfig.model_validate(
        {**model.search_defaults, "steps": given.steps, "seed": given.seed, "max_rows": len(tasks), **own}
    )
    with path.open("w") as file:
        for record in load_method(method)(tasks, model, reward, config):
            line = {"index": record.index, "tag": record.task.tag, "finished": record.finished}
            line |= {"drawings": record.drawings_spent, "calls": record.reward_calls, "tokens": record.tokens_spent}
            file.write(json.dumps(line | {"seconds": record.seconds}) + "\n")
            file.flush()


def read(path: Path, tasks: int) -> tuple[np.ndarray, float, bool]:
    """The drawings after which each task was right, (tasks,), inf where never; what was spent; whether it ended."""
    met, spent, ended = np.full(tasks, np.inf), np.zeros(tasks), np.zeros(tasks, bool)
    for line in map(json.loads, path.read_text().splitlines()):
        spent[line["index"]] = line["drawings"]
        ended[line["index"]] = line["finished"] is not None
        if line["finished"] == "met":
            met[line["index"]] = line["drawings"]
    return met, float(spent.sum()), bool(ended.all())


def tables(found: Mapping[str, tuple[np.ndarray, float, bool]], most: int, against: Sequence[str]) -> Iterator[str]:
    """Markdown: the share right after n drawings, the area under that curve from 1 to K + 1, paired differences."""
    numbers = [n for n in NUMBERS if n <= most]
    yield f"| method | {' | '.join(f'after {n}' for n in numbers)} | area | drawings spent |"
    yield "|---|" + "---|" * (len(numbers) + 2)
    areas = {name: np.mean([met <= n for n in range(1, most + 1)], axis=0) for name, (met, _, _) in found.items()}
    for name, (met, spent, ended) in found.items():
        cells = [f"{np.mean(met <= n):.3f}" for n in numbers]
        area = "{:.3f} [{:.3f}, {:.3f}]".format(*interval(areas[name]))
        yield f"| {name}{'' if ended else ' (cut off)'} | {' | '.join(cells)} | {area} | {spent:.1f} |"
    yield ""
    for base in against:
        for name in areas:
            if base in areas and name != base:
                mean, low, high = interval(areas[name] - areas[base])
                yield f"area of {name} - {base}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] (paired, 95 %)"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path, help="GenEval's evaluation_metadata.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=["best-of-n", "best-of-n-sampled", "milr", "keep-right"])
    parser.add_argument("--per-tag", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--reward", default="icons-soft")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="only print the tables of what is there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in choose_geneval(given.metadata, given.per_tag, given.seed) if task.tag in TAGS]
    for name in () if given.tables else given.methods:
        path = given.out / f"{name}.jsonl"
        if not path.exists():
            run(name, tasks, given, path)
    found = {path.stem: read(path, len(tasks)) for path in sorted(given.out.glob("*.jsonl"))}
    print("\n".join(tables(found, given.steps + 1, ["best-of-n", "best-of-n-sampled", "milr"])))  # noqa: T201


if __name__ == "__main__":
    main()
