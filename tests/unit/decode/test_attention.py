"""Attention of one token equals torch's own function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from milr.decode import attention
from milr.decode.attention import attend


def added(sees: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores, from a mask that is true if a query may attend to a key."""
    return torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))


@pytest.mark.parametrize("heads", [4, 8])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("piece", [1, 700, 2**20])  # block sizes: one head, some heads, all heads at once
def test_attention_equals_torchs(
    heads: int, queries: int, masked: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_PIECE", piece)
    chance = torch.Generator().manual_seed(heads + queries)
    query = torch.randn(3, heads, queries, 16, generator=chance)
    room = torch.randn(2, 3, 4, 20, 16, generator=chance)
    key, value = room[..., :11, :]  # views, as from a cache
    mask = torch.ones(queries, 11, dtype=torch.bool).tril(11 - queries).expand(3, 1, -1, -1).clone()
    if masked:
        mask[1, :, :, :4] = False
    found = attend(query, key, value, added(mask) if masked or queries > 1 else None)
    assert found.shape == query.shape
    expected = F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(found, expected)


def test_half_precision_is_summed_in_full() -> None:
    """Compared with float64, the error is only that of rounding the result to bfloat16."""
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, length, 16, generator=chance).bfloat16() for length in (1, 300, 300))
    found = attend(query, key, value, None)
    assert found.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_masked_keys_change_nothing() -> None:
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 1, 8, generator=chance)
    key, value = torch.randn(2, 2, 4, 6, 8, generator=chance)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[0, ..., :2] = False
    before = attend(query, key, value, added(mask))
    key[0, :, :2] = 100.0
    value[0, :, :2] = 100.0
    assert torch.equal(before, attend(query, key, value, added(mask)))
