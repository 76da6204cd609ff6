"""How good critics are, and what a search makes of them.

    python experiments/rewards.py agreement GENEVAL_METADATA --out build/rewards --per-tag 67   # 400 drawings
    python experiments/rewards.py table GENEVAL_METADATA --out build/rewards --per-tag 20       # 120 prompts

`agreement` draws once a prompt and holds `self` against the judge: by tag, with a calibration plot. `table` is the
paper's Table 6 in miniature: the same search under five critics, each beside its zero-credit twin. Every run is one
JSON file; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from first_look import choose_geneval, interval

from milr import SearchConfig, Task, load_model, load_reward, search
from milr.files import write_text
from milr.methods.best_of_n import best_of_n
from milr.methods.one_shot import one_shot
from milr.models.base import Model
from milr.rewards import Reward
from milr.rewards.panel import watch
from milr.rewards.vlm.client import VlmClient, VlmSettings
from milr.serve.judge import JudgeServer
from milr.types import Score, StepRecord, Unscored

BINS = 10
TWIN = ", zero credit"


def value(score: Score | Unscored) -> float:
    """A score's value; NaN where there is none."""
    return score.value if isinstance(score, Score) else float("nan")


# --- agreement


def collect(tasks: Sequence[Task], model: Model, judge: Reward, config: SearchConfig) -> list[dict[str, object]]:
    """One drawing a prompt, after reasoning: what `self` and the judge say of it."""
    critic = load_reward("self", model=model)
    rows: list[dict[str, object]] = []
    records = best_of_n(tasks, model, critic, config.model_copy(update={"steps": 0, "stop_at": 1.0}))
    for record in records:
        (truth,) = judge([record.best.picture], [record.task])
        rows.append({"tag": record.task.tag, "self": value(record.best_score), "judge": value(truth)})
    return rows


def kappa(said: np.ndarray, truth: np.ndarray) -> float:
    """Cohen's kappa of two binary lists; NaN where chance alone agrees always."""
    chance = said.mean() * truth.mean() + (1 - said.mean()) * (1 - truth.mean())
    return float(((said == truth).mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def ranking(sure: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a right picture is scored above a wrong one (AUROC, ties half); NaN without both kinds."""
    right, wrong = sure[truth > 0.5], sure[truth <= 0.5]
    if not len(right) or not len(wrong):
        return float("nan")
    above = right[:, None] > wrong[None, :]
    return float((above + 0.5 * (right[:, None] == wrong[None, :])).mean())


def agreement_table(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """Markdown: agreement by tag."""
    yield "| tag | drawings | unscored | right by the judge | right by self | agreement | kappa | AUROC |"
    yield "|---|---|---|---|---|---|---|---|"
    for tag in [*sorted({str(row["tag"]) for row in rows}), "all"]:
        chosen = [row for row in rows if tag in ("all", str(row["tag"]))]
        pairs = np.array([[row["self"], row["judge"]] for row in chosen], float)
        known = pairs[~np.isnan(pairs).any(1)]
        if not len(known):
            yield f"| {tag} | {len(chosen)} | {len(chosen)} | | | | | |"
            continue
        sure, truth = known[:, 0], known[:, 1] > 0.5
        said = sure > 0.5
        mean, low, high = interval((said == truth).astype(float))
        yield (
            f"| {tag} | {len(chosen)} | {len(chosen) - len(known)} | {truth.mean():.2f} | {said.mean():.2f} "
            f"| {mean:.2f} [{low:.2f}, {high:.2f}] | {kappa(said, truth):.2f} | {ranking(sure, truth):.2f} |"
        )


def plot_calibration(rows: Sequence[dict[str, object]], path: Path) -> None:
    """How often the judge says right, by what `self` says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = np.array([[row["self"], row["judge"]] for row in rows], float)
    pairs = pairs[~np.isnan(pairs).any(1)]
    place = np.minimum((pairs[:, 0] * BINS).astype(int), BINS - 1)
    figure, axes = pyplot.subplots(figsize=(4.5, 4.5))
    axes.plot([0, 1], [0, 1], ":", color="grey")
    for i in sorted(set(place)):
        inside = pairs[place == i]
        axes.plot(inside[:, 0].mean(), inside[:, 1].mean(), "o", color="#1a7f37", markersize=4 + np.sqrt(len(inside)))
        axes.annotate(
            str(len(inside)), (inside[:, 0].mean(), inside[:, 1].mean()), (6, -10), textcoords="offset points"
        )
    axes.set(xlabel="what self says", ylabel="share that the judge calls right", xlim=(0, 1), ylim=(-0.02, 1.02))
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# --- the table


def critics(model: Model, server: JudgeServer, judges: VlmClient) -> dict[str, Callable[[], Reward]]:
    """The five critics, loaded when their turn comes. The judge server is `icons` with a share of verdicts flipped."""
    return {
        "self": lambda: load_reward("self", model=model),
        f"judge server, {server.flip:.0%} flipped": lambda: load_reward("gpt-4o", judges=judges),
        "mix": lambda: load_reward("mix:icons-soft*0.7+self*0.3", model=model),
        "oracle": lambda: load_reward("icons"),
    }


def run_search(
    tasks: Sequence[Task], model: Model, load: Callable[[], Reward], config: SearchConfig
) -> Iterator[StepRecord]:
    """A search whose critic is loaded when it begins."""
    yield from search(tasks, model, load(), config)


def run_one(records: Iterator[StepRecord], judge: Reward) -> list[dict[str, object]]:
    """One row a task: reward and judge at the first and at the best picture, drawings spent."""
    rows: dict[int, dict[str, object]] = {}
    for record in watch(records, {"judge": judge}):
        row = rows.setdefault(record.index, {"tag": record.task.tag, "first": value(record.scores[0])})
        row["first_judge"] = value(record.panel_first["judge"])
        row.update(best=value(record.best_score), best_judge=value(record.panel_best["judge"]))
        row.update(drawings=record.drawings_spent, finished=record.finished)
    return [rows[index] for index in sorted(rows)]


def main_table(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """Markdown: the judge's score under each critic, and the gap."""
    yield "| critic | judge, first | judge, best | reward, best | gap, first | gap, best | drawings | unscored |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, rows in found.items():
        all_values = np.array([[r["first"], r["first_judge"], r["best"], r["best_judge"]] for r in rows], float)
        known = all_values[~np.isnan(all_values).any(1)]
        first, first_judge, best, best_judge = known.T
        mean, low, high = interval(best_judge)
        spent = sum(float(str(row["drawings"])) for row in rows)
        yield (
            f"| {name} | {first_judge.mean():.3f} | {mean:.3f} [{low:.3f}, {high:.3f}] | {best.mean():.3f} "
            f"| {(first - first_judge).mean():+.3f} | {(best - best_judge).mean():+.3f} | {spent:.0f} "
            f"| {len(rows) - len(known)} |"
        )


def twin_table(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """Markdown: what each critic's gradient adds to redrawing, paired by prompt, at the judge's best."""
    yield "| critic | judge, best: critic - its zero-credit twin |"
    yield "|---|---|"
    for name in [name for name in found if f"{name}{TWIN}" in found]:
        pair = zip(found[name], found[f"{name}{TWIN}"], strict=True)
        differences = np.array([float(str(a["best_judge"])) - float(str(b["best_judge"])) for a, b in pair])
        mean, low, high = interval(differences[~np.isnan(differences)])
        yield f"| {name} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["agreement", "table"])
    parser.add_argument("metadata", type=Path, help="GenEval's evaluation_metadata.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-tag", type=int, default=20)
    parser.add_argument("--judge", default="icons-judge")
    parser.add_argument("--flip", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="runs with this in their name, so that processes can share the work")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    tasks = choose_geneval(given.metadata, given.per_tag, given.seed)
    model, judge = load_model(given.model, dtype=given.dtype), load_reward(given.judge)
    settings = {**model.search_defaults, "steps": given.steps, "seed": given.seed, "max_rows": given.rows}
    config = SearchConfig.model_validate(settings)
    print(f"judge: {judge.name}; {len(tasks)} prompts; model {model.name}; {settings}")  # noqa: T201
    if given.what == "agreement":
        target = given.out / "agreement.json"
        if not target.exists():
            write_text(target, json.dumps(collect(tasks, model, judge, config)))
        rows = json.loads(target.read_text())
        plot_calibration(rows, given.out / "calibration.png")
        print("\n".join(agreement_table(rows)))  # noqa: T201
        return
    found: dict[str, list[dict[str, object]]] = {}
    with JudgeServer(load_reward("icons"), flip=given.flip) as server:
        judges = VlmClient(VlmSettings(url=server.url, cache=given.out / "answers"))
        loaders = critics(model, server, judges)
        twin = config.model_copy(update={"credit": "zero"})
        runs = {"baseline": lambda: one_shot(tasks, model, judge, config)}
        runs |= {name: partial(run_search, tasks, model, load, config) for name, load in loaders.items()}
        runs |= {f"{name}{TWIN}": partial(run_search, tasks, model, load, twin) for name, load in loaders.items()}
        for name, begin in runs.items():
            if given.only not in name:
                continue
            target = given.out / f"table-{re.sub(r'[^a-z0-9]+', '-', name)}.json"
            if not target.exists():
                started = time.monotonic()
                rows = run_one(begin(), judge)
                write_text(target, json.dumps({"rows": rows, "seconds": time.monotonic() - started}))
            found[name] = json.loads(target.read_text())["rows"]
            print(f"{name}: done", file=sys.stderr)  # noqa: T201
        judges.close()
    print("\n".join([*main_table(found), "", *twin_table(found)]))  # noqa: T201


if __name__ == "__main__":
    main()
