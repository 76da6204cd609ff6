"""Weights: which ones a folder holds; where those outside the package are stored and how to get them.

They are in one folder, `$MILR_WEIGHTS` or `~/.cache/milr/weights`, with a folder per model. Nothing is downloaded here:
if a file is missing, the error names the command to type.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from milr.errors import UsageError
from milr.files import find_cache

ROOT_VARIABLE = "MILR_WEIGHTS"
CONVERSION = "conversion.json"
"""The file that `milr convert` writes beside weights: their origin and the hashes of its output."""
_SAMPLED = 2**20  # bytes of each weights file that identify the weights


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis."""

    subject: str
    fine: bool | None
    """None if it cannot be determined, which is not a fault."""
    said: str
    mend: tuple[str, ...] = ()
    """Commands that fix it."""


@dataclass(frozen=True)
class WeightFile:
    """A file with its size and hash, if they are known."""

    name: str
    sha256: str | None = None
    """SHA-256, hexadecimal, whole."""
    size: int | None = None
    """Size in bytes."""


@dataclass(frozen=True)
class Weights:
    """One model's folder under the root."""

    name: str
    """Name of the folder."""
    title: str
    """Title for readers."""
    files: tuple[WeightFile, ...]
    commands: tuple[str, ...]
    """Commands to get it; {folder} stands for the folder."""
    sources: Mapping[str, str] | None = None
    """First digits of the hashes of the checkpoints that `milr convert` makes it from -> name; None if nothing is
    converted."""

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return weights_root() / self.name

    @property
    def mend(self) -> tuple[str, ...]:
        """Return the commands, ready to be typed."""
        return tuple(command.format(folder=self.folder) for command in self.commands)

    def find(self) -> Path:
        """Return the folder with all its files.

        Raises:
            UsageError: A file is missing; the message has the commands.
        """
        for file in self.files:
            if not (self.folder / file.name).is_file():
                raise UsageError(
                    f"no {self.title}: {self.folder / file.name} is missing (${ROOT_VARIABLE} sets the folder of all "
                    f"weights); type: {' && '.join(self.mend)}"
                )
        return self.folder

    def update(self, digest: Digest) -> None:
        """Hash what distinguishes these weights from others: each file's name, size and first megabyte."""
        for file in self.files:
            if file.name != CONVERSION:
                sample(digest, self.find() / file.name)

    def examine(self) -> Iterator[Finding]:
        """Yield one finding per file (present, size, hash), then one about the origin of the weights."""
        for file in self.files:
            yield self._examine(file)
        if self.sources is not None and (self.folder / CONVERSION).is_file():
            yield self._examine_conversion(self.sources)

    def _examine(self, file: WeightFile) -> Finding:
        path = self.folder / file.name
        subject = f"{self.name}/{file.name}"
        if not path.is_file():
            return Finding(subject, False, f"missing in {self.folder}", self.mend)
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return Finding(subject, False, f"{size:,} bytes, but {file.size:,} are expected", self.mend)
        digest = hash_file(path)
        if file.sha256 is not None and digest != file.sha256:
            return Finding(subject, False, f"sha256 {digest[:16]}..., but {file.sha256[:16]}... is expected", self.mend)
        known = "as expected" if file.sha256 is not None else "no hash to compare with"
        return Finding(subject, True if file.sha256 is not None else None, f"{size:,} bytes, sha256 {digest}, {known}")

    def _examine_conversion(self, sources: Mapping[str, str]) -> Finding:
        subject = f"{self.name}: its source"
        try:
            record: Any = json.loads((self.folder / CONVERSION).read_text())
            source, made = str(record["source_sha256"]), dict(record["files"])
        except (ValueError, KeyError, TypeError):
            return Finding(subject, False, f"{CONVERSION} cannot be read", self.mend)
        changed = [name for name, digest in made.items() if not self._holds(name, str(digest))]
        if changed:
            return Finding(subject, False, f"changed since it was converted: {', '.join(changed)}", self.mend)
        title = next((title for start, title in sources.items() if source.startswith(start)), None)
        if title is None:
            official = " or ".join(f"{start}..." for start in sources)
            said = f"converted from sha256 {source[:16]}..., but {official} is the official checkpoint"
            return Finding(subject, False, said, self.mend)
        return Finding(subject, True, f"converted from {title}, sha256 {source}")

    def _holds(self, name: str, digest: str) -> bool:
        path = self.folder / name
        return path.is_file() and hash_file(path) == digest


def weights_root() -> Path:
    """Return the folder of all weights that do not come with the package."""
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return find_cache(ROOT_VARIABLE) / "milr" / "weights"
    try:
        return Path(root).expanduser()
    except RuntimeError:
        raise UsageError(f"{ROOT_VARIABLE}={root}: this user has no home folder; write the path out") from None


class Digest(Protocol):
    """A hash that is being computed."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""
        ...


def name_with(metric: str, *weights: Weights) -> str:
    """Return a reward's name with the version of its weights, as "geneval@1/c745efbc".

    Args:
        metric: Name and version of its rules.
        weights: All weights that it reads.

    Raises:
        UsageError: A file is missing.
    """
    digest = hashlib.sha256()
    for one in weights:
        one.update(digest)
    return f"{metric}/{digest.hexdigest()[:8]}"


def identify_weights(folder: Path) -> str:
    """Return eight hexadecimal digits that identify the weights in a folder.

    They hash the config and each safetensors file's size and first megabyte: training changes every weight, and whole
    files take too long to read at every start.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        sample(digest, path)
    return digest.hexdigest()[:8]


def sample(digest: Digest, path: Path, name: str | None = None) -> None:
    """Hash what distinguishes a weights file from others: its name (by default the file's), size and first megabyte."""
    with path.open("rb") as file:
        digest.update(f"{name or path.name} {path.stat().st_size} ".encode() + file.read(_SAMPLED))


def hash_file(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
