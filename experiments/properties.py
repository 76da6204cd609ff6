"""Write the property table of the embedded model from `experiments/runs/embedded.properties.json`.

    python -m training report --geneval FILE > experiments/runs/embedded.properties.json
    python -m experiments.properties            # print the table
    python -m experiments.properties FILE       # the table of another file

Each figure has its 95 % interval and its number of prompts, texts or answers. Targets are those of issue 27.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = Path(__file__).resolve().parent / "runs"
FILE = RUNS / "embedded.properties.json"
NONE = "–"

Verdict = Callable[[Mapping[str, float]], bool]


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    title: str
    path: tuple[str, ...]
    """Keys that lead to the figure in the report."""
    target: str = ""
    meets: Verdict | None = None
    """Returns True if a figure meets the target; None without a target."""
    signed: bool = False


def at_least(bound: float) -> Verdict:
    """Return a verdict: the value is at least this."""
    return lambda figure: figure["value"] >= bound


def at_most(bound: float) -> Verdict:
    """Return a verdict: the value is at most this."""
    return lambda figure: figure["value"] <= bound


def between(low: float, high: float) -> Verdict:
    """Return a verdict: the value is in a range."""
    return lambda figure: low <= figure["value"] <= high


_FIRST = "first image tokens"
_SHOWS = "the image shows its text"
_SWEEP = "temperature and guidance"
LINES = (
    Line(
        "one shot after reasoning, GenEval, mean over tags",
        ("one shot", "GenEval", "after reasoning", "mean over tags"),
        "0.55–0.80",
        between(0.55, 0.80),
    ),
    Line(
        "..., `icons-hard`",
        ("one shot", "icons-hard", "after reasoning", "all"),
        "0.20–0.40",
        between(0.20, 0.40),
    ),
    Line("plain prompt, GenEval, mean over tags", ("one shot", "GenEval", "plain", "mean over tags"), "lower"),
    Line("..., `icons-hard`", ("one shot", "icons-hard", "plain", "all"), "lower"),
    *(
        line
        for name in ("GenEval", "icons-hard")
        for line in (
            Line(
                f"image chance: best of 21 from the greedy text, minus one shot, {name}",
                ("image chance", name, "best of 21 minus one shot"),
                "≥ +0.12",
                at_least(0.12),
                signed=True,
            ),
            Line(
                "... any of 21 right, minus one shot",
                ("image chance", name, "any of 21 right minus one shot"),
                signed=True,
            ),
            Line(
                "... right in some and wrong in others of 8 drawings",
                ("image chance", name, "mixed, of texts that name what is asked"),
                "≥ 0.40",
                at_least(0.40),
            ),
        )
    ),
    Line(
        "text alone: best of 21 sampled texts, minus best of 21 from the greedy text, `icons-hard`",
        ("text alone", "icons-hard", "minus best of 21 of the greedy text"),
        "≥ +0.05",
        at_least(0.05),
        signed=True,
    ),
    Line(
        "best of 21 sampled texts, `icons-hard`",
        ("text alone", "icons-hard", "best of 21 sampled texts"),
        "0.65–0.90",
        between(0.65, 0.90),
    ),
    Line(
        "the image shows what its greedy text names and nothing else, GenEval",
        (_SHOWS, "GenEval", "shows what its text names"),
        "0.60–0.85",
        between(0.60, 0.85),
    ),
    Line("..., `icons-hard`", (_SHOWS, "icons-hard", "shows what its text names"), "0.60–0.85", between(0.60, 0.85)),
    Line(
        "..., fresh prompts with one to five objects, texts as in training",
        (_SHOWS, "fresh prompts", "shows what its text names"),
    ),
    Line(
        "... satisfies a text that contradicts its own",
        (_SHOWS, "contradicting", "satisfies the other text"),
        "≤ 0.15",
        at_most(0.15),
    ),
    Line(
        "first image tokens: 10 % kept of a right drawing, minus 10 % of a wrong one",
        (_FIRST, "10% kept, 10 tokens", "difference"),
        "≥ +0.08, low > +0.03",
        lambda figure: figure["value"] >= 0.08 and figure["low"] > 0.03,
        signed=True,
    ),
    Line("... 2 % kept", (_FIRST, "2% kept, 2 tokens", "difference"), "reported", signed=True),
    Line(
        "reading: does an own sampled text meet a new prompt",
        ("reading a text", "own sampled texts", "all"),
        "≥ 0.85",
        at_least(0.85),
    ),
    Line("... of texts that fit", ("reading a text", "own sampled texts", "fits")),
    Line("... of texts that do not fit", ("reading a text", "own sampled texts", "does not fit")),
    Line("looking at scenes", ("looking", "scenes", "all"), "≥ 0.92", at_least(0.92)),
    Line("looking at own drawings", ("looking", "own drawings", "all"), "≥ 0.85", at_least(0.85)),
    Line(
        "held-out combinations minus others",
        ("held-out combinations", "held out minus others"),
        "within 0.05",
        lambda figure: abs(figure["value"]) <= 0.05,
        signed=True,
    ),
    Line(
        "default temperature and guidance minus the best of a sweep, on new drawings",
        (_SWEEP, "check", "default minus best of the sweep"),
        "≥ -0.02",
        at_least(-0.02),
        signed=True,
    ),
)
NUMBERS = (
    Line(
        "smallest tag of one shot, GenEval",
        ("one shot", "GenEval", "after reasoning", "by tag"),
        "≥ 0.30",
        at_least(0.30),
    ),
    Line("share of the codebook used", ("codebook", "all icons and grounds", "share used"), "> 0.5", at_least(0.5)),
    Line("perplexity of the codebook, icons and grounds", ("codebook", "all icons and grounds", "perplexity")),
    Line("PSNR through codes, dB", ("codebook", "PSNR through codes, dB"), "≥ 26", at_least(26)),
    Line("PSNR through the encoder, dB", ("codebook", "PSNR through the encoder, dB")),
    Line(
        "success, largest minus smallest of the grounds, named in the same texts",
        ("grounds and styles", "largest minus smallest, grounds"),
        "≤ 0.15",
        at_most(0.15),
    ),
    Line(
        "success, largest minus smallest of the styles, named in the same texts",
        ("grounds and styles", "largest minus smallest, styles"),
        "≤ 0.15",
        at_most(0.15),
    ),
    Line("search step at batch 32, seconds on one core", ("search step", "seconds"), "≤ 0.7 × version 4's"),
    Line("... of version 4, in the same process", ("search step", "shipped", "seconds")),
)
"""Lines whose figures are plain numbers, without an interval."""


def find(figures: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value that a path leads to; None if it is not there."""
    found: Any = figures
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def write_rows(figures: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of each line: title, figure, number, target, and whether the target is met."""
    for line in LINES:
        found = find(figures, line.path)
        if found is None or math.isnan(found["value"]):
            yield [line.title, NONE, NONE, line.target, ""]
            continue
        sign = "+" if line.signed else ""
        value = f"{found['value']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"
        yield [line.title, value, f"{found['of']:.0f}", line.target, _verdict(line, found)]
    for line in NUMBERS:
        found = find(figures, line.path)
        if line.path[-1] == "by tag" and found:
            found = min(one["value"] for one in found.values())
        if found is None or math.isnan(found):
            yield [line.title, NONE, NONE, line.target, ""]
            continue
        yield [line.title, f"{found:.2f}", "", line.target, _verdict(line, {"value": found})]


def _verdict(line: Line, figure: Mapping[str, float]) -> str:
    if line.meets is None:
        return ""
    return "met" if line.meets(figure) else "**missed**"


def property_table(file: Path = FILE) -> str:
    """Return the property table as Markdown, with the costs and what was smaller than asked."""
    figures = json.loads(file.read_text(encoding="utf-8"))
    head = ["property", "measured", "of", "target", ""]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *write_rows(figures))]
    cost = figures["cost"]
    spent = f"{cost['drawings']:,.0f} drawings in {cost['core seconds'] / 60:.0f} core-minutes"
    notes = [f"Measured: `{figures['model']}` by `{figures['evaluator']}`; {spent}."]
    if figures["fewer than asked"]:
        notes.append("Smaller than asked: " + "; ".join(figures["fewer than asked"]) + ".")
    return "\n".join([*table, "", *notes])


def main() -> None:
    """Print the table."""
    print(property_table(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE))


if __name__ == "__main__":
    main()
