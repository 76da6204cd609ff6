"""Attention of one token, by torch's fused kernel and by our own way, equals the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from milr.decode import attention
from milr.decode.attention import attend, is_fused_better
from milr.decode.processor import Processor

WITH_MKL = Processor(intel=True, avx512=True, mkl=True)
WITHOUT_MKL = Processor(intel=True, avx512=True, mkl=False)


@pytest.fixture(params=[WITH_MKL, WITHOUT_MKL], ids=["fused", "own"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the kernel of a processor other than this machine's."""
    monkeypatch.setattr(attention, "this_processor", lambda: request.param)


def added(sees: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores, from a mask that is true if a query may attend to a key."""
    return torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))


def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute attention in float64, one head of keys for each head of queries."""
    many = query.shape[1] // key.shape[1]
    keys, values = (one.double().repeat_interleave(many, dim=1) for one in (key, value))
    scores = query.double() @ keys.transpose(2, 3) / query.shape[-1] ** 0.5 + mask
    return scores.softmax(-1) @ values


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("heads", [4, 8])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("piece", [1, 700, 2**20])  # block sizes: one head, some heads, all heads at once
def test_attention_equals_the_formula(
    heads: int, queries: int, masked: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_PIECE", piece)
    chance = torch.Generator().manual_seed(heads + queries)
    query = torch.randn(3, heads, queries, 16, generator=chance)
    room = torch.randn(2, 3, 4, 20, 16, generator=chance)
    key, value = room[..., :11, :]  # views, as from a cache
    sees = torch.ones(queries, 11, dtype=torch.bool).tril(11 - queries).expand(3, 1, -1, -1).clone()
    if masked:
        sees[1, :, :, :4] = False
    mask = added(sees)
    found = attend(query, key, value, mask if masked or queries > 1 else None)
    assert found.shape == query.shape
    torch.testing.assert_close(found, formula(query, key, value, mask).float())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("heads", [4, 8])
def test_in_float32_a_row_does_not_depend_on_its_neighbours(heads: int) -> None:
    """Results are equal to the bit, alone and in a batch, so that a batch draws what single images are."""
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(16, heads, 1, 64, generator=chance)
    key, value = torch.randn(2, 16, 4, 200, 64, generator=chance)[..., :180, :]
    sees = torch.ones(16, 1, 1, 180, dtype=torch.bool)
    sees[::2, ..., :17] = False  # padding
    together = attend(query, key, value, added(sees))
    alone = [
        attend(query[row : row + 1], key[row : row + 1], value[row : row + 1], added(sees[row : row + 1]))
        for row in range(16)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_half_precision_is_summed_in_full() -> None:
    """Compared with float64, the error is only that of rounding the result to bfloat16."""
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, length, 16, generator=chance).bfloat16() for length in (1, 300, 300))
    found = attend(query, key, value, None)
    assert found.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_masked_keys_change_nothing() -> None:
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 1, 8, generator=chance)
    key, value = torch.randn(2, 2, 4, 6, 8, generator=chance)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[0, ..., :2] = False
    before = attend(query, key, value, added(mask))
    assert before.isfinite().all()
    key[0, :, :2] = 100.0
    value[0, :, :2] = 100.0
    assert torch.equal(before, attend(query, key, value, added(mask)))


def test_the_way_depends_on_the_dtype_and_on_mkl_alone() -> None:
    amd = Processor(intel=False, avx512=True, mkl=True)
    assert is_fused_better(torch.float32, WITH_MKL)
    assert is_fused_better(torch.float32, amd)
    assert not is_fused_better(torch.float32, WITHOUT_MKL)
    for half in (torch.bfloat16, torch.float16):  # whose weights the fused kernel rounds
        assert not is_fused_better(half, WITH_MKL)
