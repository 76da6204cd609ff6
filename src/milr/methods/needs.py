"""Needs of methods: a method whose needs a model does not meet is refused before the model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from milr.errors import UsageError
from milr.methods import METHODS, load_method
from milr.settings import STRATEGIES, MilrSettings, Settings, make_settings

if TYPE_CHECKING:
    from milr.methods.context import Method
    from milr.models.base import Capabilities


def check_able(method: str | Method, given: Mapping[str, object], able: Capabilities) -> None:
    """Refuse a method whose needs the model does not meet, and settings without any effect on this model.

    Args:
        method: Its name, or the method itself.
        given: The user's settings, by name; the model's defaults are not refused.
        able: The model's capabilities.

    Raises:
        UsageError: Names the missing ability, and the methods that work with this model.
    """
    from milr.models.absent import check_latents

    made = load_method(method) if isinstance(method, str) else method
    check_needs(made, make_settings(made.name, given, declared=made.settings), able)
    check_latents(given, able)


def check_needs(method: Method, settings: Settings, able: Capabilities) -> None:
    """Refuse a method whose needs the model does not meet.

    Args:
        method: The method.
        settings: Its settings: a search needs the latents of its strategy, one of them at least.
        able: The model's capabilities.

    Raises:
        UsageError: As `check_able`.
    """
    lacking = _find_lacking(method, settings, able)
    if lacking is None:
        return
    working = list_working(able)
    raise UsageError(f"the method {method.name!r} needs {lacking}; choose --method {' or '.join(working)}")


def list_working(able: Capabilities) -> list[str]:
    """Return milr's own methods that a model with these capabilities can run, in the order of `METHODS`."""
    return [name for name in METHODS if _find_lacking(load_method(name), make_settings(name), able) is None]


def _find_lacking(method: Method, settings: Settings, able: Capabilities) -> str | None:
    """Return the model's missing abilities, in words."""
    if "text" in method.needs and not able.writes_text:
        return "a reasoning text, and this model writes none"
    if "image tokens" in method.needs and not able.image_tokens:
        return "images that grow token by token, and this model's have no tokens"
    if "latents" not in method.needs:
        return None
    own = settings.own
    if not isinstance(own, MilrSettings):
        return None if able.latents != "none" else "latents, and this model has none"
    wanted = STRATEGIES[own.strategy].latents
    if any(able.has_latents(one) for one in wanted):
        return None
    there = "none" if able.latents == "none" else f"{able.latents} latents alone"
    return f"{' or '.join(wanted)} latents (strategy {own.strategy!r}), and this model has {there}"
