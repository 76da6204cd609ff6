"""Tests of the model protocol (`milr.models.base`) with the fake model and the embedded one, in float32."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import checkpoint, embedded_folder
from milr.models.base import ImageOutput, ImageRequest, Model, TaskState, TextOutput, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.janus import Janus
from milr.settings import SamplingParams
from milr.testing import FakeModel
from milr.types import Task

TASKS = [  # prompts of three lengths, each with its own text
    Task(prompt="a photo of a cat"),
    Task(prompt="a photo of a red apple left of a blue clock"),
    Task(prompt="two dogs"),
]
GUIDANCE = 3.0


@dataclass(frozen=True)
class Batch:
    """All tasks, reasoned and drawn together, with all hidden states."""

    model: FakeModel | Janus
    states: list[TaskState]
    texts: list[TextOutput]
    images: list[ImageOutput]

    def requests(self) -> list[ImageRequest]:
        """Return the image requests again, with each stream at its beginning."""
        return [
            ImageRequest(state, text.reasoning, open_stream(0, state.task.key, 0, 0))
            for state, text in zip(self.states, self.texts, strict=True)
        ]

    def draw(self, requests: Sequence[ImageRequest], keep_hidden: int | None = None) -> list[ImageOutput]:
        keep = self.model.capabilities.image_tokens if keep_hidden is None else keep_hidden
        requests = [replace(request, keep_hidden=keep) for request in requests]
        return self.model.draw(requests, SamplingParams(guidance=GUIDANCE))

    def read(self, place: int, count: int) -> torch.Tensor:
        """Return the logits that the image head reads from the first hidden states of an image."""
        hidden = self.images[place].hidden
        assert hidden is not None
        return self.model.image_logits(hidden[:count], GUIDANCE)

    def tokens(self) -> list[tuple[int, ...]]:
        return [one.sample.tokens for one in self.images]


@pytest.fixture(scope="module", params=["fake", pytest.param("embedded", marks=pytest.mark.slow)])
def batch(request: pytest.FixtureRequest) -> Batch:
    """Return one batch of three, drawn once for all tests of this file."""
    model: FakeModel | Janus = FakeModel() if request.param == "fake" else request.getfixturevalue("embedded")
    states = model.start(TASKS)
    made = Batch(model, states, model.reason([TextRequest(state) for state in states]), [])
    return replace(made, images=made.draw(made.requests()))


def write(
    model: Model, tasks: Sequence[Task], prefixes: Sequence[Sequence[int]] | None = None, seed: int | None = None
) -> list[TextOutput]:
    """Write the tasks' texts from new states, greedily or with the streams of a seed."""
    streams = [None if seed is None else open_stream(seed, task.key, 0, 0, "text") for task in tasks]
    return model.reason(
        [
            TextRequest(state, prefix, stream=stream)
            for state, prefix, stream in zip(model.start(tasks), prefixes or [()] * len(tasks), streams, strict=True)
        ]
    )


def same_states(found: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_text_has_a_state_for_every_token_and_the_state_yields_the_token(batch: Batch) -> None:
    for text in batch.texts:
        assert text.hidden.shape == (len(text.tokens), batch.model.capabilities.width)
        assert text.hidden.dtype == torch.float32
        assert tuple(batch.model.text_logits(text.hidden).argmax(-1).tolist()) == text.tokens
        tokens = text.reasoning.tokens
        assert text.tokens[: len(tokens)] == tokens and len(text.tokens) - len(tokens) in (0, 1)


def test_a_batch_reasons_as_single_calls_do(batch: Batch) -> None:
    for task, together in zip(TASKS, batch.texts, strict=True):
        (alone,) = write(batch.model, [task])
        assert alone.tokens == together.tokens
        assert alone.reasoning == together.reasoning
        same_states(alone.hidden, together.hidden)


def test_a_batch_draws_as_single_calls_do(batch: Batch) -> None:
    for request, together in zip(batch.requests(), batch.images, strict=True):
        (alone,) = batch.draw([request], keep_hidden=5)
        assert alone.sample.tokens == together.sample.tokens
        assert together.hidden is not None
        same_states(alone.hidden, together.hidden[:5])


def test_prefixes_of_unequal_lengths_are_continued(batch: Batch) -> None:
    """After its own first tokens, a text continues as before, in any batch."""
    prefixes = [text.tokens[:count] for text, count in zip(batch.texts, (1, 0, 2), strict=True)]
    for again, before in zip(write(batch.model, TASKS, prefixes), batch.texts, strict=True):
        assert again.tokens == before.tokens
        same_states(again.hidden, before.hidden)


def test_a_prefix_is_kept_word_for_word(batch: Batch) -> None:
    own = batch.texts[0].tokens
    end = [text.tokens[-1] for text in batch.texts if len(text.tokens) > len(text.reasoning.tokens)]
    token = next(t for text in batch.texts for t in text.tokens if t not in {own[0], *end})
    (text,) = write(batch.model, TASKS[:1], [(token,)])
    assert text.tokens[0] == token
    assert int(batch.model.text_logits(text.hidden[:1]).argmax()) == own[0]  # its state names the text that it replaced


def test_a_prefix_that_is_a_finished_text_is_not_continued(batch: Batch) -> None:
    """The text ended by itself or at the limit."""
    tokens = [text.tokens for text in batch.texts]
    for again, before in zip(write(batch.model, TASKS, tokens), batch.texts, strict=True):
        assert again.tokens == before.tokens
        assert again.reasoning == before.reasoning
        same_states(again.hidden, before.hidden)


def test_an_end_inside_a_prefix_ends_the_text(batch: Batch) -> None:
    ended = next((t for t in batch.texts if len(t.tokens) > len(t.reasoning.tokens)), None)
    if ended is None:
        pytest.skip("no text of this model ended by itself")
    end, some = ended.tokens[-1], next(t.tokens[0] for t in batch.texts if t.reasoning.tokens)
    (text,) = write(batch.model, TASKS[:1], [(some, end, some)])
    assert text.tokens == (some, end)
    assert text.reasoning.tokens == (some,)
    assert len(text.hidden) == 2


def test_an_image_is_what_the_capabilities_say(batch: Batch) -> None:
    able = batch.model.capabilities
    for one in batch.images:
        assert one.sample.image.size == (able.image_size, able.image_size)
        assert one.sample.image.mode == "RGB"
        assert len(one.sample.tokens) == able.image_tokens
        assert one.hidden is not None and one.hidden.shape == (able.image_tokens, 2, able.width)
        assert one.hidden.dtype == torch.float32
    assert len(set(batch.tokens())) == len(TASKS)


def test_unchanged_latents_and_the_same_stream_give_the_same_image(batch: Batch) -> None:
    """Neighbours are a new request without prefix and one with a longer prefix."""
    first, newcomer, third = batch.requests()
    mixed = [replace(first, prefix=batch.read(0, 5)), newcomer, replace(third, prefix=batch.read(2, 9))]
    again = batch.draw(mixed, keep_hidden=3)
    assert [one.sample.tokens for one in again] == batch.tokens()
    assert again[0].hidden is None and again[2].hidden is None
    expected = batch.images[1].hidden
    assert expected is not None
    same_states(again[1].hidden, expected[:3])


def test_every_state_yields_its_token_from_the_streams_own_numbers(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    whole = [replace(one, prefix=batch.read(place, total)) for place, one in enumerate(batch.requests())]
    assert [one.sample.tokens for one in batch.draw(whole)] == batch.tokens()


def test_another_stream_gives_another_image_even_after_a_prefix(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    unsure = batch.read(0, total) * 0.2  # a model with confident logits samples the same from any stream
    requests = [replace(batch.requests()[0], prefix=unsure, stream=open_stream(1, name, 0, 0)) for name in ("a", "b")]
    one, other = (one.sample.tokens for one in batch.draw(requests))
    assert one != other


def test_a_sampled_text_depends_on_its_stream_alone(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(tasks: Sequence[Task], seed: int) -> list[tuple[int, ...]]:
        return [text.tokens for text in write(batch.model, tasks, seed=seed)]

    greedy = [text.tokens for text in batch.texts]
    together = sample(TASKS, 0)
    assert together == [text for task in TASKS for text in sample([task], 0)]
    assert together != greedy and together != sample(TASKS, 1)
    monkeypatch.setattr(batch.model, "text_temperature", 1e-4)
    assert sample(TASKS, 0) == greedy


def test_greedy_and_sampled_texts_may_be_mixed(batch: Batch) -> None:
    """Each request's answer is the same as alone, and the stream is read from a copy."""
    stream = open_stream(0, TASKS[1].key, 0, 0, "text")
    before = stream.get_state()
    first, second, third = batch.model.start(TASKS)
    sampled = TextRequest(second, stream=stream)
    mixed = batch.model.reason([TextRequest(first), sampled, TextRequest(third), replace(sampled, state=first)])
    assert [mixed[place].tokens for place in (0, 2)] == [batch.texts[place].tokens for place in (0, 2)]
    assert mixed[1].tokens == write(batch.model, TASKS[1:2], seed=0)[0].tokens
    assert mixed[3].tokens != mixed[0].tokens
    assert torch.equal(stream.get_state(), before)


def test_a_sampled_text_keeps_its_prefix(batch: Batch) -> None:
    prefixes = [text.tokens[:1] for text in batch.texts]
    for prefix, text in zip(prefixes, write(batch.model, TASKS, prefixes, seed=3), strict=True):
        assert text.tokens[:1] == prefix
        assert text.hidden.shape[0] == len(text.tokens)


def test_the_tokens_decode_to_the_text(batch: Batch) -> None:
    for text in batch.texts:
        pieces = batch.model.spell(text.reasoning.tokens)
        assert len(pieces) == len(text.reasoning.tokens)
        assert "".join(pieces).strip() == text.reasoning.text


def test_a_critique_changes_no_other_text(batch: Batch) -> None:
    requests = [TextRequest(state, critique=c) for state, c in zip(batch.states, ("", "", "found 1 cat"), strict=True)]
    assert [text.tokens for text in batch.model.reason(requests)[:2]] == [text.tokens for text in batch.texts[:2]]


def test_given_tokens_keep_their_positions(batch: Batch) -> None:
    """Given tokens at the beginning and among sampled ones, beside a request without any."""
    first, newcomer, third = batch.requests()
    mine, theirs = batch.tokens()[2][:7], batch.tokens()[0][9:12]
    tokens: list[int | None] = [*mine[:4], None, None, *theirs]
    given = replace(first, tokens=tokens, stream=open_stream(5, "given", 0, 0))
    found = batch.draw([given, newcomer, replace(third, tokens=batch.tokens()[2])], keep_hidden=2)
    assert [token for token in found[0].sample.tokens[:4]] == list(mine[:4])
    assert found[0].sample.tokens[6:9] == theirs
    assert found[1].sample.tokens == batch.tokens()[1]
    assert found[2].sample.tokens == batch.tokens()[2]
    assert [one.hidden is None for one in found] == [True, False, True]
    (alone,) = batch.draw([replace(given, stream=open_stream(5, "given", 0, 0))], keep_hidden=2)
    assert alone.sample.tokens == found[0].sample.tokens


def test_given_tokens_override_latents(batch: Batch) -> None:
    other = (batch.tokens()[0][0] + 1) % 8
    request = replace(batch.requests()[0], prefix=batch.read(0, 5), tokens=(other,))
    assert batch.draw([request])[0].sample.tokens[0] == other


def test_an_image_may_stop_early(batch: Batch) -> None:
    """A partial image has the first tokens of the whole one, its neighbour is whole, and a new request continues it."""
    able = batch.model.capabilities
    first, second, third = batch.requests()
    part, whole, none = batch.draw([replace(first, until=7), second, replace(third, until=3, tokens=(1, 2, 3, 4))])
    assert part.sample.tokens == batch.tokens()[0][:7]
    assert whole.sample.tokens == batch.tokens()[1]
    assert none.sample.tokens == (1, 2, 3)
    assert {one.sample.image.size for one in (part, none)} == {(able.image_size, able.image_size)}
    (again,) = batch.draw([replace(first, tokens=part.sample.tokens)])
    assert again.sample.tokens[:7] == part.sample.tokens
    assert len(again.sample.tokens) == able.image_tokens


def test_each_request_keeps_its_own_number_of_states(batch: Batch) -> None:
    able, (first, second, third) = batch.model.capabilities, batch.requests()
    requests = [replace(first, keep_hidden=2), second, replace(third, keep_hidden=able.image_tokens)]
    for one, whole, count in zip(
        batch.model.draw(requests, SamplingParams(guidance=GUIDANCE)), batch.images, (2, 0, None), strict=True
    ):
        assert one.sample.tokens == whole.sample.tokens and whole.hidden is not None
        same_states(one.hidden, whole.hidden[:count])


def test_offsets_move_the_states_that_the_image_head_reads(batch: Batch) -> None:
    """Each token is chosen from its own state, which follows the tokens before it, plus its offset."""
    able, (first, second, third) = batch.model.capabilities, batch.requests()
    numbers = torch.Generator().manual_seed(1)
    push = 3 * torch.randn(4, able.branches, able.width, generator=numbers)
    requests = [
        replace(first, offsets=push, keep_hidden=6),
        replace(second, offsets=torch.zeros_like(push), keep_hidden=6),
        replace(third, keep_hidden=6),
    ]
    greedy = SamplingParams(guidance=GUIDANCE, temperature=1e-6)
    moved, still, plain = batch.model.draw(requests, greedy)
    added = torch.cat([push, torch.zeros(2, able.branches, able.width)])
    assert moved.hidden is not None
    chosen = batch.model.image_logits(moved.hidden + added, GUIDANCE).argmax(-1)
    assert moved.sample.tokens[:6] == tuple(chosen.tolist())
    before = batch.model.draw([replace(one, offsets=None) for one in requests], greedy)
    assert moved.sample.tokens[:4] != before[0].sample.tokens[:4]
    assert [still.sample.tokens, plain.sample.tokens] == [one.sample.tokens for one in before[1:]]
    same_states(moved.hidden[:1], None if before[0].hidden is None else before[0].hidden[:1])
    (alone,) = batch.model.draw([requests[0]], greedy)
    assert alone.sample.tokens == moved.sample.tokens
    same_states(alone.hidden, moved.hidden)
    # Without guidance, and without states to keep, offsets of both branches are given all the same.
    plainly = greedy.model_copy(update={"guidance": 1.0})
    (kept,), (same,) = (batch.model.draw([replace(requests[0], keep_hidden=keep)], plainly) for keep in (6, 0))
    assert kept.sample.tokens == same.sample.tokens


def test_the_models_defaults_are_settings(batch: Batch) -> None:
    model = batch.model
    assert model.settings().flat.items() >= model.defaults.items()
    assert model.settings("one-shot").sampling.guidance == model.defaults["guidance"]
    assert model.settings(guidance=9.0).sampling.guidance == 9.0
    with pytest.raises(UsageError, match="does not read the setting 'learning_rate'"):
        model.settings("one-shot", learning_rate=0.1)


def test_latents_may_be_empty(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    width = batch.model.capabilities.width
    assert batch.model.draw([], SamplingParams()) == [] == batch.model.reason([])
    assert batch.model.image_logits(torch.empty(0, 2, width), GUIDANCE).shape == batch.read(0, 0).shape
    assert batch.model.text_logits(torch.empty(0, width)).shape[0] == 0
    assert len(batch.read(0, total)) == total


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guidance_extrapolates_from_unconditional_to_conditional_logits(batch: Batch, guidance: float) -> None:
    hidden = batch.images[0].hidden
    assert hidden is not None
    pair = hidden[:4]
    unconditional = batch.model.image_logits(pair[:, [1, 1]], 1.0)
    conditional = batch.model.image_logits(pair[:, [0, 0]], 1.0)
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    expected = unconditional + guidance * (conditional - unconditional)
    torch.testing.assert_close(batch.model.image_logits(pair, guidance), expected, rtol=1e-4, atol=1e-4)


def test_logits_are_differentiable_in_the_latents(batch: Batch) -> None:
    hidden = batch.images[0].hidden
    assert hidden is not None
    text = batch.texts[0].hidden[:1].clone().requires_grad_()
    image = hidden[:2].clone().requires_grad_()
    batch.model.text_logits(text)[:, 3].sum().backward()
    batch.model.image_logits(image, GUIDANCE)[0, 3].backward()
    assert text.grad is not None and text.grad.any()
    assert image.grad is not None and image.grad[0, 0].any() and image.grad[0, 1].any() and not image.grad[1].any()


def test_answers_are_probabilities_in_order(batch: Batch) -> None:
    images = [one.sample.image for one in batch.images]
    questions = ["Is there a cat?", "Is there a red apple left of a blue clock?", "Is there one dog?"]
    together = batch.model.answer(images, questions)
    assert all(0 < value < 1 for value in together)
    alone = [batch.model.answer([p], [q])[0] for p, q in zip(images, questions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert batch.model.answer([], []) == []


def test_weights_are_loaded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading never holds two of the file's weights in memory at once."""
    read, alive = checkpoint.read_safetensors, list[weakref.ref[torch.Tensor]]()

    def watched(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in read(folder):
            assert sum(one() is not None for one in alive) <= 1
            copy = tensor.clone()
            alive.append(weakref.ref(copy))
            yield name, copy

    monkeypatch.setattr(checkpoint, "read_safetensors", watched)
    network = open_checkpoint(embedded_folder("embedded-small")).load_network(torch.bfloat16)
    assert len(alive) > 100 and all(one.dtype == torch.bfloat16 for one in network.parameters())
