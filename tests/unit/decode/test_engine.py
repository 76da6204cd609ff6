"""The engine inside a whole model: what a step forwards, and that company changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

import pytest
import torch
from PIL import Image

from milr.decode.sampling import open_stream
from milr.models import embedded_folder, load_model
from milr.models.base import ImageOutput, ImageRequest, TaskState, TextOutput
from milr.models.janus import Janus
from milr.types import Task

PROMPTS = (  # of unequal lengths
    "a photo of a cat",
    "a photo of a red apple left of a blue clock",
    "two dogs",
    "a photo of three green cups",
    "a photo of a bus above a yellow chair",
    "a photo of a black cat",
    "one bird",
    "a photo of two red cars and a dog",
)
TASKS = [Task(prompt=prompt) for prompt in PROMPTS]
DRAWN = 24  # image tokens: enough to differ, and quick


@lru_cache(maxsize=1)
def load(dtype: str, deterministic: bool) -> Janus:
    """The embedded model with short drawings."""
    if not embedded_folder().is_dir():
        pytest.skip(f"no embedded model in {embedded_folder()}: `make train` makes one")
    return cast("Janus", load_model(dtype=dtype, deterministic=deterministic))


def step(model: Janus, rows: Sequence[TaskState], number: int = 0) -> tuple[list[TextOutput], list[ImageOutput]]:
    """Texts and short drawings of some rows."""
    thoughts = model.reason(rows, [()] * len(rows))
    requests = [
        ImageRequest(row, thought.reasoning, open_stream(0, row.task.key, 0, number), until=DRAWN)
        for row, thought in zip(rows, thoughts, strict=True)
    ]
    return thoughts, model.draw(requests, guidance=5.0, temperature=1.0, keep=3)


@pytest.mark.parametrize(
    ("dtype", "deterministic"), [("float32", False), pytest.param("bfloat16", True, marks=pytest.mark.slow)]
)
def test_a_batch_is_its_singles(dtype: str, deterministic: bool) -> None:
    """N = 1, 3, 8: texts and drawings of prompts of unequal lengths; to the bit where shapes are fixed."""
    model = load(dtype, deterministic)
    texts, drawings = step(model, model.start(TASKS))
    assert len({len(thought.written) for thought in texts}) > 1
    for count in (1, 3):
        for start in range(0, count * 2, count):
            part = slice(start, start + count)
            found_texts, found = step(model, model.start(TASKS[part]))
            assert [one.written for one in found_texts] == [one.written for one in texts[part]]
            assert [one.drawing.tokens for one in found] == [one.drawing.tokens for one in drawings[part]]
            if deterministic:
                for one, other in zip(found, drawings[part], strict=True):
                    assert one.hidden is not None and other.hidden is not None
                    assert torch.equal(one.hidden, other.hidden)


@pytest.mark.parametrize(
    ("dtype", "deterministic"), [("float32", False), pytest.param("bfloat16", True, marks=pytest.mark.slow)]
)
def test_a_refilled_place_changes_nothing_for_the_others(dtype: str, deterministic: bool) -> None:
    """Rows keep their prompts from step to step; a newcomer among them starts from nothing."""
    model = load(dtype, deterministic)
    first, second, third = model.start(TASKS[:3])
    step(model, [first, second])
    _, (beside, newcomer) = step(model, [second, third], number=1)  # the first has gone
    _, (alone,) = step(model, model.start([TASKS[1]]), number=1)
    assert beside.drawing.tokens == alone.drawing.tokens
    _, (single,) = step(model, model.start([TASKS[2]]), number=1)
    assert newcomer.drawing.tokens == single.drawing.tokens


def test_a_step_forwards_no_more_than_it_must() -> None:
    """docs/performance.md, "What a step must do": counts, by phase and by what has changed."""
    model = load("float32", False)
    (row,) = model.start([TASKS[1]])
    asked = len(model.prompts.reasoning(PROMPTS[1]))

    def spent() -> tuple[int, int]:
        """Tokens forwarded and, of these, prefilled since the last call."""
        nonlocal before
        now = model.counts
        found = now.forwarded - before.forwarded, now.prefilled - before.prefilled
        before = now
        return found

    before = model.counts
    (thought,) = model.reason([row], [()])
    written = len(thought.written)
    assert spent() == (asked + written - 1, asked)  # the last token is not read

    # The unconditional prompts' beginning is read once for all; then of each only its last token.
    (request,) = [ImageRequest(row, thought.reasoning, open_stream(0, "any", 0, 0))]
    told = len(model.prompts.drawing(PROMPTS[1], thought.reasoning))
    model._read_blank(model.tokenizer.bos_token_id, told)
    spent()
    total, n = model.capabilities.image_tokens, 5
    (sketch,) = model.draw([request], guidance=5.0, temperature=1.0, keep=n)
    assert spent() == (told + 1 + 2 * (total - 1), told + 1)

    # The text as it was: neither text nor prompt is read again, only the prefix of the image, in both rows.
    assert model.reason([row], [thought.written[:3]]) == [thought]
    assert spent() == (0, 0)
    assert sketch.hidden is not None
    behind = replace(request, prefix=model.image_logits(sketch.hidden, 5.0))
    model.draw([behind], guidance=5.0, temperature=1.0, keep=n)
    assert spent() == (2 * n + 2 * (total - n - 1), 2 * n)

    # Another text: its prompt is kept, so what is read is its prefix and what it writes.
    token = next(token for token in thought.written[1:] if token != thought.written[0])
    (changed,) = model.reason([row], [(token, *thought.written[1:3])])
    assert spent() == (len(changed.written) - 1, 3)
    told = len(model.prompts.drawing(PROMPTS[1], changed.reasoning))
    model.draw([replace(behind, reasoning=changed.reasoning)], guidance=5.0, temperature=1.0, keep=n)
    assert spent() == (told + 1 + 2 * n + 2 * (total - n - 1), told + 1 + 2 * n)


def test_drawings_of_one_row_share_its_prompt() -> None:
    model = load("float32", False)
    (row,) = model.start([TASKS[0]])
    (thought,) = model.reason([row], [()])
    model._read_blank(model.tokenizer.bos_token_id, 64)
    before = model.counts.prefilled
    requests = [ImageRequest(row, thought.reasoning, open_stream(0, "any", place, 0), until=2) for place in range(3)]
    model.draw(requests, guidance=5.0, temperature=1.0, keep=0)
    assert model.counts.prefilled - before == len(model.prompts.drawing(PROMPTS[0], thought.reasoning)) + 1


def test_two_texts_of_one_row_are_drawn_after_each_ones_own() -> None:
    model = load("float32", False)
    rows = model.start([TASKS[0], TASKS[0]])
    (thought,) = model.reason(rows[:1], [()])
    stream = open_stream(0, "any", 0, 0)
    requests = [ImageRequest(rows[0], text, stream, until=DRAWN) for text in (thought.reasoning, None)]
    together = model.draw(requests, guidance=5.0, temperature=1.0, keep=0)
    for request, sketch in zip(requests, together, strict=True):
        (alone,) = model.draw([replace(request, row=rows[1])], guidance=5.0, temperature=1.0, keep=0)
        assert alone.drawing.tokens == sketch.drawing.tokens
    assert together[0].drawing.tokens != together[1].drawing.tokens


def test_a_picture_that_its_row_showed_last_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("float32", False)
    decode, decoded = model._decode_some, list[tuple[int, ...]]()

    def count(drawn: Sequence[Sequence[int]]) -> list[Image.Image]:
        decoded.extend(map(tuple, drawn))
        return decode(drawn)

    monkeypatch.setattr(model, "_decode_some", count)
    rows = model.start(TASKS[:2])
    _, first = step(model, rows)
    assert len(decoded) == 2
    _, again = step(model, rows)
    assert len(decoded) == 2
    assert [one.drawing.picture.tobytes() for one in again] == [one.drawing.picture.tobytes() for one in first]
    (other,) = model.draw(
        [ImageRequest(rows[0], None, open_stream(0, "any", 0, 0), until=DRAWN)], guidance=1.0, temperature=1.0, keep=0
    )
    assert len(decoded) == 3
    assert other.drawing.picture.tobytes() != first[0].drawing.picture.tobytes()


def test_a_drawing_whose_tokens_are_all_given_is_not_decoded() -> None:
    model = load("float32", False)
    (row,) = model.start(TASKS[:1])
    _, (drawn,) = step(model, [row])
    before = model.counts
    logits = torch.full((DRAWN, 4096), -1e9)  # latents that say the same: no decoder either
    logits[range(DRAWN), list(drawn.drawing.tokens)] = 0.0
    (read,) = model.draw(
        [ImageRequest(row, None, open_stream(0, "any", 0, 0), prefix=logits, until=DRAWN)],
        guidance=1.0,
        temperature=1.0,
        keep=3,
    )
    assert model.counts == before
    assert read.drawing.tokens == drawn.drawing.tokens
    (given,) = model.draw(
        [ImageRequest(row, None, open_stream(0, "any", 0, 0), tokens=drawn.drawing.tokens, until=DRAWN)],
        guidance=1.0,
        temperature=1.0,
        keep=3,
    )
    assert model.counts == before
    assert given.hidden is None
    assert given.drawing.tokens == drawn.drawing.tokens
    assert given.drawing.picture.tobytes() == drawn.drawing.picture.tobytes()


def test_a_drawing_is_whole_though_memory_ran_out_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is drawn again in halves, and every stream begins where it began."""
    model = load("float32", False)
    rows = model.start(TASKS[:3])
    _, expected = step(model, rows)
    whole, failed = model._draw, list[int]()

    def draw(batch: Sequence[object], manner: object) -> object:
        found = whole(batch, manner)  # type: ignore[arg-type]
        if len(batch) > 1:
            failed.append(len(batch))
            raise MemoryError
        return found

    monkeypatch.setattr(model, "_draw", draw)
    monkeypatch.setattr(model.engine, "_most", None)
    _, found = step(model, rows)
    monkeypatch.setattr(model.engine, "_most", None)
    assert failed == [3, 2]
    assert [one.drawing.tokens for one in found] == [one.drawing.tokens for one in expected]


def test_a_row_owns_what_it_keeps() -> None:
    model = load("float32", False)
    (row,) = model.start([TASKS[0]])
    assert row.bytes == 0
    step(model, [row])
    told = len(model.prompts.drawing(PROMPTS[0], row.thought.reasoning if row.thought else None))
    asked = len(model.prompts.reasoning(PROMPTS[0]))
    assert row.bytes == (asked + 2 * told) * model.engine.decoder.token_bytes
    (other,) = model.start([TASKS[0]])
    assert other.bytes == 0
