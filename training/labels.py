"""`python -m training sheets`: drawings of the embedded model to be looked at one by one, and labelled by eye.

A critic that was taught on rendered scenes may err on what a model draws: icons torn or merged, one too many, half a
colour. The labels ship with the package (`milr.selftest.icons`), where `milr doctor icons` holds both critics to
them. Prompts are fresh, of the kinds of `icons-hard`, where most first drawings are wrong.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from milr import load_model
from milr.files import write_text
from training.report import draw_once, reason_all
from training.scenes import World, read_forbidden, read_held_out
from training.stage import Settings

SEED = 91_000
COLUMNS, LINES = 6, 5
CAPTION = 42  # pixels under a drawing
LETTERS = 24  # of a caption's line


def draw_sheets(settings: Settings, folder: Path) -> None:
    """Write `drawings.jsonl`, a prompt and its tokens a line, and sheets of numbered drawings, to ``folder``."""
    own = settings["labels"]
    model = load_model(settings["export"]["folder"], dtype="bfloat16")
    random = np.random.default_rng(SEED)
    world = World(random, read_held_out(), read_forbidden(), **own["world"])
    tasks = [world.request() for _ in range(own["drawings"])]
    drawings = draw_once(model, tasks, reason_all(model, tasks), seed=5)
    lines = [
        json.dumps({"prompt": task.prompt, "tokens": drawing.tokens})
        for task, drawing in zip(tasks, drawings, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "drawings.jsonl", "\n".join(lines) + "\n")
    for start in range(0, len(tasks), COLUMNS * LINES):
        stop = start + COLUMNS * LINES
        numbered = [f"{n}: {task.prompt}" for n, task in enumerate(tasks[start:stop], start)]
        lay_out([drawing.image for drawing in drawings[start:stop]], numbered).save(folder / f"sheet_{start:04d}.png")


def lay_out(pictures: list[Image.Image], captions: list[str]) -> Image.Image:
    """A sheet of drawings, each above its caption."""
    side = pictures[0].width
    width, height = side + 8, side + CAPTION + 6
    sheet = Image.new("RGB", (COLUMNS * width, LINES * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % COLUMNS * width, place // COLUMNS * height
        sheet.paste(picture, (x, y))
        for number, line in enumerate(textwrap.wrap(caption, LETTERS)):
            pen.text((x, y + side + 1 + 13 * number), line, "black", font)
    return sheet
