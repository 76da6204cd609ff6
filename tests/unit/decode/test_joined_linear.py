"""Joined layers compute what the separate ones do, and the separate ones can still be called."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from milr.decode.decoder import make_table
from milr.decode.joined_linear import add_output, join
from milr.decode.packed_linear import pack

SIZES = {"one": 6, "two": 4, "three": 4}


def make_layers(bias: bool) -> nn.ModuleDict:
    """Make three layers of one input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.ModuleDict({name: nn.Linear(8, size, bias=bias) for name, size in SIZES.items()})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_joined_layers_and_their_parts_compute_what_separate_ones_do(bias: bool, packed: bool) -> None:
    separate: Any = make_layers(bias)
    joined: Any = deepcopy(separate)
    join(joined, list(SIZES), "all")
    join(joined, list(SIZES), "all")  # a second time does nothing
    if packed:
        pack(joined)
    states = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = [separate[name](states) for name in SIZES]
        torch.testing.assert_close(joined["all"](states), torch.cat(expected, dim=-1))
        for name, wanted in zip(SIZES, expected, strict=True):
            torch.testing.assert_close(joined[name](states), wanted)
    assert sum(one.numel() for one in joined.parameters()) <= sum(one.numel() for one in separate.parameters())


@pytest.mark.parametrize("bias", [False, True])
def test_an_output_is_added_to_the_states(bias: bool) -> None:
    layer = nn.Linear(8, 8, bias=bias).requires_grad_(False)
    states, inputs = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(1))
    before = states.clone()
    torch.testing.assert_close(add_output(states, layer, inputs), before + layer(inputs))
    assert torch.equal(states, before)


def test_values_are_not_rotated() -> None:
    """Two groups of query heads and the keys have the angles, the values have none."""
    cosine, sine = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    table = make_table(cosine, sine, 2)
    assert table.shape == (2, 5, 4, 1, 4)
    assert torch.equal(table[:, :, 3, 0], torch.stack([torch.ones(5, 4), torch.zeros(5, 4)]))
    for place in range(3):
        assert torch.equal(table[:, :, place, 0], torch.stack([cosine, sine]))
