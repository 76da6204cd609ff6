"""Models by name. One is imported, and its weights are read, only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from milr.registry import Entry, find, load

if TYPE_CHECKING:
    from milr.models.base import Model

__all__ = ["MODELS", "embedded_folder", "load_model"]

MODELS: Mapping[str, Entry] = {
    "embedded": Entry("milr.models.janus:Janus", "a Janus checkpoint in miniature that comes with milr: draws icons"),
}
"""Name -> entry. A model is one file and one line here; a folder's path is loaded as Janus."""


def embedded_folder() -> Path:
    """Where the embedded model lies: a checkpoint that plain transformers loads as well."""
    return Path(__file__).parent.parent / "assets" / "embedded"


def load_model(
    name: str = "embedded",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    profile: str | None = None,
    deterministic: bool = False,
) -> Model:
    """A frozen model, ready to search.

    Args:
        name: One of `MODELS`, or the path of a folder with a Janus checkpoint.
        device: As torch names it: "cpu", "cuda", "cuda:1".
        dtype: Of the weights: "float32", "bfloat16" or "float16"; None is float32 on CPU, bfloat16 elsewhere.
        profile: How it is spoken to, one of `milr.models.profiles.PROFILES`; None takes the checkpoint's own.
        deterministic: Decode in batches of fixed shape, so that in bfloat16 too a drawing is the same whatever else is
            drawn beside it. A small batch then takes as long as a full one.

    Raises:
        UsageError: No such model or folder, no safetensors in it, an unknown device or dtype.
    """
    folder = embedded_folder() if name == "embedded" else Path(name)
    looks_like_path = "/" in name or "\\" in name or folder.exists()
    entry = MODELS["embedded"] if looks_like_path else find("model", name, MODELS)
    made: Model = load(entry)(folder, device=device, dtype=dtype, profile=profile, deterministic=deterministic)
    return made
