"""The latents of a task, log p of the tokens they rolled out, and a policy-gradient step for a batch of tasks.

z = (z_text, z_image): the decoder's last hidden states at the first text and image positions. Only the model's output
heads read them, so no gradient flows through the decoder. Source: MILR, section "Method":

    grad J = R grad_z log p(t, v | z)        REINFORCE; the reward enters as R - 1, in [-1, 0]
    loss   = - (R - 1) log p(t, v | z) + l2 ||z - z0||^2,   minimised by Adam

Legend of shapes: B tasks, n latents of a modality, N latents of all tasks, d width, V tokens, M images per step,
2 = conditional and unconditional state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.optim.adam import adam

from milr.decode.sampling import keep_most_probable
from milr.decode.tensors import split_rows, to_integers, to_numbers
from milr.errors import MilrError
from milr.models.base import Model
from milr.settings import GRADIENTS, MilrSettings, SamplingParams
from milr.types import LatentTrace

MODALITIES = ("text", "image")
_ROWS_AT_ONCE = 2048
"""Most rows that the heads read at once: with a vocabulary of 16,384 this is 128 MiB of float32 logits."""


class GradientError(MilrError):
    """The error for a gradient that is not finite."""


def count_latents(ratio: float, length: int) -> tuple[int, str | None]:
    """Return floor(ratio * length), but at least one if the ratio is above zero, and a note if it was rounded up."""
    count = math.floor(ratio * length + 1e-9)  # 0.29 * 100 is 28.999... in floats
    if count or not ratio or not length:
        return count, None
    return 1, f"a ratio of {ratio:g} of {length} positions rounds to none: one moves"


@dataclass
class Moments:
    """Adam's moments of one modality's latents."""

    mean: torch.Tensor
    square: torch.Tensor
    steps: torch.Tensor = field(default_factory=lambda: torch.tensor(0.0))


class Latents:
    """The latents z of one task, their start z0, and Adam's state of each modality, which are independent."""

    def __init__(self, text: torch.Tensor, image: torch.Tensor) -> None:
        """Copy text (n_t, d) and image (n_v, 2, d) to float32; either may be empty.

        Text states follow the image's to their device: those of an empty text, which no model wrote, are on the CPU.
        """
        text = text.to(image.device)
        self.start = {"text": text.detach().float().clone(), "image": image.detach().float().clone()}
        self.now = {name: value.clone() for name, value in self.start.items()}
        self.moments = {
            name: Moments(torch.zeros_like(value), torch.zeros_like(value)) for name, value in self.now.items()
        }
        self.first_text: tuple[int, ...] = ()
        """Prefix tokens of the text at step 0."""
        self.first_image: tuple[int, ...] = ()

    def anchor(self, name: str, hidden: torch.Tensor) -> None:
        """Set a modality's latents to the decoder's newest states plus their accumulated change.

        Args:
            name: The modality.
            hidden: (T, d) or (n, 2, d). Latents beyond the end of a shorter text stay unchanged.
        """
        many = min(len(hidden), len(self.now[name]))
        offsets = self.moved(name)[:many]
        newest = hidden[:many].to(offsets)
        self.start[name][:many] = newest
        self.now[name][:many] = newest + offsets

    def moved(self, name: str) -> torch.Tensor:
        """Return z - z0 in the shape of the latents."""
        return self.now[name] - self.start[name]

    def shifts(self) -> tuple[float, float, list[float]]:
        """Return ||z - z0|| / ||z0|| of text and image latents, 0 if there are none, and of each text latent.

        One read for all.
        """
        shifts = [
            _norm(self.moved(name)) / _norm(start) if start.numel() else start.new_zeros(())
            for name, start in self.start.items()
        ]
        each = _norms(self.moved("text")) / _norms(self.start["text"]).clamp_min(torch.finfo(torch.float32).tiny)
        text, image, *rest = to_numbers(torch.cat([torch.stack(shifts), each]))
        return text, image, rest

    def prefix(self, name: str, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens at the latents' positions; fewer if the text is shorter."""
        return tuple(tokens[: len(self.now[name])])

    def trace(
        self,
        text: Sequence[int],
        image: Sequence[int],
        spell: Callable[[Sequence[int]], Sequence[str]],
        moved: tuple[str, ...] = (),
        log_p: float | None = None,
    ) -> LatentTrace:
        """Return the record of a step's changes, given the tokens of its text and of its first image.

        Args:
            text: Tokens of the text, with the one that ends it.
            image: Tokens of the step's first image.
            spell: `milr.models.base.Model.spell`.
            moved: The latents that this step updated.
            log_p: Before the update.
        """
        text_shift, image_shift, each = self.shifts()
        spelled = spell(self.prefix("text", text)) if each else ()
        return LatentTrace(
            moved=moved,
            text_latents=len(self.now["text"]),
            image_latents=len(self.now["image"]),
            flipped_text=_differences(self.prefix("text", text), self.first_text),
            flipped_image=_differences(self.prefix("image", image), self.first_image),
            text_shift=text_shift,
            image_shift=image_shift,
            log_probability=log_p,
            text_shifts=tuple((sign, float(f"{shift:.4g}")) for sign, shift in zip(spelled, each, strict=False)),
        )


@dataclass(frozen=True)
class Update:
    """One task's part of an update: latents, the tokens that they rolled out, rewards, and which latents move."""

    latents: Latents
    text: tuple[int, ...]
    """Prefix tokens that were used, at most n_t; fewer if the text ended inside its prefix."""
    images: tuple[tuple[int, ...], ...]
    """(M, n_v)."""
    rewards: tuple[float, ...]
    """(M,) in [0, 1]."""
    moves: tuple[str, ...]
    """The latents that move: "text", "image"."""
    stream: torch.Generator
    """Random stream for the ablation with a random direction."""
    apart: torch.Tensor | None = None
    """(M, n_v, 2, d) float32: the states that produced each image's tokens, minus the image latents. None if the
    latents themselves produced them."""

    @property
    def rows(self) -> int:
        """Return the number of rows that the output heads read."""
        many = 1 if self.apart is None else len(self.images)
        return len(self.latents.now["text"]) + many * len(self.latents.now["image"])


def advantages(rewards: Sequence[float]) -> tuple[float, torch.Tensor]:
    """Return the advantage of the text and of each image, (M,).

    The images of a step are compared with their mean. If all rewards are equal, as with one image, the advantage is R -
    1. The images share one text; its advantage is the mean of R - 1, because the mean of their own advantages is zero.
    """
    values = torch.tensor(rewards)
    equal = bool((values == values[0]).all())
    return float(values.mean()) - 1, values - 1 if equal else values - values.mean()


def text_log_probability(model: Model, z: torch.Tensor, updates: Sequence[Update]) -> torch.Tensor:
    """Return log p(t | z_text) of each task, (B,), from all text latents (N, d)."""
    parts = split_rows(z, [len(update.latents.now["text"]) for update in updates])
    read = torch.cat([part[: len(update.text)] for part, update in zip(parts, updates, strict=True)])  # (N', d)
    tokens = torch.tensor([token for update in updates for token in update.text], dtype=torch.long).to(z.device)
    if not len(read):  # a model without text latents has no logits of them
        return z.sum((0, 1)).expand(len(updates))
    log_p = model.text_logits(read).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]  # (N',)
    return torch.stack([part.sum() for part in split_rows(log_p, [len(update.text) for update in updates])])


def image_log_probability(
    model: Model, z: torch.Tensor, updates: Sequence[Update], sampling: SamplingParams
) -> list[torch.Tensor]:
    """Return log p(v | z_image) of each task's images, B of (M,), under the distribution of their sampling."""
    if not len(z):
        return [z.sum((0, 1, 2)).expand(len(update.images)) for update in updates]
    latents = split_rows(z, [len(update.latents.now["image"]) for update in updates])  # B of (n, 2, d)
    states = [
        own[None] if update.apart is None else own + update.apart for own, update in zip(latents, updates, strict=True)
    ]  # B of (1 or M, n, 2, d)
    logits = model.image_logits(torch.cat([own.flatten(0, 1) for own in states]), sampling.guidance)  # (N', V)
    parts = split_rows(logits / sampling.temperature, [len(own) * own.shape[1] for own in states])
    found: list[torch.Tensor] = []
    for part, own, update in zip(parts, states, updates, strict=True):
        tokens = torch.tensor(update.images, dtype=torch.long).to(z.device)  # (M, n)
        # a token at the border of the most probable ones stays, whatever way its logit was rounded
        stay = tokens.T if update.apart is None else tokens.reshape(-1, 1)
        log_p = keep_most_probable(part, sampling.top_k, stay).log_softmax(-1)
        log_p = log_p.view(*own.shape[:2], log_p.shape[-1]).expand(len(tokens), -1, -1)  # (M, n, V)
        found.append(log_p.gather(-1, tokens[..., None]).sum((1, 2)))
    return found


def take_step(
    model: Model, updates: Sequence[Update], settings: MilrSettings, sampling: SamplingParams
) -> list[float | GradientError]:
    """Move the latents of a batch of tasks by one Adam step each, in place. The result equals one call per task.

    Returns:
        For each task log p(t, v | z) before the step, averaged over its images; or the error, with its latents
            unchanged, if its gradient is not finite.
    """
    rule = GRADIENTS[settings.gradient]
    z, z0 = _join(updates)  # {"text": (N, d), "image": (N, 2, d)}
    text = text_log_probability(model, z["text"], updates)  # (B,)
    images = image_log_probability(model, z["image"], updates, sampling)  # B of (M,)
    # The sum over tasks: no task's gradient depends on another's.
    gain = torch.zeros((), device=text.device)
    for log_p_text, log_p_images, update in zip(text.unbind(), images, updates, strict=True):
        text_advantage, image_advantages = advantages(update.rewards)
        gain = gain + text_advantage * log_p_text + (image_advantages.to(text.device) * log_p_images).mean()
    distance = torch.stack([(z[name] - z0[name]).square().sum() for name in z]).sum()
    loss = -rule.weight * gain + settings.l2 * distance
    finite = _descend(loss, z, updates, settings)
    log_p = to_numbers(
        torch.stack([one + many.mean() for one, many in zip(text.unbind(), images, strict=True)]).detach()
    )
    return [
        value if fine else GradientError("the policy gradient is not finite")
        for value, fine in zip(log_p, finite, strict=True)
    ]


def take_steps(
    model: Model, updates: Sequence[Update], settings: MilrSettings, sampling: SamplingParams
) -> list[float | GradientError]:
    """Call `take_step` on parts of any number of updates, so that the logits of a part fit into memory.

    A deterministic model gets one task per call: in half precision the rows of a matrix product depend on their number.
    """
    done: list[float | GradientError] = []
    while len(done) < len(updates):
        part = [updates[len(done)]]
        rows = part[0].rows
        for update in updates[len(done) + 1 :]:
            rows += update.rows
            if model.deterministic or rows > _ROWS_AT_ONCE:
                break
            part.append(update)
        done += take_step(model, part, settings, sampling)
    return done


def _join(updates: Sequence[Update]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return z and z0 of all tasks by modality; latents that move in some task carry a gradient."""
    z = {name: torch.cat([update.latents.now[name] for update in updates]) for name in MODALITIES}
    z0 = {name: torch.cat([update.latents.start[name] for update in updates]) for name in MODALITIES}
    for name, value in z.items():
        value.requires_grad_(bool(value.numel()) and any(name in update.moves for update in updates))
    return z, z0


def _descend(
    loss: torch.Tensor, z: Mapping[str, torch.Tensor], updates: Sequence[Update], settings: MilrSettings
) -> list[bool]:
    """Take one Adam step on the latents that move; return for each task whether its gradient was finite."""
    moving = [name for name, value in z.items() if value.requires_grad]
    gradients = torch.autograd.grad(loss, [z[name] for name in moving]) if moving else ()
    split = {
        name: split_rows(gradient, [len(update.latents.now[name]) for update in updates])
        for name, gradient in zip(moving, gradients, strict=True)
    }
    finite = _are_finite(
        [[split[name][place] for name in moving if name in update.moves] for place, update in enumerate(updates)]
    )
    for name in moving:
        chosen = [place for place, update in enumerate(updates) if finite[place] and name in update.moves]
        movers = [(updates[place], split[name][place]) for place in chosen if len(split[name][place])]
        _step([update for update, _ in movers], [gradient for _, gradient in movers], name, settings)
    return finite


def _are_finite(groups: Sequence[Sequence[torch.Tensor]]) -> list[bool]:
    """Return for each group of tensors whether all its numbers are finite. The host waits for the device once."""
    faults = [sum((~one.isfinite()).sum() for one in group) for group in groups]
    known = [fault for fault in faults if isinstance(fault, torch.Tensor)]
    counted = iter(to_integers(torch.stack(known)) if known else [])
    return [next(counted) == 0 if isinstance(fault, torch.Tensor) else True for fault in faults]


def _step(updates: Sequence[Update], gradients: Sequence[torch.Tensor], name: str, settings: MilrSettings) -> None:
    values = [update.latents.now[name] for update in updates]
    moments = [update.latents.moments[name] for update in updates]
    before = [value.clone() for value in values]
    with torch.no_grad():
        adam(
            values,
            list(gradients),
            [one.mean for one in moments],
            [one.square for one in moments],
            [],
            [one.steps for one in moments],
            lr=settings.learning_rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )
    if GRADIENTS[settings.gradient].random_direction:
        for update, value, start in zip(updates, values, before, strict=True):
            step = value - start
            direction = torch.randn(step.shape, generator=update.stream).to(step.device)
            value.copy_(start + direction * (_norm(step) / _norm(direction)))


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().sum().sqrt()


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the norm of each row: (n, d) -> (n,)."""
    return rows.square().sum(-1).sqrt()


def _differences(now: Sequence[int], first: Sequence[int]) -> int:
    """Count positions that differ, including those that only one of the two has."""
    return sum(a != b for a, b in zip(now, first, strict=False)) + abs(len(now) - len(first))
