"""The contract of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from milr.decode.sampling import open_stream
from milr.decode.tensors import to_integers
from milr.models import find_source, load_model, read_capabilities
from milr.models.base import Capabilities, ImageOutput, ImageRequest, Model, TaskState, TextOutput, TextRequest
from milr.settings import SamplingParams
from milr.tasks import tasks_from_prompts
from milr.testing.contracts.violations import require

PROMPTS = ("a photo of a red apple", "a photo of two dogs")
_ROUNDING = 1  # levels of 255 by which a decoder may round otherwise in a batch


def check_model(model: str | Model, *, prompts: Sequence[str] = PROMPTS, **options: Any) -> None:
    """Check a model: its declarations, texts and images, alone and in a batch.

    Args:
        model: A name, as `milr.load_model` takes it, or the model itself.
        prompts: Prompts that it reads.
        options: For `milr.load_model`: device, dtype, profile.

    Raises:
        ContractError: The contract is not kept.
    """
    if isinstance(model, str):
        declared, model = read_capabilities(find_source(model)), load_model(model, **options)
        require(model.capabilities == declared, "the model's capabilities are not those known before it is loaded")
    able = model.capabilities
    tasks = tasks_from_prompts(prompts, free=model.reads_free_prompts)
    settings = model.settings("best-of-n", steps=3)
    require(settings.get("steps") == 3 and settings.method == "best-of-n", "settings() leaves changes out")
    states = model.start(tasks)
    require([state.task for state in states] == tasks, "start() returns one state per task, in order")
    texts = _check_texts(model, states) if able.writes_text else []
    drawn = _check_drawings(model, states, texts, settings.sampling)
    _check_heads(model, texts[0] if texts else None, drawn[0], settings.sampling.guidance)
    if able.reads_images:
        _check_answers(model, [output.sample.image for output in drawn])


def _check_texts(model: Model, states: Sequence[TaskState]) -> list[TextOutput]:
    """Check texts in a batch, alone and from their own first token; return those of the batch."""
    texts = model.reason([TextRequest(state, stream=_stream(model)) for state in states])
    for state, text in zip(states, texts, strict=True):
        _check_text(model, text)
        (again,) = model.reason([TextRequest(model.start([state.task])[0], stream=_stream(model))])
        require(again.tokens == text.tokens, f"the text of {state.task.prompt!r} depends on the batch")
        begun = TextRequest(state, prefix=text.tokens[:1], stream=_stream(model))
        require(model.reason([begun])[0].tokens[:1] == text.tokens[:1], "a text leaves out its given beginning")
    return texts


def _check_drawings(
    model: Model, states: Sequence[TaskState], texts: Sequence[TextOutput], sampling: SamplingParams
) -> list[ImageOutput]:
    """Check images in a batch and alone, from given tokens and with offsets; return those of the batch."""
    able = model.capabilities
    keep = 2 if able.has_latents("image") else 0
    requests = [
        ImageRequest(
            state, texts[number].reasoning if texts else None, open_stream(0, "contract", number, 0), keep_hidden=keep
        )
        for number, state in enumerate(states)
    ]
    drawn = model.draw(requests, sampling)
    require(len(drawn) == len(requests), "draw() returns one image per request, in order")
    for request, output in zip(requests, drawn, strict=True):
        _check_image(able, output)
        if able.repeatable:
            _check_alone(model, request, output, sampling)
    if able.repeatable and not able.image_tokens:
        (other,) = model.draw([replace(requests[0], stream=open_stream(1, "contract", 0, 0))], sampling)
        require(other.sample.image != drawn[0].sample.image, "another stream gives the same image")
    if able.image_tokens:
        _check_given(model, requests[0], drawn[0], sampling)
    if able.has_latents("image"):
        _check_offsets(model, requests[0], sampling)
    return drawn


def _check_alone(model: Model, request: ImageRequest, output: ImageOutput, sampling: SamplingParams) -> None:
    """Check that a request has the same image alone as in its batch."""
    (again,) = model.draw([replace(request, state=model.start([request.state.task])[0])], sampling)
    same = again.sample.tokens == output.sample.tokens
    require(same, f"the image of {request.state.task.prompt!r} depends on the batch, or on what was drawn before")
    first, second = (np.asarray(one.sample.image, np.int16) for one in (output, again))
    apart = int(np.abs(first - second).max())
    what = "the same tokens decode to" if model.capabilities.image_tokens else "the same request gives"
    require(apart <= _ROUNDING, f"{what} images that differ by {apart} levels, alone and beside others")


def _check_answers(model: Model, shown: Sequence[Image.Image]) -> None:
    """Check a model's answers and replies about images."""
    chances = model.answer(shown, ["Is it red?"] * len(shown))
    fine = len(chances) == len(shown) and all(math.isnan(one) or 0 <= one <= 1 for one in chances)
    require(fine, f"answer() returned {chances}: one p(yes) in [0, 1] per image, or NaN")
    replies = model.reply(shown, ["What is it?"] * len(shown), 8)
    require(len(replies) == len(shown), "reply() returns one text per image")


def _stream(model: Model) -> torch.Generator | None:
    return open_stream(0, "contract", 0, 0, "text") if model.text_temperature else None


def _check_text(model: Model, text: TextOutput) -> None:
    width, latents = model.capabilities.width, model.capabilities.latents in ("text", "both")
    shape, wanted = tuple(text.hidden.shape), (len(text.tokens), width)
    require(not latents or shape == wanted, f"a text's hidden states are {shape}, not (T, d) = {wanted}")
    require(text.hidden.dtype == torch.float32, f"a text's hidden states are {text.hidden.dtype}, not float32")
    own = text.tokens[: len(text.reasoning.tokens)]
    fine = own == text.reasoning.tokens and len(text.tokens) - len(own) <= 1
    require(fine, "a text's tokens are its reasoning's, and the end-of-sequence token if it ended by itself")
    spelled = "".join(model.spell(text.reasoning.tokens)).strip()
    require(spelled == text.reasoning.text.strip(), f"spell() gives {spelled!r} for {text.reasoning.text!r}")


def _check_image(able: Capabilities, output: ImageOutput) -> None:
    sample, size = output.sample, able.dimensions
    require(
        len(sample.tokens) == able.image_tokens, f"an image has {len(sample.tokens)} tokens, not {able.image_tokens}"
    )
    require(sample.image.size == size, f"an image has {sample.image.size} pixels, not {size}")
    require(sample.image.mode == "RGB", f"an image's mode is {sample.image.mode}, not RGB")
    if able.has_latents("image"):
        shape, wanted = None if output.hidden is None else tuple(output.hidden.shape), (2, able.branches, able.width)
        require(shape == wanted, f"two hidden states were to be kept, (2, branches, d) = {wanted}, and here is {shape}")


def _check_given(model: Model, request: ImageRequest, drawn: ImageOutput, sampling: SamplingParams) -> None:
    tokens = drawn.sample.tokens
    (given,) = model.draw([replace(request, tokens=tokens[:3], keep_hidden=0)], sampling)
    require(given.sample.tokens == tokens, "an image that is finished from its own first tokens is another image")
    until = model.capabilities.image_tokens // 2
    (part,) = model.draw([replace(request, until=until, keep_hidden=0)], sampling)
    fine = part.sample.tokens == tokens[:until] and part.sample.image.size == drawn.sample.image.size
    require(fine, "a partial image has other tokens, or another size, than the whole one")


def _check_offsets(model: Model, request: ImageRequest, sampling: SamplingParams) -> None:
    able, greedy = model.capabilities, sampling.model_copy(update={"temperature": 1e-6})
    push = torch.randn(2, able.branches, able.width, generator=torch.Generator().manual_seed(0))
    for scale in (0.0, 1.0, 10.0):
        (drawn,) = model.draw([replace(request, offsets=scale * push)], greedy)
        shape, wanted = None if drawn.hidden is None else tuple(drawn.hidden.shape), tuple(push.shape)
        require(shape == wanted, f"an image with offsets has hidden states of shape {shape}, not {wanted}")
        if drawn.hidden is not None:
            moved = drawn.hidden + scale * push.to(drawn.hidden.device)
            best = model.image_logits(moved, sampling.guidance).argmax(-1)
            fine = drawn.sample.tokens[:2] == tuple(to_integers(best))
            require(fine, "image tokens are not chosen from the hidden states plus the offsets of the request")


def _check_heads(model: Model, text: TextOutput | None, drawn: ImageOutput, guidance: float) -> None:
    able = model.capabilities
    heads: Mapping[str, tuple[torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor]]] = {
        "text": (text.hidden if text else None, model.text_logits),
        "image": (drawn.hidden, lambda z: model.image_logits(z, guidance)),
    }
    for name, (hidden, read) in heads.items():
        if not able.has_latents(name) or hidden is None:
            continue
        z = hidden.detach().clone().requires_grad_()
        logits = read(z)
        fine = logits.ndim == 2 and len(logits) == len(z) and logits.dtype == torch.float32
        require(fine, f"{name}_logits returns {tuple(logits.shape)} {logits.dtype}, not (n, V) float32")
        (gradient,) = torch.autograd.grad(logits.logsumexp(-1).sum(), z)
        require(bool(gradient.isfinite().all()) and bool(gradient.any()), f"{name}_logits is not differentiable")
