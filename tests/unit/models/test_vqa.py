"""Images as input of a Janus checkpoint's vision tower, and which answers count as yes or no."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from milr.models.vqa import VisualQA, to_square

GROUND = (127, 127, 127)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((1000, 668), (384, 256)),  # 256.512: transformers rounds to 257
        ((668, 1000), (256, 384)),
        ((999, 10), (384, 14)),  # never fewer than 14
        ((384, 384), (384, 384)),
        ((64, 64), (384, 384)),
    ],
)
def test_the_shorter_edge_is_cut_off_to_whole_pixels(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    square = to_square(Image.new("RGB", size, "red"), 384, GROUND)
    assert square.size == (384, 384)
    left, top = ((384 - edge) // 2 for edge in scaled)
    box = (left, top, left + scaled[0], top + scaled[1])
    inside = square.crop(box)
    assert inside.getcolors() == [(scaled[0] * scaled[1], (255, 0, 0))]
    reds = sum(count for count, color in square.getcolors() or [] if color == (255, 0, 0))
    assert reds == scaled[0] * scaled[1], "nothing but the image is red"


def test_a_square_of_the_right_size_stays_as_it_is() -> None:
    image = Image.effect_noise((384, 384), 50).convert("RGB")
    assert to_square(image, 384, GROUND).tobytes() == image.tobytes()


WORDS = [" yes", "yes", " Yes", " no", "No", "<think>", "Y", "es"]


def tokenize(text: str, **_: Any) -> dict[str, list[int]]:
    """A tokenizer whose listed words are tokens; other words are read in pairs of letters."""
    return {"input_ids": [WORDS.index(text)] if text in WORDS else [6, 7]}


def test_a_yes_is_a_yes_in_all_its_spellings_and_only_if_it_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest for yes and no is not a verdict if the model would begin with another word."""
    chances = torch.tensor(
        [
            [0.2, 0.1, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05],
            [0.0, 0.0, 0.0, 0.9, 0.0, 0.1, 0.0, 0.0],
            [1e-8, 0.0, 0.0, 1e-10, 0.0, 0.99, 0.0, 0.0],
        ]
    )
    rows = [SimpleNamespace(last=row.log()) for row in chances]
    monkeypatch.setattr(VisualQA, "_embed", lambda self, images, questions, write: images)
    parts: Any = dict.fromkeys(("network", "image_processor", "embed", "images_at_once"))
    vqa = VisualQA(
        engine=SimpleNamespace(prefill_all=lambda embedded: rows),  # type: ignore[arg-type]
        prompts=SimpleNamespace(question=None),  # type: ignore[arg-type]
        tokenizer=tokenize,
        text_head=SimpleNamespace(logits=lambda states: states),  # type: ignore[arg-type]
        **parts,
    )
    right, wrong, neither = vqa.answer([Image.new("RGB", (1, 1))] * 3, ["?"] * 3)
    assert (right, wrong) == (pytest.approx(0.6 / 0.8), 0.0)
    assert math.isnan(neither)
