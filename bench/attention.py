"""Attention of one token over a cache: the engine's way beside others, for bfloat16 and float32 keys and values.

    python -m bench.attention --json bench/results/attention.json
    MKL_ENABLE_INSTRUCTIONS=AVX512 python -m bench.attention    # an Intel processor as if it had no AVX512_BF16

With bfloat16, the engine converts pieces of the cache and multiplies in float32; with float32, it takes torch's fused
kernel if torch was built with MKL. One layer, one token, the best of several tries each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from bench.machine import measure_machine, seconds
from milr.decode.attention import _attend_one, attend  # pyright: ignore[reportPrivateUsage]
from milr.files import write_text


@dataclass(frozen=True)
class Shape:
    """Shape of one layer's cache: rows (two per drawing), key heads, tokens so far, a head's width."""

    model: str
    rows: int
    heads: int
    tokens: int
    width: int

    @property
    def numbers(self) -> int:
        """Return the count of numbers in keys and values together."""
        return 2 * self.rows * self.heads * self.tokens * self.width


SHAPES = (
    Shape("embedded, batch 1", 2, 4, 180, 64),
    Shape("embedded, batch 8", 16, 4, 180, 64),
    Shape("embedded, batch 32", 64, 4, 180, 64),
    Shape("janus-1b-random, batch 16", 32, 16, 400, 128),
    Shape("janus-1b-random, batch 32", 64, 16, 400, 128),
)


def by_products(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Compute attention by two batched products and a softmax, in the dtype of the keys."""
    rows, heads, _, width = query.shape
    asked = (query.to(keys.dtype) * width**-0.5).reshape(rows * heads, width, 1)
    scores = torch.bmm(keys.flatten(0, 1), asked).float()  # (B H, T, 1)
    weights = scores.transpose(1, 2).softmax(-1).to(keys.dtype)
    return torch.bmm(weights, values.flatten(0, 1)).to(query.dtype).reshape(rows, heads, 1, width)


@torch.inference_mode()
def measure(shape: Shape, tries: int) -> Mapping[str, float]:
    """Return the seconds of each implementation."""
    stream = torch.Generator().manual_seed(0)
    # room for more tokens than are filled, as in a drawing in progress
    room = torch.randn(2, shape.rows, shape.heads, 2 * shape.tokens, shape.width, generator=stream)
    query = torch.randn(shape.rows, shape.heads, 1, shape.width, generator=stream).bfloat16()
    half = room.bfloat16()
    keys, values = half[..., : shape.tokens, :].unbind(0)
    wide_keys, wide_values = half.float()[..., : shape.tokens, :].unbind(0)
    wide = query.float()
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "engine": lambda: attend(query, keys, values, None),
        "bfloat16 products": lambda: by_products(query, keys, values),
        "torch, fused": lambda: F.scaled_dot_product_attention(query, keys, values),
        "float32: engine": lambda: attend(wide, wide_keys, wide_values, None),
        "float32: own way": lambda: _attend_one(wide, wide_keys, wide_values, None),
        "float32: products": lambda: by_products(wide, wide_keys, wide_values),
    }
    expected = ways["engine"]().float()
    for way in ways.values():
        torch.testing.assert_close(way().float(), expected, rtol=0.05, atol=0.02)
    return {name: min(seconds(way) for _ in range(tries)) for name, way in ways.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all shapes and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=15, help="of which the best one counts")
    parser.add_argument("--tokens", type=int, help="in the caches, in place of each shape's own")
    parser.add_argument("--json", type=Path, help="a file to write as well")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    machine = measure_machine(torch.bfloat16)
    shapes = [replace(shape, tokens=given.tokens or shape.tokens) for shape in SHAPES]
    runs = [{**asdict(one), "numbers": one.numbers, "seconds": measure(one, given.tries)} for one in shapes]
    text = json.dumps({"machine": asdict(machine), "shapes": runs}, indent=1)
    if given.json:
        write_text(given.json, text + "\n")
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
