"""Choice of the method when the user names none."""

from __future__ import annotations

from collections.abc import Mapping

OWN_CHOICES = ("strategy", "text_ratio", "image_ratio", "learning_rate")
"""Settings that choose a search: a user who gives one gets the paper's method with it."""


def take_best(
    method: str | None, given: Mapping[str, object], best: Mapping[str, object]
) -> tuple[str, dict[str, object]]:
    """Return the method and settings to use when some are left open: the model's best measured ones, or the paper's.

    Args:
        method: The method asked for; "milr" is the paper's, None the model's best if it has one.
        given: Settings that were given, by name.
        best: The model's best measured method and strategy, {"method": ..., "strategy": ...}; {} if there is none.
    """
    if method is not None or not best or any(name in given for name in OWN_CHOICES):
        return method or "milr", dict(given)
    return str(best.get("method", "milr")), {**{k: v for k, v in best.items() if k != "method"}, **given}
