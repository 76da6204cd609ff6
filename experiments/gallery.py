"""Sixty prompts picked by a seeded shuffle, each with its first image and the best of a search: none is selected.

    python -m experiments.gallery --out docs/images/gallery.webp
    python -m experiments.gallery --benchmark icons-hard --strategy steer --out ...

By default half of the prompts are of `icons`, half of `icons-hard`. The first image is the model's one shot after
reasoning: step 0 of the same search. A green edge: the evaluator, which no search sees, calls the image right.
"""

from __future__ import annotations

import argparse
import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from milr import Task, load_model, load_reward, search
from milr.benchmarks import load_benchmark
from milr.types import ImageSample, is_met

COLUMNS, GAP, LINE, EDGE = 5, 12, 18, 4
PAPER, INK, RIGHT, WRONG = "white", "#1f2328", "#1a7f37", "#d1d9e0"


@dataclass
class Pair:
    """A prompt's first and best image."""

    task: Task
    first: ImageSample
    best: ImageSample
    drawings: float


def make_pairs(arguments: argparse.Namespace) -> list[Pair]:
    """Search for each of the picked prompts."""
    share = -(-arguments.number // len(arguments.benchmark))
    tasks: list[Task] = []
    for name in arguments.benchmark:
        found = list(load_benchmark(name).read(None))
        random.Random(arguments.seed).shuffle(found)
        tasks += found[:share]
    model, reward = load_model(dtype="bfloat16"), load_reward("icons")
    changes = {name: getattr(arguments, name) for name in ("strategy", "text_ratio", "learning_rate", "steps")}
    settings = model.settings(
        seed=arguments.seed,
        batch_size=arguments.number,
        **{name: value for name, value in changes.items() if value is not None},
    )
    firsts: dict[int, ImageSample] = {}
    pairs: dict[int, Pair] = {}
    for record in search(tasks[: arguments.number], model, reward, settings):
        firsts.setdefault(record.index, record.images[0])
        if record.finished:
            pairs[record.index] = Pair(record.task, firsts[record.index], record.best, record.drawings_spent)
    return [pairs[index] for index in sorted(pairs)]


def draw_pairs(pairs: list[Pair]) -> tuple[Image.Image, int, int]:
    """Return the sheet, and how many first and best images the evaluator calls right.

    Prompts whose image the search changed come first, both images at full size; the others have one image, at half
    size.
    """
    evaluator = load_reward("icons-judge")
    tasks = [pair.task for pair in pairs]
    right = [
        [is_met(score, None) for score in evaluator([getattr(pair, which).image for pair in pairs], tasks)]
        for which in ("first", "best")
    ]
    judged = list(zip(pairs, *right, strict=True))
    changed = [one for one in judged if one[0].first != one[0].best]
    kept = [one for one in judged if one[0].first == one[0].best]
    side = pairs[0].first.image.width
    parts = [[_draw_changed(*one) for one in changed], [_draw_kept(*one, side // 2) for one in kept]]
    width = COLUMNS * (2 * side + 4 * GAP)
    rows = [row for tiles in parts for row in _break_lines(tiles, width)]
    sheet = Image.new("RGB", (width, sum(row[0].height for row in rows)), PAPER)
    y = 0
    for row in rows:
        for place, tile in enumerate(row):
            sheet.paste(tile, (place * tile.width, y))
        y += row[0].height
    return sheet, sum(right[0]), sum(right[1])


def _draw_changed(pair: Pair, first: bool, best: bool) -> Image.Image:
    """Return a prompt's first and best image side by side, with what was asked and what it cost."""
    side = pair.first.image.width
    tile = Image.new("RGB", (2 * side + 4 * GAP, side + 2 * LINE + 3 * GAP), PAPER)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=13)
    for shift, sample, met in ((0, pair.first, first), (side + GAP, pair.best, best)):
        _frame(tile, sample.image, GAP + shift, met)
    pen.text((GAP, side + GAP + EDGE + 1), pair.task.prompt.removeprefix("a photo of "), INK, font)
    said = f"first, then the best of {pair.drawings:.0f}"
    pen.text((GAP, side + GAP + EDGE + 1 + LINE), said, "#59636e", font)
    return tile


def _draw_kept(pair: Pair, first: bool, best: bool, side: int) -> Image.Image:
    """Return the image of a prompt that the search did not change, small, with what was asked."""
    tile = Image.new("RGB", (side + 4 * GAP, side + 3 * LINE + 2 * GAP), PAPER)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=11)
    _frame(tile, pair.first.image.resize((side, side), Image.Resampling.LANCZOS), GAP, first)
    said = textwrap.wrap(pair.task.prompt.removeprefix("a photo of "), 22)
    pen.multiline_text((GAP, side + GAP + EDGE + 1), "\n".join(said[:3]), INK, font)
    return tile


def _frame(tile: Image.Image, image: Image.Image, x: int, met: bool) -> None:
    pen = ImageDraw.Draw(tile)
    pen.rectangle(
        (x - EDGE, GAP - EDGE, x + image.width + EDGE - 1, GAP + image.height + EDGE - 1), RIGHT if met else WRONG
    )
    tile.paste(image, (x, GAP))


def _break_lines(tiles: Sequence[Image.Image], width: int) -> Iterator[Sequence[Image.Image]]:
    """Yield as many tiles at once as a line of the sheet holds; all are of one size."""
    if tiles:
        many = width // tiles[0].width
        for start in range(0, len(tiles), many):
            yield tiles[start : start + many]


def main(given: Sequence[str] | None = None) -> None:
    """Search, draw the sheet, say how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--benchmark", nargs="+", default=["icons", "icons-hard"])
    parser.add_argument("--number", type=int, default=60, help="prompts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategy")
    parser.add_argument("--text-ratio", type=float)
    parser.add_argument("--lr", type=float, dest="learning_rate")
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args(given)
    sheet, first, best = draw_pairs(make_pairs(arguments))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.out.suffix == ".webp":  # for the documents: small
        sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3)).save(arguments.out, quality=60, method=6)
    else:
        sheet.quantize(128, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"{first} first images and {best} best ones of {arguments.number} right by icons-judge: {arguments.out}")


if __name__ == "__main__":
    main()
