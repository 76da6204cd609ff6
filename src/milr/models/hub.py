"""Checkpoints at the Hugging Face hub: found in its cache, or fetched after consent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from milr.errors import UsageError
from milr.files import find_cache
from milr.models.received import read_index
from milr.proxies import check_proxies
from milr.untrusted import one_line

_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
WEIGHTS = ".safetensors"
PICKLES = ".bin"
_SETTINGS = (".json", ".jinja")
"""File name endings of the small files of a checkpoint; code is never fetched."""
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema|int8|nf4)[.-]")
"""Other copies of a pipeline's weights beside the ones that its configs name."""


@dataclass(frozen=True)
class Layout:
    """The files of a checkpoint that are fetched, and those that show that it is here."""

    needed: tuple[str, ...] = ("config.json", "tokenizer.json")
    settings: tuple[str, ...] = _SETTINGS
    """File name endings of its small files."""
    weights: tuple[str, ...] = (WEIGHTS,)
    agree: str = "type milr fetch {name} --yes"
    """Way to agree to the download."""
    nested: bool = False
    """True if its components are in folders of their own; weights beside these folders are other copies."""

    def takes(self, file: str, weights: str | None) -> bool:
        """Return true if a file belongs to it: one of its small files, or of its weights with that ending."""
        depth = file.count("/")
        if depth > self.nested or (
            weights and file.endswith(weights) and (depth != self.nested or _VARIANT.search(file))
        ):
            return False
        return file.endswith((*self.settings, *([weights] if weights else [])))


CHECKPOINTS = Layout()
PIPELINES = Layout(
    needed=("model_index.json",),
    settings=(".json", ".txt", ".model", ".jinja"),
    agree="type milr fetch diffusers:{name} --yes",
    nested=True,
)
"""Pipelines of diffusers."""
LORA = Layout(needed=("adapter_config.json",), agree="add --yes")
"""LoRAs in PEFT's layout."""


@dataclass(frozen=True)
class HubName:
    """A hub name: ``organisation/name``, optionally followed by ``@revision``."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Download:
    """A download that needs consent."""

    name: HubName
    files: tuple[str, ...]
    size: int
    """Bytes that the cache does not have yet."""

    @property
    def said(self) -> str:
        """Return the size in words."""
        return f"{self.name}: {len(self.files)} files, {self.size / 1e9:.2f} GB"


class NotConfirmed(UsageError):
    """The error of a download without consent."""


Confirm = Callable[[Download], bool]


def refuse(download: Download) -> bool:
    """Refuse every download: the default for programs that cannot ask a user."""
    return False


@dataclass(frozen=True)
class HubAccess:
    """Access to the hub: whether models may be fetched, and who is asked. By default nothing is fetched."""

    offline: bool = False
    confirm: Confirm = refuse


def parse_hub_name(name: str) -> HubName | None:
    """Return the parts of a hub name; None if the text is none."""
    found = _NAME.fullmatch(name)
    return HubName(found["repository"], found["revision"]) if found else None


def find_at_hub(
    name: HubName,
    *,
    weights: Sequence[str] | None = None,
    layout: Layout = CHECKPOINTS,
    offline: bool = False,
    confirm: Confirm = refuse,
) -> Path:
    """Return the folder of a checkpoint, from the hub's cache if it is complete there.

    A cached checkpoint is used without asking the hub for updates.

    Args:
        name: Name of the checkpoint.
        weights: File name endings of the weights; the first one that exists is taken. () takes the small files alone,
            which need no consent; None takes the layout's.
        layout: The kind of checkpoint.
        offline: Do not use the network, as with HF_HUB_OFFLINE=1.
        confirm: Called with the download, to allow or refuse it.

    Raises:
        NotConfirmed: The download was refused.
        UsageError: There is no such checkpoint or revision, it has no such weights, or the hub cannot be reached.
    """
    if not os.environ.get("HF_HOME"):
        find_cache("HF_HOME")  # the hub's library cannot be imported without a folder for its cache
    from huggingface_hub import is_offline_mode

    weights = layout.weights if weights is None else weights
    for ending in weights or (None,):
        cached = _find_in_cache(name, ending, layout)
        if cached is not None:
            return cached
    if offline or is_offline_mode():
        raise UsageError(
            f"{str(name)!r} is neither a folder nor whole in the hub's cache, and offline mode is on: leave out "
            f"--offline and unset HF_HUB_OFFLINE to fetch it, or give a folder"
        )
    download = _ask_hub(name, weights, layout)
    if weights and not confirm(download):
        way = layout.agree.format(name=name)
        raise NotConfirmed(f"{download.said} would be fetched from the hub: to agree, {way}")
    return Path(_download(name, download.files))


def _find_in_cache(name: HubName, weights: str | None, layout: Layout) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    ends = (*layout.settings, *([weights] if weights else []))
    # of a pipeline the hub has other copies, whose absence is no fault
    patterns = list(layout.needed) if layout.nested else [f"*{end}" for end in ends]
    try:
        folder = Path(
            cast("Any", huggingface_hub).snapshot_download(
                name.repository, revision=name.revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    if not present.issuperset(layout.needed):
        return None
    if weights is None:
        return folder
    indices = [Path(file) for file in present if file.endswith(f"{weights}.index.json")]
    needed = {(index.parent / file).as_posix() for index in indices for file in read_index(folder / index)}
    if layout.nested:
        needed |= {"/".join((part, weights)) for part in _unfilled(present, weights)}
    whole = needed <= present if needed else any(file.endswith(weights) for file in present)
    return folder if whole else None


def _unfilled(present: Collection[str], weights: str) -> set[str]:
    """Return the networks of a pipeline, folders with a config.json, that have no weights."""
    networks = {file.partition("/")[0] for file in present if file.endswith("/config.json")}
    return networks - {file.partition("/")[0] for file in present if "/" in file and file.endswith(weights)}


def _ask_hub(name: HubName, weights: Sequence[str], layout: Layout) -> Download:
    """Return the download that would be needed."""
    from huggingface_hub import HfApi

    info: Any = _call(name, HfApi().model_info, name.repository, revision=name.revision)
    named = [str(file.rfilename) for file in info.siblings]
    there = [file for file in named if file.count("/") <= layout.nested]
    if layout is not CHECKPOINTS and layout.needed[0] not in there:
        raise UsageError(f"{str(name)!r} has no {layout.needed[0]} at the hub: it is another kind of checkpoint")
    ending = next(
        (end for end in weights if any(layout.takes(file, end) and file.endswith(end) for file in there)), None
    )
    if weights and ending is None:
        if any(file.endswith(PICKLES) for file in there):
            raise UsageError(
                f"{str(name)!r} has its weights in pickles alone, which milr opens in one place: type "
                f"milr convert janus {name} NEW_FOLDER, and give that folder"
            )
        raise UsageError(f"{str(name)!r} has no *{weights[0]} at the hub: it is no checkpoint that milr can load")
    files = tuple(file for file in there if layout.takes(file, ending))
    needed: Any = _download(name, files, dry_run=True)
    return Download(name, files, sum(int(file.file_size) for file in needed if file.will_download))


def _download(name: HubName, files: Sequence[str], **options: Any) -> Any:
    import huggingface_hub

    fetch = cast("Any", huggingface_hub).snapshot_download
    return _call(name, fetch, name.repository, revision=name.revision, allow_patterns=list(files), **options)


def _call(name: HubName, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the hub; turn its errors into one line."""
    check_proxies()
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # errors of the hub's own HTTP library, whatever library this version uses
    unanswered = cast("type[Exception]", cast("Any", HfHubHTTPError).__bases__[0])
    try:
        return function(*arguments, **options)
    except GatedRepoError as error:
        raise UsageError(
            f"{str(name)!r} asks for an agreement at the hub: give it there, then set HF_TOKEN to your key"
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"there is no folder {str(name)!r}, and the hub has no model of that name (or only for keys: HF_TOKEN)"
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(f"{name.repository!r} has no revision {name.revision!r} at the hub") from error
    except (unanswered, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = one_line(str(error), 200) or type(error).__name__
        raise UsageError(
            f"there is no folder {str(name)!r}, and the hub could not be asked ({reason}): give a folder, or try again "
            f"where there is a network"
        ) from error
