"""A strip: all images of a task in a row, or in rows, with their steps and rewards, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from milr.runs.schema import StoredStep
from milr.types import Score, StepRecord, Unscored, rank

COLUMNS = 7
LEAST, MOST = 128, 384  # an image's width in the strip, in pixels
LEAST_WIDTH = 320  # of the whole strip, so that a title has room above a single image
MARGIN, GAP, FRAME = 16, 12, 4
TITLE_SIZE, LABEL_SIZE = 20, 14
TITLE_LINE, LABEL_LINE = 26, 22
PAPER, INK, FAINT, EDGE = "white", "#1f2328", "#59636e", "#d1d9e0"

Outcome: TypeAlias = Literal["met", "improved", "failed"]
"""Outcome of a search: its reward is above the stop value, above that of the first image, or neither."""
COLORS: Mapping[Outcome, str] = {"met": "#1a7f37", "improved": "#9a6700", "failed": "#b42318"}

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Frame:
    """One image of a strip."""

    image: Image.Image
    label: str
    """Text below the image at the left, for instance "step 3"."""
    reward: str
    """Text below the image at the right, for instance "0.75"."""
    outcome: Outcome | None = None
    """Outcome, for the best image alone: its frame has the outcome's colour, and the word is next to its reward."""


def find_outcome(first: Score | Unscored, last: StepRecord | StoredStep) -> Outcome:
    """Return the outcome of a search, from the score of its first image and its last record."""
    if last.finished == "met":
        return "met"
    return "improved" if rank(last.best_score) > rank(first) else "failed"


def draw_strip(title: str, frames: Sequence[Frame]) -> Image.Image:
    """Lay the frames out in reading order under the title; the best one has a frame in its outcome's colour.

    Args:
        title: The prompt; wrapped to the strip's width.
        frames: At least one; all are shown at the size of the first.

    Returns:
        An RGB image. Small images are enlarged by a whole factor, so that their pixels stay sharp.
    """
    cell_width, cell_height = _cell(frames[0].image)
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    width = max(LEAST_WIDTH, 2 * MARGIN + columns * cell_width + (columns - 1) * GAP)
    title_font, label_font = ImageFont.load_default(size=TITLE_SIZE), ImageFont.load_default(size=LABEL_SIZE)
    lines = _wrap(title, title_font, width - 2 * MARGIN)
    top = MARGIN + len(lines) * TITLE_LINE + GAP
    row_height = cell_height + LABEL_LINE + GAP
    strip = Image.new("RGB", (width, top + rows * row_height - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + number * TITLE_LINE), line, INK, title_font)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (cell_width + GAP), top + row * row_height
        # an edge for all images, because many have white grounds
        edge, color = (FRAME, COLORS[frame.outcome]) if frame.outcome else (1, EDGE)
        pen.rectangle((x - edge, y - edge, x + cell_width + edge - 1, y + cell_height + edge - 1), color)
        strip.paste(_fit(frame.image, cell_width, cell_height), (x, y))
        below = y + cell_height + LABEL_LINE // 2 + FRAME // 2
        pen.text((x, below), frame.label, color if frame.outcome else FAINT, label_font, anchor="lm")
        said = f"{frame.reward} {frame.outcome}" if frame.outcome else frame.reward
        pen.text((x + cell_width, below), said, color if frame.outcome else INK, label_font, anchor="rm")
    return strip


def _cell(image: Image.Image) -> tuple[int, int]:
    """Return the width and height at which images are shown."""
    width, height = image.size
    if width > MOST:
        return MOST, max(1, round(height * MOST / width))
    factor = -(-LEAST // width)
    return width * factor, height * factor


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    how = Image.Resampling.NEAREST if width >= image.width else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((width, height), how)


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
