"""HTML for notebooks: images inside the page, texts with changed words marked, tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from difflib import SequenceMatcher
from html import escape

from PIL import Image

from milr.png import encode_png

_SHOWN = 320  # most pixels per side of an image


def show_image(image: Image.Image, alt: str = "image") -> str:
    """Return an image as HTML, inside the page, enlarged by a whole factor or made smaller."""
    factor = max(1, _SHOWN // (2 * max(image.size)))
    width, height = (side * factor for side in image.size)
    data = base64.b64encode(encode_png(image)).decode("ascii")
    style = f"image-rendering:pixelated;max-width:{_SHOWN}px;height:auto"
    source = f"data:image/png;base64,{data}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}" style="{style}">'


def mark_changes(before: str, after: str) -> str:
    """Return a text as HTML in which the words that another text lacks are marked."""
    old, new = before.split(), after.split()
    parts: list[str] = []
    for tag, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        words = escape(" ".join(new[start:end]))
        if words:
            parts.append(words if tag == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def show_table(title: str, rows: Mapping[str, object]) -> str:
    """Return names and values as an HTML table under a title."""
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<b>{escape(title)}</b><table>{cells}</table>"
