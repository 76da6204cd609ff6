"""Fill the tables of README.md and docs/experiments.md, and the recipes' durations and scores, from experiments/runs.

    python -m experiments.tables            # write the tables into the pages
    python -m experiments.tables --check    # write nothing; exit code 1 if a page shows other numbers

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a recipe's are its lines `duration` and `expected`.
Each number comes from the files that `milr pack --compact` wrote, `BENCHMARK.results.xz`; none is typed in.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from experiments.properties import property_table
from milr.benchmarks.intervals import Estimate
from milr.files import write_text
from milr.report.ablation import UNMEASURED
from milr.report.comparison import AREA, END, compare
from milr.report.entries import Entry, make_entries
from milr.report.failures import KINDS, diagnose
from milr.report.inputs import open_runs
from milr.report.statistics import OVERALL, mean_by_prompt
from milr.report.tables import Cell
from milr.runs import COMPACT_SUFFIX, Run

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(__file__).resolve().parent / "runs"
RECIPES = ROOT / "src" / "milr" / "report" / "recipes"
PAGES = (ROOT / "README.md", ROOT / "docs" / "experiments.md", *sorted(RECIPES.glob("*.toml")))
MARKS = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LINE = re.compile(r'(?m)^(duration|expected) = ".*"$')

HARD, GENEVAL = "icons-hard", "geneval"
JOINT, SAMPLED, CONSENSUS = "default", "method-best-of-n-sampled", "method-consensus"
POOL = "pool-64_method-best-of-n-sampled"
STEER = "strategy-steer_text_ratio-1.0_learning_rate-0.015"
NONE = "–"
BOTH = "strategy-steer-both"
BOTH_IMAGE = "strategy-steer-both_text_ratio-0.0"
SEEDS = 3
"""Seeds that every row of `icons-hard` has."""


@dataclass
class Results:
    """The runs of a folder of compact results, each file read once, its runs joined over seeds on demand."""

    folder: Path = RUNS
    _runs: dict[str, dict[str, Run]] = field(default_factory=dict)
    _joined: dict[tuple[str, str, int], Entry | None] = field(default_factory=dict)

    def find(self, benchmark: str, name: str, seeds: int = 1) -> Entry | None:
        """Return the entry of a run under its first `seeds` seeds; None if the folder does not have them all."""
        key = benchmark, name, seeds
        if key not in self._joined:
            base = "" if name == JOINT else f"{name}_"
            names = [name, *(f"{base}seed-{seed}" for seed in range(1, seeds))]
            runs = [run for one in names if (run := self._read(benchmark).get(one))]
            self._joined[key] = make_entries(runs)[0] if len(runs) == len(names) else None
        return self._joined[key]

    def _read(self, benchmark: str) -> dict[str, Run]:
        """Return the runs of a benchmark by name; none if it has no file."""
        if benchmark not in self._runs:
            file = self.folder / f"{benchmark}{COMPACT_SUFFIX}"
            self._runs[benchmark] = {run.folder.name: run for run in open_runs(file)} if file.exists() else {}
        return self._runs[benchmark]


Columns = Mapping[str, Estimate]
"""Column of a comparison ("8" drawings, `AREA`, `END`) -> estimate."""


_scored: dict[int, tuple[Entry, Columns]] = {}
"""Identity of an entry -> the entry and its scores; tables and recipes share many."""


def scores(entry: Entry) -> Columns:
    """Return an entry's scores over all tags."""
    if id(entry) not in _scored:
        _scored[id(entry)] = entry, compare([entry]).scores[entry.label][OVERALL]
    return _scored[id(entry)][1]


def differences(entry: Entry, base: Entry, clock: bool = False) -> Columns:
    """Return an entry minus another one, paired by prompt; with `clock`, at equal wall-clock time."""
    one, other = Entry("it", entry.runs, entry.outcomes), Entry("base", base.runs, base.outcomes)
    found = compare([one, other], "base")
    return (found.on_the_clock if clock else found.differences)["it"][OVERALL]


def write(estimate: Estimate, signed: bool = False) -> str:
    """Return a number with its interval, bold if it is a clear difference."""
    cell = Cell.of(estimate, signed=signed)
    text = cell.text.replace(", ", ",\N{NO-BREAK SPACE}")  # the interval stays on one line
    return f"**{text}**" if cell.clear else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def readme(results: Results) -> str:
    """Return README's table: five methods on icons-hard."""
    rows: list[list[str]] = []
    for label, name in (
        ("One image", "method-text-reasoning"),
        ("MILR as in the paper", JOINT),
        ("The same search with a zero gradient", "gradient-zero"),
        ("Best of N sampled texts", SAMPLED),
        ("MILR with `--strategy steer` (ours)", STEER),
    ):
        entry = results.find(HARD, name, SEEDS)
        if entry is None:
            continue
        end = scores(entry)[END]
        interval = f"{100 * end.low:.0f} to {100 * end.high:.0f} %"
        rows.append([label, f"{100 * end.value:.0f} %", interval, f"{entry.drawings:.1f}".removesuffix(".0")])
    return table(("", "correct images", "95 % interval", "images drawn per prompt"), rows)


METHODS = (
    ("`one-shot`", "method-one-shot"),
    ("`text-reasoning`", "method-text-reasoning"),
    ("`milr`, the paper's search (JOINT)", JOINT),
    ("..., ALT", "strategy-alt"),
    ("..., T2V", "strategy-t2v"),
    ("..., no image latents", "image_ratio-0.0"),
    ("..., no text latents", "text_ratio-0.0"),
    ("..., zero gradient", "gradient-zero"),
    ("..., negated gradient", "gradient-negated"),
    ("..., random gradient", "gradient-random"),
    ("..., fixed noise", "noise-fixed"),
    ("`milr`, strategy `steer` (ours)", STEER),
    ("..., zero gradient", f"{STEER}_gradient-zero"),
    ("`milr`, strategy `steer-both` (ours)", BOTH),
    ("..., no text latents", BOTH_IMAGE),
    ("`consensus` (ours)", CONSENSUS),
    ("`keep-right` (ours)", "method-keep-right"),
    ("`grid-prune` (ours)", "method-grid-prune"),
    ("`best-of-n-sampled`", SAMPLED),
    ("`best-of-n`, one greedy text", "method-best-of-n"),
    ("`best-of-n-greedy-first`", "method-best-of-n-greedy-first"),
    ("`parm`", "method-parm"),
    ("`reflection`", "method-reflection"),
)


def methods(results: Results) -> str:
    """Return each method's score, area and drawings on both benchmarks."""
    found = [(label, results.find(HARD, name, SEEDS), results.find(GENEVAL, name)) for label, name in METHODS]
    rows = [[label, *_spent(hard), *_spent(geneval)] for label, hard, geneval in found if hard or geneval]
    head = ("", "`icons-hard`", "area", "drawings", "GenEval", "area", "drawings")
    return table(head, rows)


def _spent(entry: Entry | None) -> tuple[str, str, str]:
    if entry is None:
        return (NONE, NONE, NONE)
    found = scores(entry)
    return write(found[END]), Cell.of(found[AREA]).number, f"{entry.drawings:.1f}"


SPACES = (
    ("text and image latents (JOINT)", JOINT, "gradient-zero"),
    ("text latents alone", "image_ratio-0.0", "image_ratio-0.0_gradient-zero"),
    ("image latents alone, after the greedy text", "text_ratio-0.0", "text_ratio-0.0_gradient-zero"),
    ("image latents alone, after the bare prompt", "strategy-no-text", "strategy-no-text_gradient-zero"),
    ("image latents beside text latents: JOINT - text latents alone", JOINT, "image_ratio-0.0"),
    ("text latents beside image latents: JOINT - image latents alone", JOINT, "text_ratio-0.0"),
    ("the gradient's direction: JOINT - random gradient", JOINT, "gradient-random"),
    ("text and image latents, fixed noise", "noise-fixed", "noise-fixed_gradient-zero"),
    ("steer (ours)", STEER, f"{STEER}_gradient-zero"),
    ("image latents alone as offsets (ours)", BOTH_IMAGE, "image_ratio-0.0_gradient-zero"),
    ("..., minus a random direction", BOTH_IMAGE, f"{BOTH_IMAGE}_gradient-random"),
    ("text and image latents as offsets: steer-both (ours)", BOTH, "image_ratio-0.0_gradient-zero"),
    ("image offsets beside text offsets: steer-both - steer", BOTH, STEER),
    (
        "no latents, other images: best of N from the greedy text - one image",
        "method-best-of-n",
        "method-text-reasoning",
    ),
    ("no latents, other texts: best of N sampled texts - best of N from the greedy text", SAMPLED, "method-best-of-n"),
)
"""Rows of `spaces`: label, run, and the run that it is compared with, for a search over latents its zero gradient."""


def spaces(results: Results) -> str:
    """Return what each latent space adds: paired differences, and both sides' drawings and seconds per prompt."""
    rows: list[list[str]] = []
    for label, name, control in SPACES:
        row = [label]
        for benchmark, seeds in ((HARD, SEEDS), (GENEVAL, 1)):
            search, base = results.find(benchmark, name, seeds), results.find(benchmark, control, seeds)
            if search is None or base is None:
                row += [NONE, NONE, NONE]
                continue
            row += [write(differences(search, base)[END], signed=True)]
            row += [f"{search.drawings:.1f}, {base.drawings:.1f}"]
            row += [", ".join(f"{entry.drawings * entry.seconds:.1f}" for entry in (search, base))]
        if set(row[1:]) != {NONE}:
            rows.append(row)
    head = ("paired difference", "`icons-hard`", "drawings", "seconds", "GenEval", "drawings", "seconds")
    return table(head, rows)


def rivals(results: Results) -> str:
    """Return methods minus best-of-n-sampled and minus JOINT on icons-hard."""
    rows: list[list[str]] = []
    for label, name in (
        ("JOINT", JOINT),
        ("steer", STEER),
        ("consensus", CONSENSUS),
        ("reflection", "method-reflection"),
        ("keep-right", "method-keep-right"),
        ("grid-prune", "method-grid-prune"),
        ("best-of-n-sampled", SAMPLED),
    ):
        row = [label]
        for other in (SAMPLED, JOINT):
            entry, base = results.find(HARD, name, SEEDS), results.find(HARD, other, SEEDS)
            if entry is None or base is None or name == other:
                row += [NONE, NONE]
                continue
            found = differences(entry, base)
            row += [write(found[column], signed=True) for column in (END, AREA)]
        if set(row[1:]) != {NONE}:
            rows.append(row)
    head = ("`icons-hard`, paired", "- best-of-n-sampled, at the end", "by area", "- JOINT, at the end", "by area")
    return table(head, rows)


def clock(results: Results) -> str:
    """Return our methods minus best-of-n-sampled at equal wall-clock time."""
    base = results.find(HARD, SAMPLED, SEEDS)
    budgets = ("2", "4", "8", "21")
    rows: list[list[str]] = []
    for label, name in (("consensus", CONSENSUS), ("steer", STEER), ("JOINT", JOINT)):
        entry = results.find(HARD, name, SEEDS)
        if entry is not None and base is not None:
            found = differences(entry, base, clock=True)
            rows.append([label, *(write(found[budget], signed=True) for budget in budgets)])
    head = ("minus best-of-n-sampled, in its time for", *(f"{budget} drawings" for budget in budgets))
    return table(head, rows)


def _sweep(results: Results, head: str, steps: Sequence[tuple[str, str]], reference: str) -> str:
    base = results.find(HARD, JOINT)
    rows: list[list[str]] = []
    for label, name in steps:
        entry = results.find(HARD, name)
        if entry is None or base is None:
            continue
        gap = NONE if name == JOINT else write(differences(entry, base)[END], signed=True)
        control = results.find(HARD, "gradient-zero" if name == JOINT else f"{name}_gradient-zero")
        gain = NONE if control is None else write(differences(entry, control)[END], signed=True)
        rows.append([label, write(scores(entry)[END]), f"{entry.drawings:.1f}", gap, gain])
    return table((head, "at the end", "drawings", f"- {reference}", "- zero gradient"), rows)


def text_ratio(results: Results) -> str:
    """Return the sweep over the ratio of text latents."""
    steps = [(f"{ratio:g}", f"text_ratio-{ratio}") for ratio in (0.0, 0.1, 0.4, 0.6, 0.8, 1.0)]
    return _sweep(results, "text ratio", [*steps[:2], ("0.2, the paper's", JOINT), *steps[2:]], "0.2")


def image_ratio(results: Results) -> str:
    """Return the sweep over the ratio of image latents."""
    steps = [(f"{ratio:g}", f"image_ratio-{ratio}") for ratio in (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)]
    return _sweep(results, "image ratio", [*steps[:2], ("0.02, the paper's", JOINT), *steps[2:]], "0.02")


def learning_rate(results: Results) -> str:
    """Return the sweep over the learning rate."""
    rates = [(f"{rate:g}", f"learning_rate-{rate}") for rate in (0.01, 0.03, 0.1, 0.3)]
    return _sweep(results, "learning rate", [*rates[:2], ("0.06, the default", JOINT), *rates[2:]], "0.06")


def steps(results: Results) -> str:
    """Return the search with 20 and with 30 steps."""
    return _sweep(results, "steps", [("20, the paper's", JOINT), ("30", "steps-30")], "20")


def rewards(results: Results) -> str:
    """Return the paper's search under several rewards, minus its zero-gradient control under the same reward."""
    rows: list[list[str]] = []
    for label, name, control in (
        ("`icons`", JOINT, "gradient-zero"),
        ("`icons-soft`", "reward-icons-soft", "reward-icons-soft_gradient-zero"),
        (
            "half `icons-soft`, half `self:p-yes`",
            "reward-mix-icons-soft-0.5-self-p-yes-0.5",
            "reward-mix-icons-soft-0.5-self-p-yes-0.5_gradient-zero",
        ),
        ("`self:p-yes`, the model's own answers", "reward-self-p-yes", "reward-self-p-yes_gradient-zero"),
    ):
        row = [label]
        for benchmark in (HARD, GENEVAL):
            entry, base = results.find(benchmark, name), results.find(benchmark, control)
            if entry is None or base is None:
                row += [NONE, NONE, NONE]
            else:
                row += [
                    write(scores(entry)[END]),
                    write(differences(entry, base)[END], signed=True),
                    f"{entry.drawings:.1f}",
                ]
        rows.append(row)
    head = ("reward", "`icons-hard`", "- zero gradient", "drawings", "GenEval", "- zero gradient", "drawings")
    return table(head, rows)


def l2(results: Results) -> str:
    """Return reward and evaluator at the answers of searches with different L2 weights, and hacked answers."""
    rows: list[list[str]] = []
    for label, name in (
        ("0", "reward-self-p-yes"),
        *((f"{weight:g}", f"reward-self-p-yes_l2-{weight}") for weight in (0.001, 0.01, 0.1, 1.0, 10.0)),
    ):
        entry = results.find(HARD, name)
        if entry is None:
            continue
        outcomes = entry.outcomes
        last = np.where(np.isfinite(outcomes.spent), np.nan_to_num(outcomes.reward, nan=-1.0), -1.0).max(axis=1)
        hacked = sum(KINDS[2] in one.failures for one in diagnose(entry))
        rows.append([label, f"{last.mean():.2f}", write(scores(entry)[END]), f"{hacked} of {len(outcomes.prompts)}"])
    return table(("L2 weight", "the reward says", "the evaluator says", "hacked answers"), rows)


def pool(results: Results) -> str:
    """Return the best of n sampled texts from a pool of 64 for each prompt."""
    entry = results.find(HARD, POOL)
    budgets = ("1", "2", "4", "8", "21", "64")
    found = scores(entry) if entry else {}
    rows = [["`icons-hard`", *(write(found[budget]) for budget in budgets)]] if found else []
    return table(("best of", *budgets), rows)


def seeds(results: Results) -> str:
    """Return each method's score by seed, and the number of prompts whose answers differ between seeds."""
    rows: list[list[str]] = []
    for label, name in (
        ("JOINT", JOINT),
        ("steer", STEER),
        ("random gradient", "gradient-random"),
        ("best-of-n-sampled", SAMPLED),
        ("consensus", CONSENSUS),
    ):
        entry = results.find(HARD, name, SEEDS)
        if entry is None:
            continue
        outcomes = entry.outcomes
        ends = entry.answers([float("inf")])[:, 0]
        by_seed: list[str] = []
        found: dict[str, set[float]] = {}
        for prompt, end in zip(outcomes.prompts, ends, strict=True):
            found.setdefault(prompt, set()).add(float(end))
        for seed in sorted(set(outcomes.seeds)):
            chosen = [place for place, one in enumerate(outcomes.seeds) if one == seed]
            names = [outcomes.prompts[place] for place in chosen]
            means = mean_by_prompt(ends[chosen][:, None], names, list(dict.fromkeys(names)))
            by_seed.append(f"{means.mean():.2f}")
        differ = sum(len(values) > 1 for values in found.values())
        rows.append([label, *by_seed, f"{differ} of {len(found)}"])
    head = ("`icons-hard`, at the end", *(f"seed {seed}" for seed in range(SEEDS)), "prompts whose answers differ")
    return table(head, rows)


def properties(results: Results) -> str:
    """Return the property table of the embedded model, with its cost."""
    return property_table(results.folder / "embedded.properties.json")


def sibling(results: Results) -> str:
    """Return one image after a greedy text, by tag, of both embedded models."""
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    rows: list[list[str]] = []
    for label, folder, name in (
        ("the embedded model", GENEVAL, "method-text-reasoning"),
        ("its sibling", "sibling", "sibling-geneval"),
    ):
        entry = results.find(folder, name)
        if entry is None:
            continue
        found = compare([entry]).scores[entry.label]
        rows.append([label, *(f"{found[tag][END].value:.2f}" for tag in tags), write(found[OVERALL][END])])
    return table(("GenEval, one image", "single", "two", "counting", "colours", "position", "attribution", "all"), rows)


def sibling_methods(results: Results) -> str:
    """Return the sibling's score, area, drawings and seconds with each method, and the difference to its control."""
    controls = {name: control for _, name, control in SPACES if control.endswith("gradient-zero")}
    rows: list[list[str]] = []
    for label, name in METHODS:
        entry, control = results.find("sibling", name), results.find("sibling", controls.get(name, ""))
        if entry is None:
            continue
        added = NONE if control is None else write(differences(entry, control)[END], signed=True)
        rows.append([label, *_spent(entry), f"{entry.drawings * entry.seconds:.1f}", added])
    return table(("the sibling, `icons-hard`", "at the end", "area", "drawings", "seconds", "- zero gradient"), rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "results": readme,
    "properties": properties,
    "methods": methods,
    "spaces": spaces,
    "rivals": rivals,
    "clock": clock,
    "text-ratio": text_ratio,
    "image-ratio": image_ratio,
    "learning-rate": learning_rate,
    "steps": steps,
    "rewards": rewards,
    "l2": l2,
    "pool": pool,
    "seeds": seeds,
    "sibling": sibling,
    "sibling-methods": sibling_methods,
}
"""Name between the marks -> function that writes the table."""


Shown: TypeAlias = tuple[str, str] | tuple[str, str, str]
"""A run's label and name, and the column if it is not `END`."""

EXPECTED: dict[str, tuple[str, int, Sequence[Shown]]] = {
    "gradients": (
        HARD,
        SEEDS,
        (("reward", JOINT), ("zero", "gradient-zero"), ("random", "gradient-random"), ("negated", "gradient-negated")),
    ),
    "image-ratio": (
        HARD,
        1,
        (("0.02", JOINT), *((ratio, f"image_ratio-{ratio}") for ratio in ("0.0", "0.05", "0.2", "1.0"))),
    ),
    "learning-rate": (
        HARD,
        1,
        (("0.06", JOINT), *((rate, f"learning_rate-{rate}") for rate in ("0.01", "0.03", "0.1", "0.3"))),
    ),
    "steps": (HARD, 1, (("30", "steps-30"), ("zero gradient", "steps-30_gradient-zero"))),
    "l2": (
        HARD,
        1,
        (("0", "reward-self-p-yes"), *((weight, f"reward-self-p-yes_l2-{weight}") for weight in ("0.1", "1.0"))),
    ),
    "matrix": (
        HARD,
        SEEDS,
        (("default", JOINT), ("zero", "gradient-zero"), ("sampled", SAMPLED), ("steer", STEER)),
    ),
    "methods": (GENEVAL, 1, (("milr", JOINT), ("best-of-n-sampled", SAMPLED), ("consensus", CONSENSUS))),
    "noise": (HARD, SEEDS, (("fresh", JOINT), ("fixed", "noise-fixed"), ("zero gradient", "gradient-zero"))),
    "offsets": (
        HARD,
        SEEDS,
        (("steer-both", BOTH), ("no text latents", BOTH_IMAGE), ("random", f"{BOTH_IMAGE}_gradient-random")),
    ),
    "parts": (
        GENEVAL,
        1,
        (("default", JOINT), ("one-shot", "method-one-shot"), ("no image latents", "image_ratio-0.0")),
    ),
    "pools": (HARD, 1, (("best of 21", POOL, "21"), ("of 64", POOL, "64"))),
    "rewards": (
        GENEVAL,
        1,
        (("icons", JOINT), ("icons-soft", "reward-icons-soft"), ("self:p-yes", "reward-self-p-yes")),
    ),
    "strategies": (
        HARD,
        SEEDS,
        (("joint", JOINT), ("alt", "strategy-alt"), ("t2v", "strategy-t2v"), ("steer", STEER), ("steer-both", BOTH)),
    ),
    "text-ratio": (
        HARD,
        1,
        (("0.2", JOINT), *((ratio, f"text_ratio-{ratio}") for ratio in ("0.0", "0.1", "0.4", "0.8"))),
    ),
}
"""Recipe -> benchmark, seeds, and the runs whose times and scores it gives.

Others, and those that lack a run, say `UNMEASURED`.
"""


def find_shown(recipe: str, results: Results) -> list[Entry] | None:
    """Return the entries that a recipe's lines tell of; None if there are none, or one is missing."""
    if recipe not in EXPECTED:
        return None
    benchmark, seeds, runs = EXPECTED[recipe]
    found = [results.find(benchmark, name, seeds) for _, name, *_ in runs]
    there = [entry for entry in found if entry]
    return there if len(there) == len(found) else None


def expect(recipe: str, results: Results) -> str:
    """Return a recipe's expected scores in one line, the first one with its interval."""
    found = find_shown(recipe, results)
    if found is None:
        return UNMEASURED
    benchmark, seeds, runs = EXPECTED[recipe]
    said: list[str] = []
    for (label, _, *column), entry in zip(runs, found, strict=True):
        cell = Cell.of(scores(entry)[column[0] if column else END])
        said.append(f"{label}: {cell.number if said else cell.text}")
    return f"{benchmark}, {seeds} seed{'s' if seeds > 1 else ''}, runs {', '.join(said)}"


def take_time(recipe: str, results: Results) -> str:
    """Return the least and the greatest wall time of a recipe's runs in one line, in minutes."""
    found = find_shown(recipe, results)
    if found is None:
        return UNMEASURED
    benchmark = EXPECTED[recipe][0]
    runs = [run.manifest for entry in found for run in entry.runs]
    minutes = sorted({math.ceil(run.seconds / 60) for run in runs})
    span = f"{minutes[0]} to {minutes[-1]} minutes" if minutes[1:] else f"{minutes[0]} minutes"
    dtypes = " or ".join(sorted({run.dtype or "its own dtype" for run in runs}))
    return f"{span} a run on one core: the embedded model, {dtypes}, {benchmark}"


def fill_recipe(text: str, recipe: str, results: Results) -> str:
    """Return a recipe with its lines `duration` and `expected` written again."""
    lines = {"duration": take_time, "expected": expect}
    return LINE.sub(lambda found: f'{found[1]} = "{lines[found[1]](recipe, results)}"', text)


def fill(text: str, results: Results) -> str:
    """Return a page with its tables written again.

    Raises:
        KeyError: The page has the mark of a table that is not in `TABLES`.
    """
    return MARKS.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](results)}\n\n{found[3]}", text)


def compare_pages(pages: Sequence[Path], results: Results) -> Iterator[tuple[Path, str]]:
    """Return pages whose tables are not those of the results, each with its right text."""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        right = fill_recipe(text, path.stem, results) if path.suffix == ".toml" else fill(text, results)
        if right != text:
            yield path, right


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--results", type=Path, default=RUNS, help="a folder of compact results")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, help="pages with marks")
    given = parser.parse_args(argv)
    changed = list(compare_pages(given.pages, Results(given.results)))
    for path, right in changed:
        if not given.check:
            write_text(path, right)
        print(f"{path}: {'has other numbers' if given.check else 'written'}")  # noqa: T201
    return 1 if given.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
