"""Models by name. A model is imported, and its weights are read, when it is first needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from milr.models.hub import WEIGHTS, Confirm, find_at_hub, parse_hub_name, refuse
from milr.registry import Entry, find, load

if TYPE_CHECKING:
    from milr.models.base import Capabilities, Model

__all__ = [
    "MODELS",
    "check_model",
    "embedded_folder",
    "find_model",
    "load_model",
    "read_best_method",
    "read_capabilities",
    "reads_free_prompts",
]

MODELS: Mapping[str, Entry] = {
    "embedded": Entry("milr.models.janus:Janus", "a Janus checkpoint in miniature that comes with milr: draws icons"),
    "embedded-small": Entry("milr.models.janus:Janus", "its sibling of a quarter of the size, made by the same recipe"),
}
"""Name -> entry. A model is one file and one line here; a folder and a hub's name are loaded as Janus."""


def embedded_folder(name: str = "embedded") -> Path:
    """Return the folder of one of `MODELS`: a checkpoint that plain transformers loads as well."""
    return Path(__file__).parent.parent / "assets" / name


def find_model(name: str, *, weights: bool = True, offline: bool = False, confirm: Confirm = refuse) -> Path:
    """Return the folder of a model.

    Args:
        name: One of `MODELS`, a folder, or a hub's name: ``organisation/name`` or ``organisation/name@revision``.
        weights: If true, its weights are needed; without them, no download needs agreement.
        offline: Fetch nothing from the hub.
        confirm: Agrees to a download or not, see `milr.models.hub`.

    Raises:
        UsageError: No such model, folder or hub name, or nobody agreed to fetch it.
    """
    if name in MODELS:
        return embedded_folder(name)
    if Path(name).exists():
        return Path(name)
    at_hub = parse_hub_name(name)
    if at_hub is not None:
        return find_at_hub(at_hub, weights=(WEIGHTS,) if weights else (), offline=offline, confirm=confirm)
    check_model(name)
    return Path(name)


def check_model(name: str) -> None:
    """Refuse what cannot be a model's name, folder or hub name; the hub is not asked."""
    if not (Path(name).exists() or "/" in name or "\\" in name):
        find("model", name, MODELS)


def read_capabilities(folder: Path, profile: str | None = None) -> Capabilities:
    """Read what a model is and can do from its config alone.

    Raises:
        UsageError: The folder holds no model that milr knows.
    """
    from milr.models.checkpoint import open_checkpoint

    return open_checkpoint(folder, profile=profile, weights=False).capabilities


def reads_free_prompts(folder: Path) -> bool:
    """Return whether the model in a folder reads any text, and not the grammar of `milr.tasks` alone.

    In milliseconds, from milr's own settings beside the checkpoint; whatever else is wrong is found when it is loaded.
    """
    try:
        settings: object = json.loads((folder / "milr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not (isinstance(settings, dict) and cast("dict[str, object]", settings).get("grammar") == "icons")


def read_best_method(folder: Path) -> dict[str, str]:
    """Return the best measured method of the model in a folder, and its strategy where it has one; {} is the paper's.

    In milliseconds, from milr's own settings beside the checkpoint.
    """
    try:
        settings: object = json.loads((folder / "milr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    best = cast("dict[str, object]", settings).get("best") if isinstance(settings, dict) else None
    return cast("dict[str, str]", best) if isinstance(best, dict) else {}


def load_model(
    name: str = "embedded",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    profile: str | None = None,
    offline: bool = False,
    confirm: Confirm = refuse,
    settings: Mapping[str, object] | None = None,
    deterministic: bool = False,
    graphs: bool = True,
) -> Model:
    """Load a frozen model.

    Args:
        name: One of `MODELS`, the path of a folder with a Janus checkpoint, or its name at the Hugging Face hub.
        device: As torch names it: "cpu", "cuda", "cuda:1".
        dtype: Of the weights: "float32", "bfloat16" or "float16"; None is float32 on CPU, bfloat16 elsewhere.
        profile: The form of its prompts, one of `milr.models.prompts.PROFILES`; None takes the checkpoint's own.
        deterministic: Decode in batches of fixed shape, so that in bfloat16 too an image does not depend on the rest
            of its batch. A small batch then takes as long as a full one.
        graphs: On a CUDA device, record decode steps as CUDA graphs and replay them.
        offline: Fetch nothing from the hub.
        confirm: Gets a download and agrees to it or not; the default refuses all.
        settings: Settings that a user gives, by name: latents that the model does not have are refused before its
            weights are read.

    Raises:
        UsageError: No such model or folder, no safetensors in it, an unknown device, dtype or profile, nobody agreed to
            fetch it, or it lacks the latents that `settings` ask for.
    """
    folder = find_model(name, offline=offline, confirm=confirm)
    if settings:
        from milr.models.absent import check_latents

        check_latents(settings, read_capabilities(folder, profile))
    from milr.models.devices import own_numbers

    with own_numbers():
        made: Model = load(MODELS.get(name, MODELS["embedded"]))(
            folder, device=device, dtype=dtype, profile=profile, deterministic=deterministic, graphs=graphs
        )
    return made
