"""Tests of the decoding engine: random streams, samplers, KV cache, batches of rows with different lengths, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from milr.decode.batch import DecodeBatch
from milr.decode.batching import OutOfMemory, fitting, free_bytes, say_shortage, work_in_batches
from milr.decode.engine import Counts, Engine
from milr.decode.kv_cache import CachedPrefix, KVCache
from milr.decode.llama import Llama
from milr.decode.sampling import SAMPLE, keep_most_probable, open_stream, sample
from milr.settings import SAMPLERS
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
    """Return the first numbers of a stream."""
    return torch.rand(count, generator=open_stream(*key)).tolist()


@given(KEYS, KEYS)
def test_a_stream_depends_on_all_of_its_key_and_on_nothing_else(one: Key, other: Key) -> None:
    assert numbers(one) == numbers(one)
    for place in range(len(one)):
        changed = (*one[:place], other[place], *one[place + 1 :])
        assert (numbers(changed) == numbers(one)) == (other[place] == one[place])


@given(st.integers(0, 99), st.integers(0, 99))
def test_the_parts_of_a_key_are_separated(a: int, b: int) -> None:
    assert (numbers((0, "k", a, b, "image")) == numbers((0, "k", b, a, "image"))) == (a == b)
    assert numbers((1, "0", 1, 11, "image")) != numbers((1, "0", 11, 1, "image"))
    assert numbers((0, "k#1", a, b, "image")) != numbers((0, "k", a, b, "image"))


def test_a_tasks_key_is_its_content() -> None:
    plain = Task(prompt="a red cat")
    assert plain.key == Task(prompt="a red cat").key
    assert len({plain.key, Task(prompt="a red cat", tag="colors").key, Task(prompt="a red dog").key}) == 3


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    before = torch.get_rng_state()
    first = numbers((0, "k", 0, 0, "image"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert numbers((0, "k", 0, 0, "image")) == first


def test_every_sampler_that_settings_name_is_implemented() -> None:
    assert set(SAMPLE) == set(SAMPLERS)


@pytest.mark.parametrize("words", [2, 16, 2048])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_sample_gives_what_multinomial_gives(words: int, temperature: float) -> None:
    ours, theirs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    rows = 2 * torch.randn(300, words, generator=torch.Generator().manual_seed(4))
    drawn = [int(sample(row[None], [ours], temperature, "race")) for row in rows]
    expected = [int(torch.multinomial((row / temperature).softmax(-1)[None], 1, generator=theirs)) for row in rows]
    assert drawn == expected
    assert torch.equal(ours.get_state(), theirs.get_state())
    assert drawn != rows.argmax(-1).tolist()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_sample_gives_every_row_a_stream_of_its_own(sampler: str) -> None:
    logits = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    together, alone = ([open_stream(0, key, 0, 0) for key in "abc"] for _ in range(2))
    for _ in range(20):
        drawn = sample(logits, together, 1.0, sampler)
        assert drawn.shape == (3,)
        assert drawn.tolist() == [int(sample(logits[i, None], [alone[i]], 1.0, sampler)) for i in range(3)]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_token_is_sampled_as_often_as_its_probability_says(sampler: str) -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    stream = torch.Generator().manual_seed(0)
    drawn = [int(sample(probabilities.log()[None], [stream], 1.0, sampler)) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=5) / len(drawn)
    torch.testing.assert_close(shares, probabilities, atol=0.03, rtol=0)  # about four standard deviations
    assert shares[1] == 0


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_top_k_samples_the_most_probable_tokens_alone(sampler: str) -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 2.0, -1.0, 1.0])
    streams = [open_stream(0, str(i), 0, 0) for i in range(400)]
    drawn = sample(logits.expand(400, -1), streams, 2.0, sampler, top_k=2)
    assert set(drawn.tolist()) == {1, 2, 3}, "tokens as probable as the last one are kept"
    streams = [open_stream(0, str(i), 0, 0) for i in range(400)]
    assert set(sample(logits.expand(400, -1), streams, 2.0, sampler, top_k=6).tolist()) == set(range(6))
    kept = keep_most_probable(logits[None], 1, also=torch.tensor([[4, 1]]))
    assert kept.isfinite().tolist() == [[False, True, False, False, True, False]]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_sample_at_almost_no_temperature_is_the_argmax(sampler: str) -> None:
    logits = torch.randn(64, 32, generator=torch.Generator().manual_seed(4))
    drawn = sample(logits, [open_stream(0, str(i), 0, 0) for i in range(64)], 1e-6, sampler)
    assert torch.equal(drawn, logits.argmax(-1))


@pytest.fixture(scope="module", params=[2, 1], ids=["own keys", "shared keys"])
def decoder(request: pytest.FixtureRequest) -> LlamaModel:
    """Make a tiny Llama with random weights that are large enough for every position to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=request.param,
            attention_bias=True,
            initializer_range=0.3,
        )
        network = LlamaModel(config).eval().requires_grad_(False)
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
        return network


@pytest.fixture
def engine(decoder: LlamaModel) -> Engine:
    return Engine(Llama(deepcopy(decoder)))


def embeddings(lengths: Sequence[int], seed: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, WIDTH, generator=draw) for length in lengths]


def step(batch: DecodeBatch, row: torch.Tensor) -> torch.Tensor:
    """Decode one embedding per row (B, d); return the hidden states."""
    batch.step(row, batch.reserve())
    return batch.newest.clone()


def token_bytes(decoder: Any) -> int:
    """Return the bytes of a token's keys and values in two layers, in float32."""
    return 2 * 2 * decoder.config.num_key_value_heads * (WIDTH // 2) * 4


def uncached(decoder: Any, row: torch.Tensor) -> torch.Tensor:
    """Return all hidden states (T, d) of one row alone, in one pass without cache or padding."""
    return decoder(inputs_embeds=row[None], use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("lengths", [(6,), (4, 4, 4), (3, 7, 5), (1, 9)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_cached_equals_uncached_for_rows_of_any_length(
    decoder: LlamaModel, lengths: tuple[int, ...], deterministic: bool
) -> None:
    rows, more = embeddings(lengths), embeddings([6] * len(lengths), seed=2)
    engine = Engine(Llama(deepcopy(decoder)), deterministic=deterministic)
    batch = engine.open([None] * len(rows), max(lengths), 6)
    found = [[state[-length:]] for state, length in zip(batch.prefill(rows), lengths, strict=True)]
    for place in range(6):
        for row, state in zip(found, step(batch, torch.stack([one[place] for one in more])), strict=True):
            row.append(state[None])
    for row, start, rest in zip(found, rows, more, strict=True):
        expected = uncached(decoder, torch.cat([start, rest]))
        torch.testing.assert_close(torch.cat(row), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [(6, 6), (2, 7, 5)])
@pytest.mark.parametrize("prefixes", [(3, 3, 3), (4, 1, 2), (2, 0, 3)])
def test_rows_continue_after_their_cached_prefixes(
    engine: Engine, decoder: LlamaModel, lengths: tuple[int, ...], prefixes: tuple[int, ...]
) -> None:
    """Prompts, prefixes and neighbours of different lengths, read in three pieces and in another order."""
    rows = embeddings(lengths)
    firsts, cached = [row[:2] for row in rows], list[CachedPrefix]()
    for row, first in zip(rows, engine.prefill([(first, None) for first in firsts]), strict=True):
        cached += engine.prefill([(row[2:], first)]) if len(row) > 2 else [first]
    more = embeddings(prefixes[: len(rows)], seed=2)
    batch = engine.open(cached[::-1], 5, 3)
    batch.prefill(more[::-1])
    (last,) = embeddings([len(rows)], seed=3)
    states = step(batch, last.flip(0)).flip(0)
    for row, prefix, end, state in zip(rows, more, last, states, strict=True):
        expected = uncached(decoder, torch.cat([row, prefix, end[None]]))[-1]
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)


def test_a_prefill_after_steps_is_seen_by_the_next_steps(decoder: LlamaModel) -> None:
    """A step's mask is made once, and only again if more is read."""
    engine = Engine(Llama(deepcopy(decoder)), bucket=8)
    rows, more = embeddings([2, 5]), embeddings([3, 3], seed=2)
    steps = embeddings([2, 2], seed=3)
    batch = engine.open([None, None], 8, 8)
    batch.prefill(rows)
    step(batch, torch.stack([one[0] for one in steps]))
    batch.prefill(more)
    found = step(batch, torch.stack([one[1] for one in steps]))
    for row, rest, own, state in zip(rows, more, steps, found, strict=True):
        expected = uncached(decoder, torch.cat([row, own[:1], rest, own[1:]]))[-1]
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)


def test_positions_beyond_the_table_of_angles_get_a_larger_one(decoder: LlamaModel) -> None:
    engine = Engine(Llama(deepcopy(decoder)))
    for length in (9, 700):
        (row,) = embeddings([length])
        batch = engine.open([None], length)
        states = batch.prefill([row])
        torch.testing.assert_close(states[0], uncached(decoder, row), rtol=1e-4, atol=1e-4)


def test_a_cached_prefix_holds_its_own_row_and_its_last_state(engine: Engine, decoder: LlamaModel) -> None:
    rows = embeddings([3, 5])
    short, long = engine.prefill([(row, None) for row in rows])
    assert (len(short), len(long)) == (3, 5)
    token = token_bytes(decoder)
    assert [part.nbytes for part in (*short.parts, *long.parts)] == [3 * token, 5 * token]
    for prefix, row in zip((short, long), rows, strict=True):
        torch.testing.assert_close(prefix.last, uncached(decoder, row)[-1], rtol=1e-5, atol=1e-5)
    before = [part.clone() for part in long.parts]
    batch = engine.open([long, long], 3)
    assert torch.equal(batch.newest, torch.stack([long.last, long.last]))
    step(batch, embeddings([2], seed=3)[0])
    assert all(torch.equal(now, then) for now, then in zip(long.parts, before, strict=True))


def test_a_cut_of_a_prefix_shares_its_memory(engine: Engine) -> None:
    first, second = embeddings([4, 3])
    (begun,) = engine.prefill([(first, None)])
    (prefix,) = engine.prefill([(second, begun)])
    assert [sum(part.shape[-2] for part in prefix.cut(length)) for length in range(8)] == list(range(8))
    for part, whole in zip(prefix.cut(6), prefix.parts, strict=True):
        assert part.data_ptr() == whole.data_ptr()
        assert torch.equal(part, whole[..., : part.shape[-2], :])


def test_tokens_and_bytes_are_counted(decoder: LlamaModel) -> None:
    engine = Engine(Llama(deepcopy(decoder)))
    assert engine.counts == Counts()
    prefixes = engine.prefill([(row, None) for row in embeddings([3, 5])])
    token = token_bytes(decoder)
    assert engine.counts == Counts(forwarded=8, prefilled=8, cache_bytes=2 * 5 * token, cache_read=2 * 5 * token)
    batch = engine.open(prefixes, 4)
    assert engine.counts.cache_bytes == 2 * 9 * token
    batch.prefill(embeddings([2, 0]))
    step(batch, embeddings([2])[0])
    assert engine.counts == Counts(
        forwarded=8 + 2 + 2, prefilled=8 + 2, cache_bytes=2 * 9 * token, cache_read=2 * (5 + 7 + 8) * token
    )


def test_wrong_padding_would_exceed_the_tolerance(decoder: LlamaModel) -> None:
    """Padding that is attended to, or counted in positions, would change the states a lot."""
    (row,) = embeddings([5])
    right = uncached(decoder, row)
    seen = uncached(decoder, torch.cat([torch.zeros(3, WIDTH), row]))[3:]
    swapped = uncached(decoder, row[[1, 0, 2, 3, 4]])
    assert float((seen - right).abs().max()) > 0.01
    assert float((swapped[-1] - right[-1]).abs().max()) > 0.01


def test_the_cache_is_allocated_once_and_written_in_place(engine: Engine) -> None:
    batch = engine.open([None, None], 9)
    batch.prefill(embeddings([3, 5]))
    storage, before = batch.cache.states.data_ptr(), batch.cache.states[..., :5, :].clone()
    (first,) = embeddings([2], seed=3)
    for _ in range(4):
        step(batch, first)
    assert batch.cache.states.data_ptr() == storage
    assert batch.cache.filled == 9
    assert torch.equal(batch.cache.states[..., :5, :], before)


def test_the_cache_hands_out_views() -> None:
    cache = KVCache(torch.zeros(1, 2, 1, 2, 4, 5))
    states = torch.ones(1, 2, 3, 5)
    keys, values = cache.write(0, torch.stack([states, 2 * states]), torch.arange(3), 3)
    assert keys.shape == values.shape == (1, 2, 3, 5)
    assert keys.data_ptr() == cache.states.data_ptr()
    last = torch.stack([3 * states[:, :, :1], 4 * states[:, :, :1]])
    keys, values = cache.write(0, last, torch.tensor([3]), 4)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 3]
    assert values[0, 0, :, 0].tolist() == [2, 2, 2, 4]


def test_a_row_longer_than_its_cache_is_an_error(engine: Engine) -> None:
    batch = engine.open([None], 3)
    batch.prefill(embeddings([3]))
    with pytest.raises(IndexError, match="room for 3 tokens, not 4"):
        step(batch, embeddings([1])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_fixed_shapes_a_row_never_depends_on_its_neighbours(decoder: LlamaModel, dtype: torch.dtype) -> None:
    """Results are equal to the bit: alone, in a batch, in another place of the batch."""
    engine = Engine(Llama(deepcopy(decoder).to(dtype)), deterministic=True)
    rows = [row.to(dtype) for row in embeddings([3, 30, 7, 40, 12])]

    def last_states(places: Sequence[int]) -> dict[int, torch.Tensor]:
        states = engine.in_batches(
            places,
            lambda batch: [one.last for one in engine.prefill([(rows[place], None) for place in batch])],
            tokens=lambda place: len(rows[place]),
            shape=lambda place: (len(rows[place]),),
        )
        return dict(zip(places, states, strict=True))

    together = last_states(range(5))
    for places in ([0], [1], [2], [3], [4], [4, 2, 0], [3, 1], [2] * 11):
        for place, state in last_states(places).items():
            assert torch.equal(state, together[place])


# --- memory


def failing(error: Exception, most: int) -> Callable[[Sequence[int]], list[int]]:
    """Return work that fails for more than this many items at once."""

    def work(part: Sequence[int]) -> list[int]:
        if len(part) > most:
            raise error
        return [10 * item for item in part]

    return work


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_halves_the_batch_and_loses_nothing(error: Exception) -> None:
    assert work_in_batches(range(11), failing(error, 3), 11) == ([10 * item for item in range(11)], 3)
    assert work_in_batches(range(11), failing(error, 20), 11) == ([10 * item for item in range(11)], 11)
    assert work_in_batches([], failing(error, 3), 4) == ([], 4)


@pytest.mark.parametrize("error", ERRORS)
def test_one_row_that_does_not_fit_is_an_error_of_one_line(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="one row at a time") as caught:
        work_in_batches(range(5), failing(error, 0), 5)
    assert "\n" not in str(caught.value)


def test_an_error_of_torchs_allocator_is_cut_before_its_advice() -> None:
    said = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a capacity of 1.99 GiB of which 8.24 MiB is free"
    assert say_shortage(torch.OutOfMemoryError(f"{said}. Of the allocated memory 1 GiB is allocated\nsee")) == said
    assert say_shortage(MemoryError()) == "MemoryError"


def test_one_row_is_tried_again_once_memory_was_freed() -> None:
    """Recordings and the cache of a large batch may fill the device."""
    held = [True]

    def work(part: Sequence[int]) -> list[int]:
        if held:
            raise MemoryError
        return list(part)

    assert work_in_batches(range(2), work, 1, free_memory=held.clear) == ([0, 1], 1)
    held.append(True)
    assert work_in_batches(range(1), work, 8, free_memory=held.clear) == ([0], 8), "a last item alone is no small batch"

    def work_again(part: Sequence[int]) -> list[int]:
        found = work(part)
        held.append(True)  # recordings fill the device again
        return found

    assert work_in_batches(range(3), work_again, 1, free_memory=held.clear)[0] == [0, 1, 2]
    with pytest.raises(OutOfMemory):
        work_in_batches(range(2), failing(MemoryError(), 0), 1, free_memory=held.clear)


def test_a_batch_of_fixed_shape_is_tried_again_as_a_whole(decoder: LlamaModel) -> None:
    engine, sizes = Engine(Llama(deepcopy(decoder)), deterministic=True), list[int]()

    def work(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(sizes) in (1, 3, 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * item for item in batch]

    asked: dict[str, Any] = {"tokens": lambda _: 1, "shape": lambda _: (1,)}
    assert engine.in_batches([1, 2, 3], work, **asked) == [10, 20, 30]
    with pytest.raises(OutOfMemory):
        engine.in_batches([1, 2, 3], work, **asked)
    assert sizes == [engine.fixed_rows] * 4


def test_another_error_is_not_treated_as_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="a defect"):
        work_in_batches(range(5), failing(RuntimeError("a defect"), 2), 5)


def test_free_memory_is_known_here_and_bounds_a_batch() -> None:
    free = free_bytes(torch.device("cpu"))
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    assert 2**20 < free < 2**50
    assert fitting(2**60, torch.device("cpu")) == 1
    assert (fitting(1, torch.device("cpu")) or 0) > 2**20


def test_a_batch_that_did_not_fit_is_not_tried_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def work(part: Sequence[int]) -> list[int]:
        sizes.append(len(part))
        return failing(MemoryError(), 3)(part)

    for _ in range(2):
        assert engine.in_batches(range(8), work, tokens=lambda _: 1, shape=lambda _: ()) == list(range(0, 80, 10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr("milr.decode.engine.fitting", lambda *args: 1)
    sizes.clear()
    engine.in_batches(range(2), work, tokens=lambda _: 1, shape=lambda _: ())
    assert sizes == [1, 1]
