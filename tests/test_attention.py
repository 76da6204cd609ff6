"""Attention of one token gives what transformers' own function gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from milr.decode.attention import attend


class Layer(nn.Module):
    """What transformers' function reads of a layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


@pytest.mark.parametrize("heads", [4, 8])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_transformers(heads: int, queries: int, masked: bool) -> None:
    chance = torch.Generator().manual_seed(heads + queries)
    query = torch.randn(3, heads, queries, 16, generator=chance)
    key, value = torch.randn(2, 3, 4, 11, 16, generator=chance)
    mask = torch.ones(queries, 11, dtype=torch.bool).tril(11 - queries).expand(3, 1, -1, -1).clone()
    if masked:
        mask[1, :, :, :4] = False
    layer = Layer(heads // 4)
    given = mask if masked or queries > 1 else None
    ours, weights = attend(layer, query, key, value, given, scaling=0.3)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, given, scaling=0.3)
    assert weights is None
    assert ours.shape == (3, queries, heads, 16)
    torch.testing.assert_close(ours, theirs)


def test_hidden_keys_change_nothing() -> None:
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 1, 8, generator=chance)
    key, value = torch.randn(2, 2, 4, 6, 8, generator=chance)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[0, ..., :2] = False
    before, _ = attend(Layer(1), query, key, value, mask)
    key[0, :, :2] = 100.0
    value[0, :, :2] = 100.0
    after, _ = attend(Layer(1), query, key, value, mask)
    assert torch.equal(before, after)
