"""MILR: test-time search over the latents of text and image. Source: arXiv 2509.22761, Algorithm 1."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

import torch

from milr.decode.sampling import sample_in_order
from milr.decode.tensors import to_integers
from milr.errors import MilrError
from milr.methods.context import Requests, ScoredImage, TaskContext
from milr.methods.latents import GradientError, Latents, Update, count_latents
from milr.models.base import TextOutput
from milr.settings import NOISES, STRATEGIES, MilrSettings
from milr.types import Reasoning, Score, Unscored

Context: TypeAlias = TaskContext[MilrSettings]


class SearchError(MilrError):
    """The error of a search that cannot continue; it names task and step. Records yielded before stay valid."""


def milr(ctx: Context) -> Requests:
    """Search over the latents of one task. The runner ends it when its reward is met or a limit is reached."""
    steps, moves = ctx.own.steps, STRATEGIES[ctx.own.strategy].moves
    text = yield from reason(ctx)  # t ~ p(t | c)
    images = yield from draw(ctx, text)  # v ~ p(v | c, t), R(v)
    z = init_latents(ctx, text, images)  # z = the hidden states of the first tokens of t and v
    for k in range(1, steps + 1):
        moved, log_p, notes = yield from update(ctx, z, text, images, moves(k, steps), k)  # z += Adam(R grad log p)
        if "text" in moved:
            text = yield from reason(ctx, z, k)  # t ~ p(t | c, z)
        images = yield from draw(ctx, text, z, k, notes)  # v ~ p(v | c, t, z), R(v)
        ctx.trace = z.trace(text.tokens, images[0].sample.tokens, ctx.model.spell, moved, log_p)


def reason(ctx: Context, z: Latents | None = None, k: int = 0) -> Generator[Any, Any, TextOutput]:
    """Write a text: greedily, after the prefix that the text head reads from the latents, or with the latents' offsets.

    A strategy without reasoning has an empty text, which images do not follow.
    """
    if not STRATEGIES[ctx.own.strategy].reasons:
        return TextOutput(Reasoning("", ()), (), torch.zeros(0, ctx.model.capabilities.width))
    stream = ctx.open_stream(0, _noise_step(ctx, k), "text")
    if z is None:
        return (yield from ctx.reason(stream=stream))
    if _are_offsets(ctx, "text"):
        text = yield from ctx.reason(offsets=z.moved("text"), stream=stream)
        z.anchor("text", text.hidden)
        return text
    logits, temperature = ctx.model.text_logits(z.now["text"]), ctx.model.text_temperature
    if temperature:  # position i uses the i-th numbers of the stream, for logits of any origin
        prefix = to_integers(sample_in_order(logits, stream, temperature))
    else:
        prefix = to_integers(logits.argmax(-1))
    return (yield from ctx.reason(prefix, stream=stream))


def draw(
    ctx: Context, text: TextOutput, z: Latents | None = None, k: int = 0, notes: Sequence[str] = ()
) -> Generator[Any, Any, list[ScoredImage]]:
    """Draw M images after the text; the first tokens are sampled from the latents, or with the latents' offsets."""
    many, step = ctx.own.drawings_per_step, _noise_step(ctx, k)
    streams = [ctx.open_stream(place, step) for place in range(many)]
    if z is None:
        _, count, notes = _count(ctx, text)
        return (yield from ctx.draw([()] * many, streams=streams, keep_hidden=count, notes=notes))
    latents = z.now["image"]
    if len(latents) and _are_offsets(ctx, "image"):
        offsets, count = z.moved("image"), len(latents)
        images = yield from ctx.draw([()] * many, streams=streams, keep_hidden=count, offsets=offsets, notes=notes)
        if (hidden := images[0].hidden) is not None:
            z.anchor("image", hidden)
        return images
    prefix = ctx.model.image_logits(latents, ctx.sampling.guidance) if len(latents) else None  # (n, V)
    return (yield from ctx.draw([()] * many, streams=streams, prefix=prefix, notes=notes))


def init_latents(ctx: Context, text: TextOutput, images: Sequence[ScoredImage]) -> Latents:
    """Take the hidden states of the first tokens of the text and of the first image as latents."""
    count, _, _ = _count(ctx, text)
    first, able = images[0], ctx.model.capabilities
    hidden = first.hidden
    if hidden is None:  # an image that was made before, of which no hidden states are latents
        hidden = torch.zeros(0, able.branches, able.width, device=text.hidden.device)
    z = Latents(text.hidden[:count], hidden)
    z.first_text, z.first_image = z.prefix("text", text.tokens), z.prefix("image", first.sample.tokens)
    ctx.trace = z.trace(text.tokens, first.sample.tokens, ctx.model.spell)
    return z


def update(
    ctx: Context, z: Latents, text: TextOutput, images: Sequence[ScoredImage], moves: Sequence[str], k: int
) -> Generator[Any, Any, tuple[tuple[str, ...], float | None, tuple[str, ...]]]:
    """Move the latents by one policy-gradient step; return which moved, log p before it, and notes.

    Raises:
        SearchError: The gradient is not finite.
    """
    scored = [(one.sample.tokens, one.score.value) for one in images if isinstance(one.score, Score)]
    reasons = [one.score.reason for one in images if isinstance(one.score, Unscored)]
    if not scored:
        return (), None, (f"no update: {reasons[0]}",)
    notes = (f"{len(reasons)} of {len(images)} images left out of the update: {reasons[0]}",) if reasons else ()
    moved = tuple(name for name in moves if z.now[name].numel())
    prefixes = tuple(z.prefix("image", tokens) for tokens, _ in scored)
    rewards = tuple(value for _, value in scored)
    stream = ctx.open_stream(0, k, "credit")
    used = Update(z, z.prefix("text", text.tokens), prefixes, rewards, moved, stream, _apart(ctx, z, images))
    log_p: float | GradientError = yield used
    if isinstance(log_p, GradientError):
        raise SearchError(f"{log_p} at step {k} of {ctx.task.prompt!r}")
    return moved, log_p, notes


def _apart(ctx: Context, z: Latents, images: Sequence[ScoredImage]) -> torch.Tensor | None:
    """Return the scored images' own states minus the start of the latents, (M, n, 2, d), where latents are offsets."""
    states = [one.hidden for one in images if isinstance(one.score, Score) and one.hidden is not None]
    if not states or not _are_offsets(ctx, "image"):
        return None
    return torch.stack(states).float() - z.start["image"]


def _count(ctx: Context, text: TextOutput) -> tuple[int, int, tuple[str, ...]]:
    """Return how many text and image positions are latents, and notes for the user."""
    there, exists = ctx.model.capabilities.latents, STRATEGIES[ctx.own.strategy].latents
    ratios = {"text": ctx.own.text_ratio, "image": ctx.own.image_ratio}
    absent = [name for name in exists if ratios[name] and there not in (name, "both")]
    # The end-of-sequence token counts, as in the authors' code.
    lengths = {"text": len(text.tokens), "image": ctx.model.capabilities.image_tokens}
    counts, notes = dict.fromkeys(ratios, 0), list[str]()
    for name in exists:
        if name not in absent:
            counts[name], note = count_latents(ratios[name], lengths[name])
            notes += [f"{name}: {note}"] if note else []
    notes += [f"{name}: this model has no {name} latents, so none move" for name in absent]
    return counts["text"], counts["image"], tuple(notes)


def _are_offsets(ctx: Context, modality: str) -> bool:
    """Return whether the latents of "text" or "image" are added to the decoder's own states."""
    return modality in STRATEGIES[ctx.own.strategy].offsets


def _noise_step(ctx: Context, k: int) -> int:
    return k if NOISES[ctx.own.noise].fresh else 0
