"""The protocol of a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from milr.types import Score, Task, Unscored


@dataclass(frozen=True)
class FoundPicture:
    """A picture to be scored."""

    key: str
    """Its path under the folder, with "/"."""
    task: Task
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the layout wants back when it writes."""


Scored: TypeAlias = tuple[FoundPicture, Score | Unscored]


class Layout(Protocol):
    """Reads a benchmark's folder of pictures and writes its official result files."""

    reward: str
    """The name of the reward that scores it unless another one is asked for."""
    prompts: int
    """How many the whole benchmark has."""
    right_or_wrong: bool
    """The official score counts a picture as right (1) or wrong, whatever its value."""

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Every picture that the official scorer would find, in a fixed order.

        Args:
            folder: As the official scorer takes it.
            prompts: The benchmark's prompt file, for layouts whose folder does not hold it; None where not given.

        Raises:
            UsageError: Nothing there that the official scorer would take, or something that it could not read.
        """
        ...

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Where the official scorer looks for a picture: its path under the folder, with "/".

        Args:
            task: The picture's.
            place: The task's in the benchmark's whole list, from 0.
            image: Which of the prompt's images it is, from 0.
            images: How many each prompt has.

        Raises:
            UsageError: The official scorer has no place for it.
        """
        ...

    def describe(self, task: Task, place: int) -> Mapping[str, str]:
        """What else stands in the folder for a task: path -> text."""
        ...

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write the official result files.

        Args:
            out: An existing folder.
            folder: As it was given to `find`.
            scored: In the order of `find`.
            reward: The name, with its version, of what scored them.

        Returns:
            The summary, as the official scorer prints it; without the pictures that are `Unscored`.
        """
        ...
