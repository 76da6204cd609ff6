"""Sixty prompts picked by a seeded shuffle, each with its first drawing and the best of a search: nothing is chosen.

    python experiments/gallery.py --out docs/images/gallery.png
    python experiments/gallery.py --benchmark icons-hard --strategy steer --text-ratio 1 --lr 0.015 --out ...

The first drawing is the model's one shot after reasoning: step 0 of the same search. A green edge: the judge, which no
search sees, calls the picture right.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from milr import SearchConfig, Task, load_model, load_reward, search
from milr.benchmarks import load_benchmark
from milr.types import ImageSample, is_met

COLUMNS, GAP, LINE, EDGE = 5, 12, 18, 4
PAPER, INK, RIGHT, WRONG = "white", "#1f2328", "#1a7f37", "#d1d9e0"


@dataclass
class Pair:
    """A prompt's first and best drawing."""

    task: Task
    first: ImageSample
    best: ImageSample
    drawings: float


def make_pairs(arguments: argparse.Namespace) -> list[Pair]:
    """Search each of the picked prompts."""
    tasks = list(load_benchmark(arguments.benchmark).read(None))
    random.Random(arguments.seed).shuffle(tasks)
    model, reward = load_model(dtype="bfloat16"), load_reward("icons")
    settings: dict[str, Any] = {
        "seed": arguments.seed,
        "max_rows": arguments.number,
        "strategy": arguments.strategy,
        "text_ratio": arguments.text_ratio,
        "learning_rate": arguments.lr,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    config = SearchConfig.model_validate({**model.search_defaults, **settings})
    firsts: dict[int, ImageSample] = {}
    pairs: dict[int, Pair] = {}
    for record in search(tasks[: arguments.number], model, reward, config):
        firsts.setdefault(record.index, record.drawings[0])
        if record.finished:
            pairs[record.index] = Pair(record.task, firsts[record.index], record.best, record.drawings_spent)
    return [pairs[index] for index in sorted(pairs)]


def draw_pairs(pairs: list[Pair]) -> tuple[Image.Image, int, int]:
    """The sheet, and how many first and best drawings the judge calls right."""
    judge = load_reward("icons-judge")
    tasks = [pair.task for pair in pairs]
    right = [
        [is_met(score, None) for score in judge([getattr(pair, which).picture for pair in pairs], tasks)]
        for which in ("first", "best")
    ]
    side = pairs[0].first.picture.width
    width, height = 2 * side + GAP, side + 2 * LINE + GAP
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 2 * GAP), rows * (height + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, pair in enumerate(pairs):
        x, y = GAP + place % COLUMNS * (width + 2 * GAP), GAP + place // COLUMNS * (height + GAP)
        for shift, drawing, met in ((0, pair.first, right[0][place]), (side + GAP, pair.best, right[1][place])):
            corners = (x + shift - EDGE, y - EDGE, x + shift + side + EDGE - 1, y + side + EDGE - 1)
            pen.rectangle(corners, RIGHT if met else WRONG)
            sheet.paste(drawing.picture, (x + shift, y))
        pen.text((x, y + side + EDGE + 1), pair.task.prompt.removeprefix("a photo of "), INK, font)
        said = f"first, then the best of {pair.drawings:.0f}" if pair.drawings > 1 else "met at once"
        pen.text((x, y + side + EDGE + 1 + LINE), said, "#59636e", font)
    return sheet, sum(right[0]), sum(right[1])


def main() -> None:
    """Search, draw the sheet, say how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--benchmark", default="icons")
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategy")
    parser.add_argument("--text-ratio", type=float)
    parser.add_argument("--lr", type=float)
    arguments = parser.parse_args()
    sheet, first, best = draw_pairs(make_pairs(arguments))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"{first} first drawings and {best} best ones of {arguments.number} right by icons-judge: {arguments.out}")


if __name__ == "__main__":
    main()
