"""A model's capabilities in words, for `milr info` and `milr plan`."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milr.models.base import Capabilities, Description

UNVERIFIED = "unverified: never compared with its authors' code"
_WIDTH, _TITLE = 118, 12


def say_profile(described: Description) -> str:
    """Return the profile's name and summary after a comma; nothing if the model has none."""
    return f", profile {described.profile} ({described.summary})" if described.profile else ""


def say_capabilities(able: Capabilities) -> Iterator[str]:
    """Yield one line, or a folded one, for each group of capabilities."""
    width, height = able.dimensions
    parts = [f"{width} pixels per side" if width == height else f"{width} x {height} pixels"]
    if able.image_tokens:
        parts.append(f"{able.image_tokens} tokens")
    if able.noise_shape:
        parts.append(f"noise of {' x '.join(map(str, able.noise_shape))}")
    if able.writes_text:
        parts.append("one pass" if able.passes == 1 else "two passes")
    yield from _fold("images", f"{', '.join(parts)}, latents: {able.latents}")
    if able.branches == 2:
        guidance = "two branches, with and without the prompt"
    elif able.guidance_input:
        guidance = "one branch, which reads the weight of guidance"
    else:
        guidance = "one branch: guidance is 1"
    yield from _fold("guidance", guidance)
    texts = "writes reasoning" if able.writes_text else "no reasoning: draws from the prompt alone"
    yield from _fold("text", f"{texts}; {'answers' if able.reads_images else 'no answers'} about images")
    longest = "as long as memory allows" if able.prompt_limit is None else f"{able.prompt_limit:,} {able.prompt_unit}"
    yield from _fold("prompt", f"{longest} at most" if able.prompt_limit is not None else longest)
    if able.image_cost:
        yield from _fold(
            "cost", f"about ${able.image_cost:.3g} an image, which counts toward --max-cost and --total-cost"
        )
    if able.image_bytes:
        yield from _fold(
            "an image", f"{able.image_bytes / 1e6:,.1f} MB in half precision beside the weights (computed)"
        )
    yield from _fold("licence", able.licence or "not known: see the checkpoint's card")
    yield from _fold("verified", able.verification or UNVERIFIED)


def _fold(title: str, text: str) -> Iterator[str]:
    for number, line in enumerate(wrap(text, _WIDTH - _TITLE)):
        yield f"{title if number == 0 else '':<{_TITLE}}{line}"
