"""Latents that a search asks for and its model does not have."""

from __future__ import annotations

from collections.abc import Mapping

from milr.config import SearchConfig
from milr.errors import UsageError
from milr.models.base import Capabilities


def find_absent(config: SearchConfig, capabilities: Capabilities) -> dict[str, float]:
    """Ratios of a search that its model has no latents for."""
    ratios = {"text": config.text_ratio, "image": config.image_ratio}
    there = ("text", "image") if capabilities.latents == "both" else (capabilities.latents,)
    return {name: ratio for name, ratio in ratios.items() if ratio and name not in there}


def check_latents(given: Mapping[str, object], capabilities: Capabilities) -> None:
    """Refuse ratios that somebody asked for where the model has no such latents.

    Args:
        given: Fields of `SearchConfig` that were asked for; what is left to defaults is not refused.
        capabilities: Of the model, known before it is loaded.

    Raises:
        UsageError: A ratio above zero was asked for in vain.
    """
    asked = SearchConfig.model_validate({"text_ratio": 0, "image_ratio": 0} | dict(given))
    for name in find_absent(asked, capabilities):
        raise UsageError(
            f"{name}_ratio {given[f'{name}_ratio']}: this model has no {name} latents (but: {capabilities.latents}); "
            f"leave --{name}-ratio out or give 0"
        )
