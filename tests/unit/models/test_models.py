"""What every model promises (`milr.models.base`): the fake one and the embedded one, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from milr.decode.sampling import open_stream
from milr.models.base import ImageOutput, ImageRequest, Model, TaskState, TextOutput
from milr.models.janus import Janus
from milr.testing import FakeModel
from milr.types import Task

TASKS = [  # prompts of three lengths, with texts of their own
    Task(prompt="a photo of a cat"),
    Task(prompt="a photo of a red apple left of a blue clock"),
    Task(prompt="two dogs"),
]
GUIDANCE, TEMPERATURE = 3.0, 1.0


@dataclass(frozen=True)
class Batch:
    """All tasks reasoned about and drawn together, with every hidden state."""

    model: Model
    rows: list[TaskState]
    thoughts: list[TextOutput]
    sketches: list[ImageOutput]

    def requests(self) -> list[ImageRequest]:
        """The drawings again, each stream at its beginning."""
        return [
            ImageRequest(row, thought.reasoning, open_stream(0, row.task.key, 0, 0))
            for row, thought in zip(self.rows, self.thoughts, strict=True)
        ]

    def draw(self, requests: Sequence[ImageRequest], keep: int | None = None) -> list[ImageOutput]:
        keep = self.model.capabilities.image_tokens if keep is None else keep
        return self.model.draw(requests, guidance=GUIDANCE, temperature=TEMPERATURE, keep=keep)

    def read(self, place: int, count: int) -> torch.Tensor:
        """The logits that the image head reads from the first hidden states of a drawing."""
        hidden = self.sketches[place].hidden
        assert hidden is not None
        return self.model.image_logits(hidden[:count], GUIDANCE)

    def tokens(self) -> list[tuple[int, ...]]:
        return [sketch.drawing.tokens for sketch in self.sketches]


@pytest.fixture(scope="module", params=["fake", pytest.param("embedded", marks=pytest.mark.slow)])
def batch(request: pytest.FixtureRequest) -> Batch:
    """One batch of three, drawn once for all tests of this file."""
    model: FakeModel | Janus = FakeModel() if request.param == "fake" else request.getfixturevalue("embedded")
    rows = model.start(TASKS)
    made = Batch(model, rows, model.reason(rows, [()] * len(TASKS)), [])
    return replace(made, sketches=made.draw(made.requests()))


def same_states(found: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_thought_has_a_state_for_every_token_and_the_state_yields_the_token(batch: Batch) -> None:
    for thought in batch.thoughts:
        assert thought.hidden.shape == (len(thought.written), batch.model.capabilities.width)
        assert thought.hidden.dtype == torch.float32
        assert tuple(batch.model.text_logits(thought.hidden).argmax(-1).tolist()) == thought.written
        tokens = thought.reasoning.tokens
        assert thought.written[: len(tokens)] == tokens and len(thought.written) - len(tokens) in (0, 1)


def test_a_batch_reasons_as_its_singles_do(batch: Batch) -> None:
    for task, together in zip(TASKS, batch.thoughts, strict=True):
        (alone,) = batch.model.reason(batch.model.start([task]), [()])
        assert alone.written == together.written
        assert alone.reasoning == together.reasoning
        same_states(alone.hidden, together.hidden)


def test_a_batch_draws_as_its_singles_do(batch: Batch) -> None:
    for request, together in zip(batch.requests(), batch.sketches, strict=True):
        (alone,) = batch.draw([request], keep=5)
        assert alone.drawing.tokens == together.drawing.tokens
        assert together.hidden is not None
        same_states(alone.hidden, together.hidden[:5])


def test_prefixes_of_unequal_lengths_are_written_on(batch: Batch) -> None:
    """Behind its own first tokens a text goes on as it did, in any company."""
    prefixes = [thought.written[:count] for thought, count in zip(batch.thoughts, (1, 0, 2), strict=True)]
    for again, before in zip(batch.model.reason(batch.model.start(TASKS), prefixes), batch.thoughts, strict=True):
        assert again.written == before.written
        same_states(again.hidden, before.hidden)


def test_a_prefix_is_kept_word_for_word(batch: Batch) -> None:
    own = batch.thoughts[0].written
    end = [thought.written[-1] for thought in batch.thoughts if len(thought.written) > len(thought.reasoning.tokens)]
    token = next(t for thought in batch.thoughts for t in thought.written if t not in {own[0], *end})
    (thought,) = batch.model.reason(batch.model.start(TASKS[:1]), [(token,)])
    assert thought.written[0] == token
    assert int(batch.model.text_logits(thought.hidden[:1]).argmax()) == own[0]  # its state says what it was instead of


def test_a_text_that_is_its_prefix_grows_no_further(batch: Batch) -> None:
    """Whether it ended by itself or at the limit."""
    written = [thought.written for thought in batch.thoughts]
    for again, before in zip(batch.model.reason(batch.model.start(TASKS), written), batch.thoughts, strict=True):
        assert again.written == before.written
        assert again.reasoning == before.reasoning
        same_states(again.hidden, before.hidden)


def test_an_end_inside_a_prefix_ends_the_text(batch: Batch) -> None:
    ended = next((t for t in batch.thoughts if len(t.written) > len(t.reasoning.tokens)), None)
    if ended is None:
        pytest.skip("no text of this model ended by itself")
    end, some = ended.written[-1], next(t.written[0] for t in batch.thoughts if t.reasoning.tokens)
    (thought,) = batch.model.reason(batch.model.start(TASKS[:1]), [(some, end, some)])
    assert thought.written == (some, end)
    assert thought.reasoning.tokens == (some,)
    assert len(thought.hidden) == 2


def test_a_drawing_is_what_the_capabilities_say(batch: Batch) -> None:
    able = batch.model.capabilities
    for sketch in batch.sketches:
        assert sketch.drawing.picture.size == (able.picture_size, able.picture_size)
        assert sketch.drawing.picture.mode == "RGB"
        assert len(sketch.drawing.tokens) == able.image_tokens
        assert sketch.hidden is not None and sketch.hidden.shape == (able.image_tokens, 2, able.width)
        assert sketch.hidden.dtype == torch.float32
    assert len(set(batch.tokens())) == len(TASKS)


def test_unmoved_latents_and_the_same_stream_give_the_same_drawing(batch: Batch) -> None:
    """Beside a newcomer that begins without a prefix, and beside a longer prefix."""
    first, newcomer, third = batch.requests()
    mixed = [replace(first, prefix=batch.read(0, 5)), newcomer, replace(third, prefix=batch.read(2, 9))]
    again = batch.draw(mixed, keep=3)
    assert [sketch.drawing.tokens for sketch in again] == batch.tokens()
    assert again[0].hidden is None and again[2].hidden is None
    expected = batch.sketches[1].hidden
    assert expected is not None
    same_states(again[1].hidden, expected[:3])


def test_every_state_yields_its_token_from_the_streams_own_numbers(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    whole = [replace(one, prefix=batch.read(place, total)) for place, one in enumerate(batch.requests())]
    assert [sketch.drawing.tokens for sketch in batch.draw(whole)] == batch.tokens()


def test_another_stream_gives_another_drawing_even_behind_a_prefix(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    unsure = batch.read(0, total) * 0.2  # a model that is sure draws the same from any stream
    requests = [replace(batch.requests()[0], prefix=unsure, stream=open_stream(1, name, 0, 0)) for name in ("a", "b")]
    one, other = (sketch.drawing.tokens for sketch in batch.draw(requests))
    assert one != other


def test_a_sampled_text_is_its_streams_alone(batch: Batch) -> None:
    def sample(tasks: Sequence[Task], number: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
        streams = [open_stream(number, task.key, 0, 0, "text") for task in tasks]
        thoughts = batch.model.reason(
            batch.model.start(tasks), [()] * len(tasks), streams=streams, temperature=temperature
        )
        return [thought.written for thought in thoughts]

    greedy = [thought.written for thought in batch.thoughts]
    together = sample(TASKS, 0)
    assert together == [text for task in TASKS for text in sample([task], 0)]
    assert together != greedy and together != sample(TASKS, 1)
    assert sample(TASKS, 0, temperature=1e-4) == greedy


def test_a_sampled_text_keeps_its_prefix(batch: Batch) -> None:
    prefixes = [thought.written[:1] for thought in batch.thoughts]
    streams = [open_stream(3, task.key, 0, 0, "text") for task in TASKS]
    for prefix, thought in zip(
        prefixes, batch.model.reason(batch.model.start(TASKS), prefixes, streams=streams), strict=True
    ):
        assert thought.written[:1] == prefix
        assert thought.hidden.shape[0] == len(thought.written)


def test_what_the_tokens_spell_is_the_text(batch: Batch) -> None:
    for thought in batch.thoughts:
        pieces = batch.model.spell(thought.reasoning.tokens)
        assert len(pieces) == len(thought.reasoning.tokens)
        assert "".join(pieces).strip() == thought.reasoning.text


def test_no_critique_is_no_critique(batch: Batch) -> None:
    thoughts = batch.model.reason(batch.rows, [()] * 3, critiques=["", "", "found 1 cat"])
    assert [thought.written for thought in thoughts[:2]] == [thought.written for thought in batch.thoughts[:2]]


def test_given_tokens_stand_where_they_were_given(batch: Batch) -> None:
    """At the beginning, and among tokens that are drawn; beside a neighbour that has none."""
    first, newcomer, third = batch.requests()
    mine, theirs = batch.tokens()[2][:7], batch.tokens()[0][9:12]
    tokens: list[int | None] = [*mine[:4], None, None, *theirs]
    given = replace(first, tokens=tokens, stream=open_stream(5, "given", 0, 0))
    found = batch.draw([given, newcomer, replace(third, tokens=batch.tokens()[2])], keep=2)
    assert [token for token in found[0].drawing.tokens[:4]] == list(mine[:4])
    assert found[0].drawing.tokens[6:9] == theirs
    assert found[1].drawing.tokens == batch.tokens()[1]
    assert found[2].drawing.tokens == batch.tokens()[2]
    assert [sketch.hidden is None for sketch in found] == [True, False, True]
    (alone,) = batch.draw([replace(given, stream=open_stream(5, "given", 0, 0))], keep=2)
    assert alone.drawing.tokens == found[0].drawing.tokens


def test_given_tokens_go_before_latents(batch: Batch) -> None:
    other = (batch.tokens()[0][0] + 1) % 8
    request = replace(batch.requests()[0], prefix=batch.read(0, 5), tokens=(other,))
    assert batch.draw([request])[0].drawing.tokens[0] == other


def test_a_drawing_may_stop_early(batch: Batch) -> None:
    """Its tokens are the whole drawing's first ones, its neighbour is whole, and drawing on goes on behind them."""
    able = batch.model.capabilities
    first, second, third = batch.requests()
    part, whole, none = batch.draw([replace(first, until=7), second, replace(third, until=3, tokens=(1, 2, 3, 4))])
    assert part.drawing.tokens == batch.tokens()[0][:7]
    assert whole.drawing.tokens == batch.tokens()[1]
    assert none.drawing.tokens == (1, 2, 3)
    assert {one.drawing.picture.size for one in (part, none)} == {(able.picture_size, able.picture_size)}
    (again,) = batch.draw([replace(first, tokens=part.drawing.tokens)])
    assert again.drawing.tokens[:7] == part.drawing.tokens
    assert len(again.drawing.tokens) == able.image_tokens


def test_keep_may_be_none_at_all(batch: Batch) -> None:
    total = batch.model.capabilities.image_tokens
    width = batch.model.capabilities.width
    assert batch.model.draw([], guidance=GUIDANCE, temperature=TEMPERATURE, keep=3) == []
    assert batch.model.image_logits(torch.empty(0, 2, width), GUIDANCE).shape == batch.read(0, 0).shape
    assert batch.model.text_logits(torch.empty(0, width)).shape[0] == 0
    assert len(batch.read(0, total)) == total


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guidance_leads_from_the_unconditional_through_the_conditional_logits(batch: Batch, guidance: float) -> None:
    hidden = batch.sketches[0].hidden
    assert hidden is not None
    pair = hidden[:4]
    unconditional = batch.model.image_logits(pair[:, [1, 1]], 1.0)
    conditional = batch.model.image_logits(pair[:, [0, 0]], 1.0)
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    expected = unconditional + guidance * (conditional - unconditional)
    torch.testing.assert_close(batch.model.image_logits(pair, guidance), expected, rtol=1e-4, atol=1e-4)


def test_logits_are_differentiable_in_the_latents(batch: Batch) -> None:
    hidden = batch.sketches[0].hidden
    assert hidden is not None
    text = batch.thoughts[0].hidden[:1].clone().requires_grad_()
    image = hidden[:2].clone().requires_grad_()
    batch.model.text_logits(text)[:, 3].sum().backward()
    batch.model.image_logits(image, GUIDANCE)[0, 3].backward()
    assert text.grad is not None and text.grad.any()
    assert image.grad is not None and image.grad[0, 0].any() and image.grad[0, 1].any() and not image.grad[1].any()


def test_answers_are_probabilities_in_order(batch: Batch) -> None:
    pictures = [sketch.drawing.picture for sketch in batch.sketches]
    questions = ["Is there a cat?", "Is there a red apple left of a blue clock?", "Is there one dog?"]
    together = batch.model.answer(pictures, questions)
    assert all(0 < value < 1 for value in together)
    alone = [batch.model.answer([p], [q])[0] for p, q in zip(pictures, questions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert batch.model.answer([], []) == []
