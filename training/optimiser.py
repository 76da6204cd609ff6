"""Float32 masters of bfloat16 weights with their moving average, and the optimisers of both kinds of parameters."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from training.probes import Probes


class Masters(nn.Module):
    """Float32 masters of bf16 parameters, and their moving average (the weights that are shipped)."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.live = parameters
        self.masters = nn.ParameterList([p.detach().float().clone() for p in parameters.values()])
        self.averages = nn.ParameterList([p.detach().float().clone() for p in parameters.values()])
        self.averages.requires_grad_(False)

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names of the live parameters with their masters."""
        yield from zip(self.live, self.masters, strict=True)

    def take_gradients(self) -> None:
        """Move the live gradients to the masters."""
        for live, master in zip(self.live.values(), self.masters, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None

    @torch.no_grad()
    def give_back(self, decay: float) -> None:
        """Copy the masters into the live weights and update the moving average."""
        for live, master, average in zip(self.live.values(), self.masters, self.averages, strict=True):
            live.copy_(master)
            average.lerp_(master, 1 - decay)

    @torch.no_grad()
    def write_averages(self) -> None:
        """Put the moving average into the live weights."""
        for live, average in zip(self.live.values(), self.averages, strict=True):
            live.copy_(average)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Put the moving average into the live weights for the duration of a context."""
        self.write_averages()
        try:
            yield
        finally:
            self.give_back(1.0)


class Optimisers:
    """Several optimisers that share one learning rate and its schedule."""

    def __init__(self, rate: float, **parts: torch.optim.Optimizer) -> None:
        self.rate = rate
        self.parts = parts

    def step(self, factor: float) -> None:
        """Take one step at ``factor`` times the learning rate."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = self.rate * factor
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts by their names."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the states of all parts."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class Optimiser(Optimisers):
    """Muon for the hidden matrices of the language model, AdamW for all else and for the probes."""

    def __init__(self, masters: Masters, probes: Probes, settings: dict[str, Any]) -> None:
        hidden: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in masters.named():
            (hidden if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
        rate = settings["learning_rate"]
        super().__init__(
            rate,
            muon=torch.optim.Muon(hidden, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            adamw=torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
            probes=torch.optim.AdamW(probes.parameters(), lr=rate, weight_decay=0.0),
        )
        self.probes = probes

    def step(self, factor: float) -> None:
        """Take one step at ``factor`` times the learning rate, and clear the probes' gradients."""
        super().step(factor)
        self.probes.zero_grad()


def schedule(step: int, settings: dict[str, Any]) -> float:
    """Return the share of the learning rate: warm-up, a plateau, a linear decay, and the lowest rate."""
    left = settings["decayed_at"] - step
    return min(1.0, (step + 1) / settings["warmup_steps"], max(settings["lowest_rate"], left / settings["decay_steps"]))
