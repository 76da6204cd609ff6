"""Images as a Janus checkpoint's vision tower takes them."""

from __future__ import annotations

import pytest
from PIL import Image

from milr.models.vqa import to_square

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
