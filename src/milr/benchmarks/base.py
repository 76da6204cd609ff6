"""A benchmark's data type, and the parts of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milr.benchmarks.intervals import Estimate, write_interval, write_number
from milr.errors import UsageError
from milr.types import Task

ALL_ITEMS = "mean of prompts"
"""Name of the row with the mean over prompts of the arithmetic means of their items."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: tasks, and the table that its paper prints of them.

    A benchmark from outside is an object of this class at the top of a module. `read` is called with the folder of the
    option ``--data``, or None; the default evaluator `reward` is any name that `milr.load_reward` takes.
    `milr.testing.contracts.check_benchmark` checks it.
    """

    name: str
    title: str
    """Title for readers."""
    columns: Mapping[str, int]
    """Tag -> number of prompts with it in the whole benchmark, in the order of the paper's columns."""
    weights: Mapping[str, float]
    """Tag -> weight in the overall score; the weights add up to 1."""
    read: Callable[[Path | None], list[Task]]
    """Read the whole list in its official order from the benchmark's folder; every task has its tag.

    None takes the folder that `milr data get` fills, or the list in the package.
    """
    reward: str
    """The benchmark's own scorer, used unless another reward is asked for."""
    layout: str | None = None
    """The layout in `milr.benchmarks.layouts` that its official scorer reads; None if there is none."""
    whole_only: bool = False
    """True if the official scorer gives an overall score for the whole benchmark only."""
    in_icon_world: bool = False
    """True if the prompts are of the icon world: the embedded model can draw them and the reward `icons` can score
    them."""
    notes: tuple[str, ...] = ()
    """Note to print beside its numbers."""
    other_editions: tuple[str, ...] = ()
    """Rewards of the benchmark's other editions: as its scorer, they would give numbers that compare with nothing."""
    items: Mapping[str, int] = field(default_factory=dict[str, int])
    """Tag of checklist items -> number of prompts with such an item, for a table by item; empty for none."""

    @property
    def prompts(self) -> int:
        """Return the number of prompts of the whole benchmark."""
        return sum(self.columns.values())

    def check_scorer(self, reward: str, flag: str) -> None:
        """Refuse the scorer of another edition, before anything is drawn or paid.

        Args:
            reward: Name of the reward that is to give the headline numbers.
            flag: The option that names another one, for the error.

        Raises:
            UsageError: It is the scorer of another edition.
        """
        if reward in self.other_editions:
            raise UsageError(
                f"{reward} is the protocol of another edition than {self.title}: its numbers would compare with "
                f"nothing; give {flag} {self.reward}"
            )


@dataclass(frozen=True)
class Answer:
    """The score of one image of a task."""

    task: Task
    place: int
    """The task's index in the whole list, from 0."""
    image: int
    """Number of the image among the prompt's images, from 0."""
    value: float | None
    """Score in [0, 1]; None if the image could not be scored."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Condition -> degree to which it is met, as in the score."""


@dataclass(frozen=True)
class Column:
    """One number of a table."""

    name: str
    mean: float
    """Mean over images."""
    low: float
    high: float
    """Upper end of the 95 % interval."""
    prompts: int
    """Number of scored prompts."""
    of: int
    """Number of prompts in the whole benchmark."""

    @classmethod
    def of_estimate(cls, name: str, estimate: Estimate, of: int) -> Column:
        """Make a column from an estimate."""
        return cls(name, estimate.value, estimate.low, estimate.high, estimate.prompts, of)

    def write(self, digits: int) -> str:
        """Return the number as printed: "0.73 [0.61, 0.84], n = 60"."""
        return f"{write_number(self.mean, digits)} {write_interval(self.low, self.high, digits)}, n = {self.prompts}"


@dataclass(frozen=True)
class Table:
    """One row of a benchmark's table."""

    benchmark: str
    columns: tuple[Column, ...]
    """Columns with at least one scored image, in the paper's order."""
    overall: Column | None
    """Overall score; None if the official scorer would give none."""
    running: Column | None
    """The overall score of the columns so far, with their weights scaled to add up to 1, for progress lines."""
    unscored: int = 0
    """Number of images that could not be scored and are left out."""
    notes: tuple[str, ...] = field(default=())
    items: tuple[Column, ...] = ()
    """Means over the items of checklists, by tag, and last `ALL_ITEMS`; empty if the benchmark or the scores have none.
    """

    def __str__(self) -> str:
        """Return the table as lines of text."""
        rows = [*self.columns, *([self.overall] if self.overall else [])]
        width = max([len(row.name) for row in (*rows, *self.items)] + [7])

        def write(row: Column) -> str:
            numbers = f"{write_number(row.mean, 4)} {write_interval(row.low, row.high, 4)}"
            return f"{row.name:<{width}}  {numbers}  {row.prompts} of {row.of} prompts"

        lines = list(map(write, rows))
        if self.overall is None:
            done = sum(row.prompts for row in self.columns)
            lines.append(f"{'Overall':<{width}}  none: the official scorer asks for all prompts ({done} are here)")
        lines += ["by question (arithmetic means):", *map(write, self.items)] if self.items else []
        lines += [f"unscored, left out above: {self.unscored} pictures"] if self.unscored else []
        return "\n".join([*lines, *self.notes])
