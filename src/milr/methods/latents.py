"""The latents, log p of what they rolled out, and one step of policy gradient. Source: MILR, section "Method".

z = (z_text, z_image): the decoder's last hidden states behind the first text and image tokens. Only the model's output
heads read them, so no gradient flows through the decoder:

    grad J = R grad_z log p(t, v | z)        REINFORCE; the reward enters as R - 1, in [-1, 0]
    loss   = - (R - 1) log p(t, v | z) + l2 ||z - z0||^2,   minimised by Adam

Legend of shapes: n latents of a modality, d width, M drawings a step, 2 = conditional and unconditional state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from milr.config import SearchConfig
from milr.errors import MilrError
from milr.models.base import Model


class GradientError(MilrError):
    """A gradient that is not finite."""


@dataclass(frozen=True)
class CreditRule:
    """What an update does with the credit, as data."""

    weight: float
    random_direction: bool = False
    """Keep the length of the real step, not its direction."""


CREDITS: Mapping[str, CreditRule] = {
    "reward": CreditRule(1.0),
    "zero": CreditRule(0.0),
    "random": CreditRule(1.0, random_direction=True),
    "negated": CreditRule(-1.0),
}


def count_latents(ratio: float, length: int) -> tuple[int, str | None]:
    """floor(ratio * length), but at least one where the ratio is above zero; with a note where that was needed."""
    count = math.floor(ratio * length + 1e-9)  # 0.29 * 100 is 28.999... in floats
    if count or not ratio or not length:
        return count, None
    return 1, f"a ratio of {ratio:g} of {length} positions rounds to none: one moves"


class Latents:
    """z, its start z0, and one Adam a modality, so that moving one never touches the other."""

    def __init__(self, text: torch.Tensor, image: torch.Tensor, learning_rate: float) -> None:
        """Args: text (n_t, d) and image (n_v, 2, d), copied to float32; either may be empty."""
        self.start = {"text": text.detach().float().clone(), "image": image.detach().float().clone()}
        self.now = {name: value.clone().requires_grad_() for name, value in self.start.items()}
        self.adam = {name: torch.optim.Adam([value], lr=learning_rate) for name, value in self.now.items()}

    def anchor(self, states: torch.Tensor) -> None:
        """Put the text latents at the decoder's newest states (n, d), moved by as much as they have been moved so far.

        Latents behind the end of a shorter text stay where they are.
        """
        many = min(len(states), len(self.now["text"]))
        moved = self.moved("text")[:many]
        self.start["text"][:many] = states[:many].float()
        self.now["text"].data[:many] = states[:many].float() + moved

    def moved(self, name: str) -> torch.Tensor:
        """What has been added to the latents so far, z - z0, in their shape."""
        return self.now[name].detach() - self.start[name]

    def shift(self, name: str) -> float:
        """||z - z0|| / ||z0||; 0 where there are no latents."""
        start = self.start[name]
        return float(_norm(self.moved(name)) / _norm(start)) if start.numel() else 0.0


@dataclass(frozen=True)
class RolledOut:
    """The prefix tokens that were really used, and the rewards of what came of them."""

    text: tuple[int, ...]
    """At most n_t: fewer where the text ended inside its prefix."""
    images: tuple[tuple[int, ...], ...]
    """(M, n_v)."""
    rewards: tuple[float, ...]
    """(M,) in [0, 1]."""


def text_log_probability(model: Model, latents: Latents, tokens: Sequence[int]) -> torch.Tensor:
    """Log p(t | z_text), a scalar."""
    log_p = model.text_logits(latents.now["text"][: len(tokens)]).log_softmax(-1)  # (n, V)
    return log_p.gather(-1, torch.tensor(tokens, dtype=torch.long, device=log_p.device)[:, None]).sum()


def image_log_probability(
    model: Model, latents: Latents, drawings: Sequence[Sequence[int]], config: SearchConfig
) -> torch.Tensor:
    """Log p(v | z_image) of each drawing, (M,), under the distribution that was sampled from."""
    logits = model.image_logits(latents.now["image"], config.guidance)  # (n, V)
    log_p = (logits / config.temperature).log_softmax(-1)
    tokens = torch.tensor(drawings, dtype=torch.long, device=log_p.device)  # (M, n)
    return log_p.expand(len(drawings), -1, -1).gather(-1, tokens[..., None]).sum((1, 2))


def assign_credit(rewards: Sequence[float]) -> tuple[float, torch.Tensor]:
    """Credit of the text and of each drawing, (M,).

    Drawings of one step are compared with their mean; where all are equal, as with one drawing, they get R - 1. They
    share one text, whose credit is the mean of R - 1: compared with their mean it would always be zero.
    """
    values = torch.tensor(rewards)
    compared = values - values.mean()
    equal = bool((values == values[0]).all())
    return float(values.mean()) - 1, values - 1 if equal else compared


def take_step(
    model: Model, latents: Latents, seen: RolledOut, moves: Sequence[str], config: SearchConfig, stream: torch.Generator
) -> float:
    """Move the latents named in ``moves`` by one Adam step, in place.

    Returns:
        log p(t, v | z) before the step, averaged over the drawings.

    Raises:
        GradientError: The gradient is not finite; the latents are as before.
    """
    rule = CREDITS[config.credit]
    text_credit, image_credits = assign_credit(seen.rewards)
    text = text_log_probability(model, latents, seen.text)
    images = image_log_probability(model, latents, seen.images, config)
    distance = sum((latents.now[name] - latents.start[name]).square().sum() for name in latents.now)
    gain = text_credit * text + (image_credits.to(images.device) * images).mean()
    loss = -rule.weight * gain + config.l2 * distance
    chosen = [name for name in moves if latents.now[name].numel()]
    # A strategy may name a modality that has no latents: then nothing moves.
    gradients = torch.autograd.grad(loss, [latents.now[name] for name in chosen]) if chosen else ()
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise GradientError("the policy gradient is not finite")
    for name, gradient in zip(chosen, gradients, strict=True):
        value = latents.now[name]
        before = value.detach().clone()
        value.grad = gradient
        latents.adam[name].step()
        if rule.random_direction:
            step = value.detach() - before
            direction = torch.randn(step.shape, generator=stream).to(step.device)
            value.data = before + direction * (_norm(step) / _norm(direction))
    return (text + images.mean()).item()


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().sum().sqrt()
