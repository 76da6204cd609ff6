"""Families of checkpoints: a folder's config names its family, which describes and loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from milr.errors import UsageError
from milr.models.received import read_json
from milr.registry import Entry, load
from milr.untrusted import one_line

if TYPE_CHECKING:
    from milr.models.base import Capabilities, Description

PIPELINE = "model_index.json"
"""The file that makes a folder a pipeline of diffusers."""


class Opened(Protocol):
    """A checkpoint's folder whose small files were read."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the model's capabilities, in milliseconds."""
        ...

    @property
    def description(self) -> Description:
        """Return everything that is known; this may count weights of the network on the meta device."""
        ...


@dataclass(frozen=True)
class FamilyEntry(Entry):
    """One line of the table of families; a target takes a folder and the options of `load_model`."""

    opener: str = ""
    """``module:function`` that reads a folder's small files and imports nothing heavy: `open` calls it."""
    model_types: tuple[str, ...] = ()
    """Values of `model_type` in config.json by which its folders are known."""

    def open(self, folder: Path, profile: str | None = None) -> Opened:
        """Read the small files of a folder; its weights need not be there.

        Raises:
            UsageError: The folder holds no such model, or there is no such profile.
        """
        opened: Opened = load(Entry(self.opener, self.summary))(folder, profile=profile, weights=False)
        return opened


FAMILIES: Mapping[str, FamilyEntry] = {
    "janus": FamilyEntry(
        "milr.models.janus:Janus",
        "Janus-Pro and its fine-tunes: text and image latents, answers about images",
        opener="milr.models.checkpoint:open_checkpoint",
        model_types=("janus", "multi_modality"),
    ),
    "llamagen": FamilyEntry(
        "milr.models.llamagen:LlamaGen",
        "LlamaGen text-to-image, as milr convert llamagen writes it: image latents",
        opener="milr.models.llamagen_folder:open_folder",
        model_types=("llamagen",),
    ),
}
"""Name -> entry. A family of checkpoints is its files and one line here."""


def find_family(folder: Path) -> FamilyEntry:
    """Return the family whose checkpoint a folder holds; only config.json is read.

    Raises:
        UsageError: There is no such folder, or it holds no checkpoint of `FAMILIES`.
    """
    if not folder.is_dir():
        raise UsageError(
            f"no model folder {str(folder)!r}: give a folder with a checkpoint, a name at the Hugging "
            "Face hub (OWNER/NAME), or one that milr info lists"
        )
    if (folder / PIPELINE).is_file():
        raise UsageError(f"{str(folder)!r} holds a pipeline of diffusers: type --model diffusers:{folder}")
    if not (folder / "config.json").is_file() and any(folder.glob("t2i_*.pt")):
        raise UsageError(
            f"{str(folder)!r} holds LlamaGen's pickles, which milr does not open: type milr convert llamagen {folder} "
            "NEW_FOLDER"
        )
    kind: object = read_json(folder / "config.json").get("model_type")
    for entry in FAMILIES.values():
        if kind in entry.model_types:
            return entry
    known = [f"{name} ({', '.join(entry.model_types)})" for name, entry in FAMILIES.items()]
    shown = one_line(repr(kind), 80)
    raise UsageError(f"{str(folder)!r} holds a model of type {shown}: milr loads folders of {' and '.join(known)}")
