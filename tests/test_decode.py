"""The decoding engine: random streams, the cache, rows of unequal length in lockstep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from milr.decode.cache import PreallocatedCache
from milr.decode.engine import Lockstep
from milr.decode.streams import open_stream, sample
from milr.types import Task

WIDTH = 16

Key = tuple[int, str, int, int, str]
KEYS = st.tuples(
    st.integers(0, 2**31),
    st.text("0123456789abcdef", min_size=16, max_size=16),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["image", "credit"]),
)


def numbers(key: Key, count: int = 8) -> list[float]:
    """The first numbers of a stream."""
    return torch.rand(count, generator=open_stream(*key)).tolist()


@given(KEYS, KEYS)
def test_a_stream_depends_on_all_of_its_key_and_on_nothing_else(one: Key, other: Key) -> None:
    assert numbers(one) == numbers(one)
    for place in range(len(one)):
        changed = (*one[:place], other[place], *one[place + 1 :])
        assert (numbers(changed) == numbers(one)) == (other[place] == one[place])


@given(st.integers(0, 99), st.integers(0, 99))
def test_the_parts_of_a_key_do_not_run_into_each_other(a: int, b: int) -> None:
    assert (numbers((0, "k", a, b, "image")) == numbers((0, "k", b, a, "image"))) == (a == b)
    assert numbers((1, "0", 1, 11, "image")) != numbers((1, "0", 11, 1, "image"))
    assert numbers((0, "k#1", a, b, "image")) != numbers((0, "k", a, b, "image"))


def test_a_tasks_key_is_its_content() -> None:
    plain = Task(prompt="a red cat")
    assert plain.key == Task(prompt="a red cat").key
    assert len({plain.key, Task(prompt="a red cat", tag="colors").key, Task(prompt="a red dog").key}) == 3


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    first = numbers((0, "k", 0, 0, "image"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert numbers((0, "k", 0, 0, "image")) == first


@pytest.mark.parametrize("words", [2, 16, 2048])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_sample_draws_what_multinomial_draws(words: int, temperature: float) -> None:
    ours, theirs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    rows = 2 * torch.randn(300, words, generator=torch.Generator().manual_seed(4))
    drawn = [int(sample(row[None], [ours], temperature)) for row in rows]
    expected = [int(torch.multinomial((row / temperature).softmax(-1)[None], 1, generator=theirs)) for row in rows]
    assert drawn == expected
    assert torch.equal(ours.get_state(), theirs.get_state())
    assert drawn != rows.argmax(-1).tolist()


def test_sample_gives_every_row_a_stream_of_its_own() -> None:
    logits = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    together, alone = ([open_stream(0, key, 0, 0) for key in "abc"] for _ in range(2))
    for _ in range(20):
        drawn = sample(logits, together, 1.0)
        assert drawn.shape == (3,)
        assert drawn.tolist() == [int(sample(logits[i, None], [alone[i]], 1.0)) for i in range(3)]


def test_sample_at_next_to_no_temperature_is_the_argmax() -> None:
    logits = torch.randn(64, 32, generator=torch.Generator().manual_seed(4))
    drawn = sample(logits, [open_stream(0, str(i), 0, 0) for i in range(64)], 1e-6)
    assert torch.equal(drawn, logits.argmax(-1))


@pytest.fixture(scope="module")
def decoder() -> LlamaModel:
    """A tiny Llama of random weights, large enough ones that every position matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
        return LlamaModel(config).eval().requires_grad_(False)


def embeddings(lengths: Sequence[int], seed: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, WIDTH, generator=draw) for length in lengths]


def uncached(decoder: Any, row: torch.Tensor) -> torch.Tensor:
    """All hidden states (T, d) of one row by itself, all positions at once, no cache, no padding."""
    return decoder(inputs_embeds=row[None], use_cache=False).last_hidden_state[0]


def watch_prefill(decoder: Any, rows: Sequence[torch.Tensor], room: int) -> tuple[Lockstep, torch.Tensor]:
    engine = Lockstep(decoder, 2, room)
    return engine, engine.prefill(rows)


@pytest.mark.parametrize("lengths", [(6,), (4, 4, 4), (3, 7, 5), (1, 9)])
def test_cached_equals_uncached_for_rows_of_any_length(decoder: LlamaModel, lengths: tuple[int, ...]) -> None:
    rows, more = embeddings(lengths), embeddings([6] * len(lengths), seed=2)
    engine, states = watch_prefill(decoder, rows, max(lengths) + 6)
    found = [[state[-length:]] for state, length in zip(states, lengths, strict=True)]
    for place in range(6):
        for row, state in zip(found, engine.step(torch.stack([one[place] for one in more])), strict=True):
            row.append(state[None])
    for row, start, rest in zip(found, rows, more, strict=True):
        expected = uncached(decoder, torch.cat([start, rest]))
        torch.testing.assert_close(torch.cat(row), expected, rtol=1e-5, atol=1e-5)


def test_padding_does_not_hide_behind_a_tolerance(decoder: LlamaModel) -> None:
    """Were a row's padding seen, or its positions counted from the padding, its states would be far off."""
    (row,) = embeddings([5])
    right = uncached(decoder, row)
    seen = uncached(decoder, torch.cat([torch.zeros(3, WIDTH), row]))[3:]
    swapped = uncached(decoder, row[[1, 0, 2, 3, 4]])
    assert float((seen - right).abs().max()) > 0.01
    assert float((swapped[-1] - right[-1]).abs().max()) > 0.01


def cache_storage(cache: PreallocatedCache) -> Iterator[int]:
    for layer in cache.layers:
        assert layer.keys is not None and layer.values is not None
        yield from (layer.keys.data_ptr(), layer.values.data_ptr())


def test_the_cache_is_allocated_once_and_written_in_place(decoder: LlamaModel) -> None:
    engine, _ = watch_prefill(decoder, embeddings([3, 5]), 9)
    storage = list(cache_storage(engine.cache))
    assert engine.cache.get_seq_length() == 5
    (first,) = embeddings([2], seed=3)
    kept = engine.cache.layers[0].keys[:, :, :5].clone()  # type: ignore[index]
    for _ in range(4):
        engine.step(first)
    assert list(cache_storage(engine.cache)) == storage
    assert engine.cache.get_seq_length() == 9
    assert torch.equal(engine.cache.layers[0].keys[:, :, :5], kept)  # type: ignore[index]


def test_the_cache_hands_out_views() -> None:
    cache = PreallocatedCache(1, 4)
    states = torch.ones(1, 2, 3, 5)
    keys, values = cache.update(states, 2 * states, 0)
    assert keys.shape == values.shape == (1, 2, 3, 5)
    assert keys.data_ptr() == cache.layers[0].keys.data_ptr()  # type: ignore[union-attr]
    keys, values = cache.update(3 * states[:, :, :1], 4 * states[:, :, :1], 0)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 3]
    assert values[0, 0, :, 0].tolist() == [2, 2, 2, 4]


def test_a_row_that_outgrows_its_room_is_an_error(decoder: LlamaModel) -> None:
    engine, _ = watch_prefill(decoder, embeddings([3]), 3)
    with pytest.raises(IndexError, match="room for 3 tokens, not 4"):
        engine.step(embeddings([1])[0])
