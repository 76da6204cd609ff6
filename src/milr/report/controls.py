"""Controls of a search over latents: runs that draw alike, of which the latents follow another gradient or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milr.report.entries import Entry, settings_of
from milr.settings import STRATEGIES

_MOVING = ("strategy", "text_ratio", "learning_rate", "l2")
"""Settings of the movement of latents."""


def needs_control(entry: Entry) -> bool:
    """Return true if a reward moved latents, so that only the difference to a control is due to them."""
    moved = any(
        step.trace is not None and step.trace.moved for run in entry.runs for task in run.tasks for step in task.steps
    )
    return moved and entry.settings.get("gradient") == "reward"


def find_control(entry: Entry, entries: Sequence[Entry], gradient: str = "zero") -> Entry | None:
    """Return the entry with the same settings and this ablation of the gradient.

    With a zero gradient nothing moves, so settings of the movement, such as the learning rate, make no difference. The
    embedded model samples its text again only if the text latents move, so for it any entry that draws the same images
    is the control.
    """
    wanted = settings_of(entry.manifest) | {"gradient": gradient}
    found = next((other for other in entries if settings_of(other.manifest) == wanted), None)
    if found is not None or gradient != "zero" or not entry.embedded:
        return found
    still = without_gradient(wanted)
    return next((other for other in entries if without_gradient(settings_of(other.manifest)) == still), None)


def without_gradient(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that matter to a search in which nothing moves.

    The number of image latents stays where they replace the decoder's states: their tokens are sampled from the hidden
    states of the first image's tokens, not from those of each other. Offsets of zero change nothing.
    """
    kept = {name: value for name, value in settings.items() if name not in _MOVING}
    strategy = STRATEGIES[str(settings.get("strategy", "joint"))]
    if not strategy.reasons:
        kept |= {"reasons": False}  # its images follow the bare prompt
    replaced = "image" in strategy.latents and "image" not in strategy.offsets
    return kept if replaced else kept | {"image_ratio": 0.0}
