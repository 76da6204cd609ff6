"""The protocol of a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from milr.types import Score, Task, Unscored


@dataclass(frozen=True)
class FoundPicture:
    """An image to be scored."""

    key: str
    """Path in the folder, with "/"."""
    task: Task
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    """Data for the layout's own use when it writes results."""


Scored: TypeAlias = tuple[FoundPicture, Score | Unscored]


class Layout(Protocol):
    """The protocol of a layout: it reads a benchmark's folder of images and writes its official result files."""

    reward: str
    """Name of the reward that scores it by default."""
    prompts: int
    """Number of prompts of the whole benchmark."""
    right_or_wrong: bool
    """True if the official score counts an image as right (1) or wrong, whatever its value."""

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find every image that the official scorer would find, in a fixed order.

        Args:
            folder: The folder for the official scorer.
            prompts: The benchmark's prompt file, for layouts whose folder does not hold it; None if not given.

        Raises:
            UsageError: There is no image for the official scorer, or a file that it could not read.
        """
        ...

    def check_reward(self, found: Sequence[FoundPicture], reward: str) -> None:
        """Refuse a reward whose numbers would mean nothing for these images, before anything is scored or paid.

        Args:
            found: The answer of `find`.
            reward: A reward's name.

        Raises:
            UsageError: The reward belongs to another edition of the benchmark.
        """
        ...

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return the path at which the official scorer looks for an image, relative to the folder, with "/".

        Args:
            task: The image's task.
            place: The task's index in the benchmark's whole list, from 0.
            image: Number of the image among the prompt's images, from 0.
            images: Number of images of each prompt.

        Raises:
            UsageError: The official scorer has no place for it.
        """
        ...

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return the folder's further files: path -> text.

        Args:
            pictures: Path of each image in the folder -> its task, and the task's index in the benchmark's list.
        """
        ...

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write the official result files.

        Args:
            out: An existing folder.
            folder: The folder given to `find`.
            scored: In the order of `find`.
            reward: Name of the reward, with its version.

        Returns:
            The summary, as the official scorer prints it, without `Unscored` images.
        """
        ...


class OneEdition:
    """Base class of a layout whose benchmark has one edition."""

    def check_reward(self, found: Sequence[FoundPicture], reward: str) -> None:
        """Accept any reward."""
