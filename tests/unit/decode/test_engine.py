"""Tests of the engine in a whole model: the work of a step, and results that do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

import pytest
import torch

from milr.decode.sampling import open_stream
from milr.models import embedded_folder, load_model
from milr.models.base import ImageOutput, ImageRequest, TaskState, TextOutput, TextRequest
from milr.models.janus import Janus
from milr.settings import SamplingParams
from milr.types import Reasoning, Task

PROMPTS = (  # of different lengths
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
DRAWN = 24  # image tokens: enough to differ, but fast
SAMPLING = SamplingParams()


@lru_cache(maxsize=1)
def load(dtype: str, deterministic: bool) -> Janus:
    """Load the embedded model; in bfloat16, which is slow on many CPUs, the small one."""
    name = "embedded-small" if dtype == "bfloat16" else "embedded"
    if not embedded_folder(name).is_dir():
        pytest.skip(f"no embedded model in {embedded_folder(name)}: `make train` makes one")
    model = cast("Janus", load_model(name, dtype=dtype, deterministic=deterministic))
    if dtype == "bfloat16":  # no test looks at these images
        model._decode_pixels = lambda tokens: torch.zeros(len(tokens), 1, 1, 3, dtype=torch.uint8)  # type: ignore[method-assign]
    return model


def draw(
    model: Janus, state: TaskState, reasoning: Reasoning | None, number: int = 0, until: int | None = DRAWN
) -> ImageOutput:
    """Draw one image of a task."""
    (image,) = model.draw([ImageRequest(state, reasoning, open_stream(0, "any", number, 0), until=until)], SAMPLING)
    return image


def step(model: Janus, states: Sequence[TaskState], number: int = 0) -> tuple[list[TextOutput], list[ImageOutput]]:
    """Write texts and draw short images of some tasks."""
    texts = model.reason([TextRequest(state) for state in states])
    requests = [
        ImageRequest(state, text.reasoning, open_stream(0, state.task.key, 0, number), until=DRAWN, keep_hidden=3)
        for state, text in zip(states, texts, strict=True)
    ]
    return texts, model.draw(requests, SAMPLING)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "deterministic"), [("float32", False), ("bfloat16", True)])
def test_a_batch_equals_single_calls(dtype: str, deterministic: bool) -> None:
    """For batches of 1, 3 and 8, texts and images are equal, and equal to the bit with fixed shapes."""
    model = load(dtype, deterministic)
    texts, images = step(model, model.start(TASKS))
    assert len({len(text.tokens) for text in texts}) > 1
    for count in (1, 3):
        for start in range(0, count * 2, count):
            part = slice(start, start + count)
            found_texts, found = step(model, model.start(TASKS[part]))
            assert [one.tokens for one in found_texts] == [one.tokens for one in texts[part]]
            assert [one.sample.tokens for one in found] == [one.sample.tokens for one in images[part]]
            if deterministic:
                for one, other in zip(found, images[part], strict=True):
                    assert one.hidden is not None and other.hidden is not None
                    assert torch.equal(one.hidden, other.hidden)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "deterministic"), [("float32", False), ("bfloat16", True)])
def test_a_refilled_place_does_not_change_other_tasks(dtype: str, deterministic: bool) -> None:
    """States keep their prompts from step to step; a new task beside them is prefilled.

    In float32 a batch's logits differ in the last bits, so the number is one whose random numbers are not within them
    of another token.
    """
    model = load(dtype, deterministic)
    first, second, third = model.start(TASKS[:3])
    step(model, [first, second])
    _, (neighbour, newcomer) = step(model, [second, third], number=2)  # the first one has ended
    _, (alone,) = step(model, model.start([TASKS[1]]), number=2)
    assert neighbour.sample.tokens == alone.sample.tokens
    _, (single,) = step(model, model.start([TASKS[2]]), number=2)
    assert newcomer.sample.tokens == single.sample.tokens


@pytest.mark.slow
def test_a_step_forwards_no_more_than_it_must() -> None:
    """The counts of docs/performance.md, "What a step must do", by phase and by what has changed."""
    model = load("float32", False)
    (state,) = model.start([TASKS[1]])
    text_prompt = len(model.prompts.reasoning(PROMPTS[1]))

    def spent() -> tuple[int, int]:
        """Return the tokens that were forwarded, and of these prefilled, since the last call."""
        nonlocal before
        now = model.counts
        found = now.forwarded - before.forwarded, now.prefilled - before.prefilled
        before = now
        return found

    before = model.counts
    (text,) = model.reason([TextRequest(state)])
    assert spent() == (text_prompt + len(text.tokens) - 1, text_prompt)  # the last token is not read

    # The beginning of the unconditional prompts is read once; then only the last token of each.
    total, n = model.capabilities.image_tokens, 5
    request = ImageRequest(state, text.reasoning, open_stream(0, "any", 0, 0), keep_hidden=n)
    image_prompt = len(model.prompts.image(PROMPTS[1], text.reasoning))
    model._read_padding(model.tokenizer.bos_token_id, image_prompt)
    spent()
    (image,) = model.draw([request], SAMPLING)
    assert spent() == (image_prompt + 1 + 2 * (total - 1), image_prompt + 1)

    # Text unchanged: neither text nor prompt is read again, only the image's prefix, in both rows.
    assert model.reason([TextRequest(state, text.tokens[:3])]) == [text]
    assert spent() == (0, 0)
    assert image.hidden is not None
    after = replace(request, prefix=model.image_logits(image.hidden, 5.0))
    model.draw([after], SAMPLING)
    assert spent() == (2 * n + 2 * (total - n - 1), 2 * n)

    # New text: its prompt is cached, so only its prefix and its new tokens are read.
    token = next(token for token in text.tokens[1:] if token != text.tokens[0])
    (changed,) = model.reason([TextRequest(state, (token, *text.tokens[1:3]))])
    assert spent() == (len(changed.tokens) - 1, 3)
    image_prompt = len(model.prompts.image(PROMPTS[1], changed.reasoning))
    model.draw([replace(after, reasoning=changed.reasoning)], SAMPLING)
    assert spent() == (image_prompt + 1 + 2 * n + 2 * (total - n - 1), image_prompt + 1 + 2 * n)


def test_images_of_one_task_share_its_prompt() -> None:
    model = load("float32", False)
    (state,) = model.start([TASKS[0]])
    (text,) = model.reason([TextRequest(state)])
    model._read_padding(model.tokenizer.bos_token_id, 64)
    before = model.counts.prefilled
    streams = [open_stream(0, "any", place, 0) for place in range(3)]
    model.draw([ImageRequest(state, text.reasoning, stream, until=2) for stream in streams], SAMPLING)
    assert model.counts.prefilled - before == len(model.prompts.image(PROMPTS[0], text.reasoning)) + 1


@pytest.mark.slow
def test_two_texts_of_one_task_each_have_an_image_of_their_own() -> None:
    model = load("float32", False)
    state, fresh = model.start([TASKS[0], TASKS[0]])
    (text,) = model.reason([TextRequest(state)])
    stream = open_stream(0, "any", 0, 0)
    requests = [ImageRequest(state, reasoning, stream, until=DRAWN) for reasoning in (text.reasoning, None)]
    together = model.draw(requests, SAMPLING)
    for request, image in zip(requests, together, strict=True):
        assert draw(model, fresh, request.reasoning).sample.tokens == image.sample.tokens
    assert together[0].sample.tokens != together[1].sample.tokens


@pytest.mark.slow
def test_the_last_image_of_a_task_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("float32", False)
    decode, decoded = model._decode_pixels, list[list[int]]()

    def count(tokens: torch.Tensor) -> torch.Tensor:
        decoded.extend(tokens.tolist())
        return decode(tokens)

    monkeypatch.setattr(model, "_decode_pixels", count)
    states = model.start(TASKS[:2])
    _, first = step(model, states)
    assert len(decoded) == 2
    _, again = step(model, states)
    assert len(decoded) == 2
    assert [one.sample.image.tobytes() for one in again] == [one.sample.image.tobytes() for one in first]
    other = draw(model, states[0], None)
    assert len(decoded) == 3
    assert other.sample.image.tobytes() != first[0].sample.image.tobytes()


@pytest.mark.slow
def test_in_float32_pixels_do_not_depend_on_the_other_images() -> None:
    model = load("float32", False)
    shape = (7, model.capabilities.image_tokens)
    tokens = torch.randint(0, 4096, shape, generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        together = model._decode_all(tokens)  # (7, H, W, 3)
        alone = torch.cat([model._decode_all([one]) for one in tokens])
    assert torch.equal(together, alone)


def test_an_image_whose_tokens_are_all_known_needs_no_decoder() -> None:
    model = load("float32", False)
    (state,) = model.start(TASKS[:1])
    _, (drawn,) = step(model, [state])
    before = model.counts
    logits = torch.full((DRAWN, 4096), -1e9)  # latents that give the same tokens
    logits[range(DRAWN), list(drawn.sample.tokens)] = 0.0
    request = ImageRequest(state, None, open_stream(0, "any", 0, 0), until=DRAWN, keep_hidden=3)
    (read,) = model.draw([replace(request, prefix=logits)], SAMPLING)
    assert model.counts == before
    assert read.sample.tokens == drawn.sample.tokens
    (given,) = model.draw([replace(request, tokens=drawn.sample.tokens)], SAMPLING)
    assert model.counts == before
    assert given.hidden is None
    assert given.sample.tokens == drawn.sample.tokens
    assert given.sample.image.tobytes() == drawn.sample.image.tobytes()


@pytest.mark.slow
def test_an_image_is_complete_although_memory_ran_out_while_it_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is decoded again in halves, with every random stream from its beginning."""
    model = load("float32", False)
    states = model.start(TASKS[:3])
    _, expected = step(model, states)
    whole, failed = model._draw, list[int]()

    def fail(batch: Sequence[object], sampling: object) -> object:
        found = whole(batch, sampling)  # type: ignore[arg-type]
        if len(batch) > 1:
            failed.append(len(batch))
            raise MemoryError
        return found

    monkeypatch.setattr(model, "_draw", fail)
    monkeypatch.setattr(model.engine, "_most", None)
    _, found = step(model, states)
    monkeypatch.setattr(model.engine, "_most", None)
    assert failed == [3, 2]
    assert [one.sample.tokens for one in found] == [one.sample.tokens for one in expected]


def test_a_state_owns_its_cached_prompts() -> None:
    model = load("float32", False)
    (state,) = model.start([TASKS[0]])
    assert state.bytes == 0
    step(model, [state])
    image_prompt = len(model.prompts.image(PROMPTS[0], state.text.reasoning if state.text else None))
    text_prompt = len(model.prompts.reasoning(PROMPTS[0]))
    assert state.bytes == (text_prompt + 2 * image_prompt) * model.engine.decoder.token_bytes
    (other,) = model.start([TASKS[0]])
    assert other.bytes == 0
