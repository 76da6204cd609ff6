"""Sixty prompts picked by a seeded shuffle, each with its first image and the best of a search: none is selected.

    python -m experiments.gallery --out docs/images/gallery.webp
    python -m experiments.gallery --benchmark icons-hard --strategy steer --out ...

The first image is the model's one shot after reasoning: step 0 of the same search. A green edge: the evaluator, which
no search sees, calls the image right.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
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
    tasks = list(load_benchmark(arguments.benchmark).read(None))
    random.Random(arguments.seed).shuffle(tasks)
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
    """Return the sheet, and how many first and best images the evaluator calls right."""
    evaluator = load_reward("icons-judge")
    tasks = [pair.task for pair in pairs]
    right = [
        [is_met(score, None) for score in evaluator([getattr(pair, which).image for pair in pairs], tasks)]
        for which in ("first", "best")
    ]
    side = pairs[0].first.image.width
    width, height = 2 * side + GAP, side + 2 * LINE + GAP
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 2 * GAP), rows * (height + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, pair in enumerate(pairs):
        x, y = GAP + place % COLUMNS * (width + 2 * GAP), GAP + place // COLUMNS * (height + GAP)
        for shift, sample, met in ((0, pair.first, right[0][place]), (side + GAP, pair.best, right[1][place])):
            corners = (x + shift - EDGE, y - EDGE, x + shift + side + EDGE - 1, y + side + EDGE - 1)
            pen.rectangle(corners, RIGHT if met else WRONG)
            sheet.paste(sample.image, (x + shift, y))
        pen.text((x, y + side + EDGE + 1), pair.task.prompt.removeprefix("a photo of "), INK, font)
        said = f"first, then the best of {pair.drawings:.0f}" if pair.drawings > 1 else "met at once"
        pen.text((x, y + side + EDGE + 1 + LINE), said, "#59636e", font)
    return sheet, sum(right[0]), sum(right[1])


def main(given: Sequence[str] | None = None) -> None:
    """Search, draw the sheet, say how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--benchmark", default="icons")
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
