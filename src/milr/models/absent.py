"""Checks for settings that a user gives and nothing of a model would read."""

from __future__ import annotations

from collections.abc import Mapping

from milr.errors import UsageError
from milr.models.base import Capabilities


def check_latents(given: Mapping[str, object], able: Capabilities) -> None:
    """Refuse ratios of absent latents, guidance without a branch for it, and sampling parameters of no tokens.

    Args:
        given: The user's settings, by name; defaults are not refused.
        able: The model's capabilities.

    Raises:
        UsageError: A given ratio is above zero, and the model has no such latents; the guidance is not 1, and the model
            has one branch; or it has no image tokens, and their temperature or sampler is given.
    """
    for name in ("text", "image"):
        ratio = given.get(f"{name}_ratio")
        if ratio and not able.has_latents(name):
            raise UsageError(
                f"{name}_ratio {ratio}: this model has no {name} latents (but: {able.latents}); leave "
                f"{name}_ratio out or set it to 0"
            )
    guidance = given.get("guidance", 1)
    if guidance != 1 and not able.takes_guidance:
        raise UsageError(
            f"guidance {guidance}: this model has no branch without the prompt, so 1 is its only guidance; leave it out"
        )
    for name in ("temperature", "top_k", "sampler"):
        if name in given and not able.image_tokens:
            raise UsageError(f"{name} {given[name]}: this model samples no image tokens; leave it out")
