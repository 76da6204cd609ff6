"""A first look at what the latents add: JOINT beside its twins, at equal drawings.

    python experiments/first_look.py GENEVAL_METADATA --out build/first_look          # 120 prompts, all methods
    python experiments/first_look.py GENEVAL_METADATA --out build/first_look --tables # the tables again

`--fresh N` takes N fresh prompts of the icon world instead of GenEval's: for choosing settings on prompts that no
result uses. Each method's outcome is one JSON file; a run that was cut off goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from milr import SearchConfig, Task, load_model, load_reward, search
from milr.files import write_text
from milr.methods.best_of_n import best_of_n
from milr.methods.one_shot import one_shot
from milr.tasks import COLORS, OBJECT_NAMES, RELATIONS, Phrase, parse_prompt, write_prompt
from milr.types import Score, StepRecord

DRAWINGS = (1, 2, 4, 8, 21)


def choose_geneval(path: Path, per_tag: int, seed: int) -> list[Task]:
    """A seeded choice of GenEval's prompts, the same number of each tag."""
    tasks = [Task.model_validate_json(line) for line in path.read_text().splitlines()]
    by_tag: dict[str, list[Task]] = {}
    for task in tasks:
        by_tag.setdefault(task.tag or "", []).append(task)
    chooser = random.Random(seed)
    return [task for tag in by_tag for task in chooser.sample(by_tag[tag], per_tag)]


def fresh_prompts(number: int, seed: int) -> list[Task]:
    """Fresh prompts of two kinds, coloured pairs and relations, for choosing settings."""
    chooser = random.Random(seed)
    tasks: list[Task] = []
    for index in range(number):
        first, second = chooser.sample(OBJECT_NAMES, 2)
        colors = chooser.sample(COLORS, 2) if index % 2 else (None, None)
        joiner = " and " if index % 2 else chooser.choice(RELATIONS)
        tasks.append(parse_prompt(write_prompt([Phrase(first, 1, colors[0]), Phrase(second, 1, colors[1])], [joiner])))
    return tasks


def summarise(records: Iterable[StepRecord], tasks: Sequence[Task]) -> list[dict[str, object]]:
    """One row a task: the drawing that solved it, flips, shifts."""
    rows: list[dict[str, object]] = [{} for _ in tasks]
    for record in records:
        row = rows[record.index]
        if record.step == 0:
            row.update(prompt=record.task.prompt, tag=record.task.tag, solved_at=None, text_flip=None, image_flip=None)
            row.update(text_latents=record.text_latents, shifts=[], notes=[])
        if record.flipped_text and row["text_flip"] is None:
            row["text_flip"] = record.step
        if record.flipped_image and row["image_flip"] is None:
            row["image_flip"] = record.step
        row["shifts"].append([record.text_shift, record.image_shift])  # type: ignore[attr-defined]
        row["notes"].extend(record.notes)  # type: ignore[attr-defined]
        row.update(drawings=record.drawings_spent, tokens=record.tokens_spent, text=record.reasoning.text)
        if record.finished == "met":
            assert isinstance(record.best_score, Score)
            row["solved_at"] = record.drawings_spent
    return rows


def solved(rows: Sequence[dict[str, object]], drawings: int) -> np.ndarray:
    """(tasks,) 1.0 where a task was solved within that many drawings."""
    return np.array([row["solved_at"] is not None and row["solved_at"] <= drawings for row in rows], float)  # type: ignore[operator]


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval over tasks."""
    chooser = np.random.default_rng(seed)
    means = values[chooser.integers(len(values), size=(10_000, len(values)))].mean(1)
    return float(values.mean()), *map(float, np.percentile(means, [2.5, 97.5]))


def tables(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """Markdown: scores at equal drawings, paired differences, flips and shifts."""
    yield "| method | " + " | ".join(f"after {n}" for n in DRAWINGS) + " | drawings spent |"
    yield "|---|" + "---|" * (len(DRAWINGS) + 1)
    for name, rows in found.items():
        spent = sum(int(str(row["drawings"])) for row in rows)
        most = max(int(str(row["drawings"])) for row in rows)
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval(solved(rows, n))) if n <= most else "" for n in DRAWINGS]
        yield f"| {name} | " + " | ".join(cells) + f" | {spent} |"
    yield ""
    for twin in ("zero", "random", "best-of-21"):
        if "joint" in found and twin in found:
            for n in DRAWINGS[1:]:
                mean, low, high = interval(solved(found["joint"], n) - solved(found[twin], n))
                yield f"joint - {twin} after {n} drawings: {mean:+.3f} [{low:+.3f}, {high:+.3f}] (paired, 95 %)"
    yield ""
    yield "| method | solved by tag, last drawing |"
    yield "|---|---|"
    for name, rows in found.items():
        tags = sorted({str(row["tag"]) for row in rows})
        last = solved(rows, DRAWINGS[-1])
        cells = [f"{t} {np.mean([s for s, r in zip(last, rows, strict=True) if str(r['tag']) == t]):.2f}" for t in tags]
        yield f"| {name} | {', '.join(cells)} |"
    yield ""
    heads = ["method", "tasks searched", "first text flip, step", "never", "first image flip, step", "never"]
    heads += ["text shift at steps 1, 5, 20", "image shift at steps 1, 5, 20"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for name, rows in found.items():
        moved = [row for row in rows if len(row["shifts"]) > 1]  # type: ignore[arg-type]
        if not name.startswith("joint") or not moved:
            continue
        cells = [f"{len(moved)}"]
        for key in ("text_flip", "image_flip"):
            steps = [int(str(row[key])) for row in moved if row[key] is not None]
            quartiles = "/".join(f"{q:.0f}" for q in np.percentile(steps, [25, 50, 75])) if steps else "-"
            cells += [f"quartiles {quartiles}", f"{len(moved) - len(steps)}"]
        for modality in (0, 1):
            at = []
            for step in (1, 5, 20):
                values = [row["shifts"][step][modality] for row in moved if len(row["shifts"]) > step]  # type: ignore[index,arg-type]
                at.append(f"{np.mean(values):.3f}" if values else "-")
            cells.append(", ".join(at))
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path, help="GenEval's evaluation_metadata.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-tag", type=int, default=20)
    parser.add_argument("--fresh", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="learning rates of further JOINT runs")
    parser.add_argument("--methods", nargs="*", default=["plain", "joint", "zero", "random", "best-of-21"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="only print the tables of what is there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    tasks = (
        fresh_prompts(given.fresh, given.seed)
        if given.fresh
        else choose_geneval(given.metadata, given.per_tag, given.seed)
    )
    names = [*given.methods, *(f"joint lr={rate:g}" for rate in given.rates)]
    if not given.tables:
        model, reward = load_model(given.model, dtype=given.dtype), load_reward("icons")
        base = {**model.search_defaults, "steps": given.steps, "seed": given.seed, "max_rows": given.rows}
        for name in names:
            target = given.out / f"{name}.json"
            if target.exists():
                continue
            started = time.monotonic()
            if name == "plain":
                records = one_shot(tasks, model, reward, SearchConfig.model_validate(base))
            elif name == "best-of-21":
                records = best_of_n(tasks, model, reward, SearchConfig.model_validate(base))
            else:
                own: dict[str, object] = {"credit": name} if name in ("zero", "random", "negated") else {}
                if "lr=" in name:
                    own = {"learning_rate": float(name.split("=")[1])}
                records = search(tasks, model, reward, SearchConfig.model_validate({**base, **own}))
            rows = summarise(records, tasks)
            write_text(target, json.dumps({"seconds": time.monotonic() - started, "config": base, "rows": rows}))
    found = {
        n: json.loads((given.out / f"{n}.json").read_text())["rows"]
        for n in names
        if (given.out / f"{n}.json").exists()
    }
    print("\n".join(tables(found)))  # noqa: T201


if __name__ == "__main__":
    main()
