"""`python -m training sheets`: drawings of the embedded model to be looked at one by one, and labelled by eye.

A critic that was taught on rendered scenes may err on a model's drawings: icons torn or merged, one too many, half a
colour. Three kinds of sheets are made, the same for everyone:

* `sheet_*.png`: drawings with their prompts, to be labelled right or wrong in `labels.json`. `python -m training
  labelled` then stores drawings and labels in the package (`milr.selftest.icons`), where `milr doctor icons` holds both
  critics to them. Prompts are fresh and hard, so that many first drawings are wrong.
* `stranger_*.png`: sixty drawings with numbers alone. Somebody who does not know the prompts names all objects.
* `wrong_*.png`: a hundred drawings that the evaluator calls wrong, with numbers alone. Somebody says whether they show
  recognisable objects alone.

`drawings.jsonl`, `stranger.jsonl` and `wrong.jsonl` have a prompt, its text and its image tokens a line.
"""

from __future__ import annotations

import json
import lzma
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from milr import load_model
from milr.files import write_bytes, write_text
from milr.tasks import parse_prompt
from milr.types import Reasoning, Task
from training.properties.studio import Drawing, Studio, open_studio, passes
from training.stage import Settings
from training.world import open_world

SEED = 91_000
COLUMNS, LINES = 6, 5
CAPTION = 42  # pixels under a drawing
LETTERS = 26  # of a caption's line
_AT_ONCE = 64
_MOST_TRIED = 12  # times the number of wrong drawings that are wanted

Drawn = tuple[Task, Reasoning, Drawing]


def draw_sheets(settings: Settings, folder: Path) -> None:
    """Write all three kinds of sheets and their lines to ``folder``."""
    own = settings["labels"]
    studio = open_studio(settings, load_model(settings["export"]["folder"], dtype="bfloat16"))
    folder.mkdir(parents=True, exist_ok=True)
    labelled = draw(studio, settings, "labels", own["drawings"])
    prompts = [f"{n}: {task.prompt}" for n, (task, _, _) in enumerate(labelled)]
    write_sheets(labelled, folder, "sheet", "drawings", prompts)
    drawn = draw(studio, settings, "stranger", own["stranger"])
    write_sheets(drawn, folder, "stranger", "stranger", [str(n) for n in range(len(drawn))])
    faulty = draw_wrong(studio, settings, own["wrong"])
    write_sheets(faulty, folder, "wrong", "wrong", [str(n) for n in range(len(faulty))])


def draw(studio: Studio, settings: Settings, label: str, number: int) -> list[Drawn]:
    """Draw fresh prompts once after their greedy texts; the label chooses the prompts and the random numbers."""
    world = open_world(SEED + zlib.crc32(label.encode()), **settings["labels"]["world"])
    tasks = [world.request() for _ in range(number)]
    texts = studio.write(tasks)
    return list(zip(tasks, texts, studio.draw(tasks, texts, label), strict=True))


def draw_wrong(studio: Studio, settings: Settings, number: int) -> list[Drawn]:
    """Return first drawings that the evaluator calls wrong; fewer if after many tries there are no more."""
    found: list[Drawn] = []
    for turn in range(max(1, _MOST_TRIED * number // _AT_ONCE)):
        if len(found) >= number:
            break
        found += [one for one in draw(studio, settings, f"wrong {turn}", _AT_ONCE) if not one[2].right]
    return found[:number]


def store_labels(settings: Settings, sheets: Path, target: Path) -> int:
    """Write the labelled drawings that ship with the package; return their number.

    Args:
        settings: Settings of all stages.
        sheets: Folder of `drawings.jsonl` and of `labels.json`: number of a drawing -> true if it is right, false, or
            null if it could not be decided; those are left out.
        target: The file, `milr.selftest.icons.LABELLED`.
    """
    rows = [json.loads(line) for line in (sheets / "drawings.jsonl").read_text().splitlines()]
    labels: dict[str, bool | None] = json.loads((sheets / "labels.json").read_text())
    studio = open_studio(settings, load_model(settings["export"]["folder"]))
    images = [studio.model.show_tokens(row["tokens"]) for row in rows]
    tasks = [parse_prompt(row["prompt"]) for row in rows]
    critics = {critic.name.split("@")[0]: passes(critic(images, tasks)) for critic in (studio.reward, studio.evaluator)}
    stored = [
        {
            "prompt": row["prompt"],
            "tokens": row["tokens"],
            "right": labels[str(place)],
            "called_right": [name for name, called in critics.items() if called[place]],
        }
        for place, row in enumerate(rows)
        if labels[str(place)] is not None
    ]
    lines = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in stored)
    write_bytes(target, lzma.compress(lines.encode(), preset=9))
    return len(stored)


def write_sheets(drawn: Sequence[Drawn], folder: Path, name: str, lines: str, captions: Sequence[str]) -> None:
    """Write numbered sheets of drawings and a file with a line for each.

    Args:
        drawn: Prompts, texts and drawings.
        folder: Where the files are written.
        name: Beginning of the sheets' names.
        lines: Name of the file of lines.
        captions: Text under each drawing.
    """
    rows = [
        json.dumps({"prompt": task.prompt, "text": text.text, "tokens": drawing.tokens})
        for task, text, drawing in drawn
    ]
    write_text(folder / f"{lines}.jsonl", "\n".join(rows) + "\n")
    for start in range(0, len(drawn), COLUMNS * LINES):
        stop = start + COLUMNS * LINES
        images = [drawing.image for _, _, drawing in drawn[start:stop]]
        lay_out(images, captions[start:stop]).save(folder / f"{name}_{start:04d}.png")


def lay_out(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Return a sheet of drawings, each above its caption."""
    side = images[0].width
    width, height = side + 8, side + CAPTION + 6
    sheet = Image.new("RGB", (COLUMNS * width, LINES * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = place % COLUMNS * width, place // COLUMNS * height
        sheet.paste(image, (x, y))
        for number, line in enumerate(textwrap.wrap(caption, LETTERS)):
            pen.text((x, y + side + 1 + 13 * number), line, "black", font)
    return sheet
