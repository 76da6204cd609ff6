"""Check for latents that a user asks for and a model does not have."""

from __future__ import annotations

from collections.abc import Mapping

from milr.errors import UsageError
from milr.models.base import Capabilities


def check_latents(given: Mapping[str, object], capabilities: Capabilities) -> None:
    """Refuse the user's ratios for latents that the model does not have.

    Args:
        given: The user's settings, by name; defaults are not refused.
        capabilities: The model's capabilities.

    Raises:
        UsageError: A given ratio is above zero, and the model has no such latents.
    """
    for name in ("text", "image"):
        ratio = given.get(f"{name}_ratio")
        if ratio and capabilities.latents not in (name, "both"):
            raise UsageError(
                f"{name}_ratio {ratio}: this model has no {name} latents (but: {capabilities.latents}); leave "
                f"{name}_ratio out or set it to 0"
            )
