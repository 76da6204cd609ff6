"""Fill the tables of docs/performance.md from the JSON files in bench/results, and draw its figures.

    pip install "milr[report]"      # brings matplotlib
    python -m bench.tables

Every figure there comes from a file that `bench/compare.py` or `bench/scaling.py` wrote; none is typed in.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from milr.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = Path(__file__).resolve().parent / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.0f}" if count > 1e11 else f"{count / 1e9:.2f}"


def comparison(report: Any) -> str:
    """Return the engine beside the plain loop, one row per batch, and the machine of both."""
    rows: list[list[str]] = []
    for one in report["batches"]:
        plain, engine = one["plain"], one["engine"]
        rows.append(
            [
                str(one["batch"]),
                f"{plain['step']:.3g}",
                f"{engine['step']:.3g}",
                f"**{one['ratio_step']:.1f}×**",
                f"{one['ratio_step_text_unchanged']:.1f}×",
                f"{one['ratio_image']:.1f}×",
                f"{engine['text']:.2g} + {engine['image']:.3g} + {engine['decoding']:.2g}",
                f"{plain['tokens']:.0f} / {engine['tokens']:.0f}",
                f"{_gigabytes(plain['bytes'])} / {_gigabytes(engine['bytes'])}",
                f"{one['over_limit']:.2f}×",
            ]
        )
    machine = report["machine"]
    head = (
        "batch",
        "plain, s a step",
        "engine, s a step",
        "ratio",
        "text unchanged",
        "drawing alone",
        "engine: text + drawing + image",
        "tokens, plain / engine",
        "GB moved, plain / engine",
        "over the limit",
    )
    how = {"full": "every token timed"}.get(str(report["batches"][0]["chunk"] or "full"))
    how = how or f"{report['batches'][0]['chunk']} image tokens timed at each of three context lengths"
    return (
        f"{report['model']}, {report['dtype']}, {machine['threads']} thread(s) of {machine['name']}, torch "
        f"{machine['torch']}; {machine['bytes_a_second'] / 1e9:.1f} GB/s and "
        f"{machine['operations_a_second'] / 1e9:.0f} billion operations a second; "
        f"{report['batches'][0]['repeats']} repeat(s), {how}.\n\n{table(head, rows)}{profiles(report)}"
    )


def profiles(report: Any) -> str:
    """Return the time of the engine's image tokens by operation, one column per batch; nothing without a profile."""
    taken = {str(one["batch"]): one["profile"] for one in report["batches"] if "profile" in one}
    if not taken:
        return ""
    operators = list(dict.fromkeys(name for shares in taken.values() for name in shares))
    rows = [[f"`{name}`", *(f"{shares.get(name, 0):.0%}" for shares in taken.values())] for name in operators]
    head = ("torch operator, own time of the image tokens", *(f"batch {batch}" for batch in taken))
    return f"\n\n{table(head, rows)}"


def scaling(report: Any) -> str:
    """Return time and memory against tasks and K."""
    rows = [
        [str(one["tasks"]), str(one["steps"]), f"{one['seconds']:.3g}", f"{one['seconds_each']:.3g}", one["memory"]]
        for one in ({**one, "memory": f"{one['peak_bytes'] / 2**20:.0f}"} for one in report["runs"])
    ]
    return table(("tasks", "K", "seconds", "seconds a drawing", "peak memory, MiB"), rows)


def attention(report: Any) -> str:
    """Return one token's attention over the cache of a layer, one row per shape, one column per implementation."""
    ways = list(report["shapes"][0]["seconds"])
    least = report["machine"]["bytes_a_second"]
    rows = [
        [one["model"], *(f"{1e3 * one['seconds'][way]:.2f}" for way in ways), f"{2e3 * one['numbers'] / least:.2f}"]
        for one in report["shapes"]
    ]
    return table(("milliseconds a layer and token", *ways, "to read the bfloat16 cache once"), rows)


def substitute(report: Any) -> str:
    """Return what drawings do on a card, and the memory of the largest batches beside the plan's."""
    head = ("model", "batch", "kernels a decode step", "of these products", "kernels outside", "copies", "waits")
    counted: list[list[str]] = []
    planned: list[list[str]] = []
    for card in report:
        memory = f"{card['memory'] / 2**30:.0f} GiB"
        for model, found in card.items():
            if not isinstance(found, dict):
                continue
            for name, step in found.items():
                if name.startswith("a decode step"):
                    batch = name.split()[-1]
                    drawing = found[f"a drawing, batch {batch}"]
                    copies = drawing["copies to the card"] + drawing["copies to the host"]
                    numbers = (step["kernels"], step["products"], drawing["kernels"], copies, drawing["waits"])
                    counted.append([model, batch, *(f"{one:,}" for one in numbers)])
            if "largest" in found:
                own = found["largest"]
                peak, plan = own["peak bytes"], own["planned bytes"]
                fitted = str(own["batch"])
                if own["batch that fitted"] < own["batch"]:
                    fitted += f", of which {own['batch that fitted']} fitted"
                numbers = (f"{plan / 1e9:.1f}", f"{peak / 1e9:.1f}", f"{peak / plan - 1:+.1%}")
                planned.append([model, memory, fitted, *numbers])
            elif "does not fit" in found:
                planned.append([model, memory, "the weights do not fit", f"{found['does not fit'] / 1e9:.1f}", "", ""])
    columns = ("model", "card", "batch by the plan", "GB by the plan", "GB at most", "difference")
    return f"torch {report[0]['torch']}.\n\n{table(head, counted)}\n\n{table(columns, planned)}"


DRAWN_ELSEWHERE = {"cluster"}  # bench.cluster draws its own figure
WRITERS: dict[str, Callable[[Any], str]] = {"scaling": scaling, "attention": attention, "substitute": substitute}
"""Writers by the beginning of a file's name; all others are comparisons."""


def draw_scaling(report: Any, path: Path) -> None:
    """Draw time against tasks, memory against tasks, and time against K, as one SVG."""
    from matplotlib.figure import Figure

    tasks = [one for one in report["runs"] if one["steps"] == report["runs"][0]["steps"]]
    steps = [one for one in report["runs"] if one["tasks"] == report["runs"][0]["tasks"]]
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = (
        (tasks, "tasks", "seconds", 1.0, "seconds"),
        (tasks, "tasks", "peak_bytes", 2**20, "peak memory, MiB"),
        (steps, "steps", "seconds", 1.0, "seconds"),
    )
    for place, (runs, across, up, unit, label) in enumerate(panels):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.plot([run[across] for run in runs], [run[up] / unit for run in runs], marker="o")
        axes.set(xlabel={"tasks": "tasks", "steps": "K"}[across], ylabel=label)
        axes.set_ylim(0, 1.1 * max(run[up] / unit for run in runs))  # no point touches the frame
        axes.set_xlim(0, 1.1 * max(run[across] for run in runs))
    save_figure(figure, path)


def draw_comparisons(reports: Sequence[Any], path: Path) -> None:
    """Draw seconds per step of one drawing against the batch, one panel per report, as one SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(reports), 3.4), layout="constrained")
    for place, report in enumerate(reports):
        batches = [one["batch"] for one in report["batches"]]
        maker = report["machine"]["name"].split()[0]
        axes = figure.add_subplot(1, len(reports), place + 1)
        for label, times in (
            ("plain loop", [one["plain"]["step"] for one in report["batches"]]),
            ("engine", [one["engine"]["step"] for one in report["batches"]]),
            ("the machine's limit", [one["limit"] for one in report["batches"]]),
        ):
            axes.plot(batches, times, marker="o", label=label)
        title = f"{report['model']}, {maker}"
        axes.set(xlabel="batch", ylabel="seconds a step and drawing", title=title, xscale="log", yscale="log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Save a figure with its letters as text: a third of the size, and the same bytes each time."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milr"}):
        figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Put each file's table between the marks with its name, and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder of JSON files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to fill; its figures go to images/ beside it")
    given = parser.parse_args(argv)
    (given.page.parent / "images").mkdir(exist_ok=True)
    comparisons: list[Any] = []
    page = given.page.read_text(encoding="utf-8")
    for path in sorted(given.results.glob("*.json")):
        if path.stem in DRAWN_ELSEWHERE:
            continue
        writer = WRITERS.get(path.stem.split("-")[0], comparison)
        report = json.loads(path.read_text(encoding="utf-8"))
        text = writer(report)
        marks = re.compile(rf"(<!-- {re.escape(path.stem)} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = marks.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
        if writer is scaling:
            draw_scaling(report, given.page.parent / "images" / "scaling.svg")
        elif writer is comparison and len(report["batches"]) > 1:
            comparisons.append(report)
    draw_comparisons(comparisons, given.page.parent / "images" / "batches.svg")
    write_text(given.page, page)


if __name__ == "__main__":
    main()
