"""What a benchmark is, and what its table is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milr.benchmarks.intervals import Estimate, write_interval, write_number
from milr.types import Task


@dataclass(frozen=True)
class Benchmark:
    """Tasks, and the table that its paper prints of them."""

    name: str
    title: str
    """For people."""
    columns: Mapping[str, int]
    """Tag -> how many prompts of the whole benchmark bear it, in the order of the paper's columns."""
    weights: Mapping[str, float]
    """Tag -> its weight in the overall score; they add up to 1."""
    read: Callable[[Path | None], list[Task]]
    """The whole list in its official order, from the folder of the benchmark's files; every task has its tag.

    None takes the folder that `milr data get` fills, or the list that comes with the package.
    """
    reward: str
    """What scores it unless another reward is asked for: its own scorer."""
    layout: str | None = None
    """Which of `milr.benchmarks.layouts` its official scorer reads; None where there is none."""
    whole_only: bool = False
    """The official scorer gives an overall score of the whole benchmark only."""
    in_icon_world: bool = False
    """The prompts are of the icon world: the embedded model can draw them and the reward `icons` can judge them."""
    notes: tuple[str, ...] = ()
    """What must be said beside its numbers."""

    @property
    def prompts(self) -> int:
        """How many the whole benchmark has."""
        return sum(self.columns.values())


@dataclass(frozen=True)
class Answer:
    """What one picture of a task is worth."""

    task: Task
    place: int
    """The task's place in the whole list, from 0."""
    image: int
    """Which of the prompt's images it is, from 0."""
    value: float | None
    """In [0, 1]; None where it could not be scored."""


@dataclass(frozen=True)
class Column:
    """One number of a table."""

    name: str
    mean: float
    """Over pictures."""
    low: float
    high: float
    """About 95 % of a benchmark's repetitions with other prompts of the kind would lie between these."""
    prompts: int
    """That were scored."""
    of: int
    """That the whole benchmark has."""

    @classmethod
    def of_estimate(cls, name: str, estimate: Estimate, of: int) -> Column:
        """Name an estimate."""
        return cls(name, estimate.value, estimate.low, estimate.high, estimate.prompts, of)

    def write(self, digits: int) -> str:
        """Return the number as people read it: "0.73 [0.61, 0.84], n = 60"."""
        return f"{write_number(self.mean, digits)} {write_interval(self.low, self.high, digits)}, n = {self.prompts}"


@dataclass(frozen=True)
class Table:
    """A benchmark's table, one row of it."""

    benchmark: str
    columns: tuple[Column, ...]
    """Those with at least one scored picture, in the paper's order."""
    overall: Column | None
    """None where the official scorer would give none."""
    running: Column | None
    """The same of the columns that are there, their weights scaled to add up to 1: for who watches a run."""
    unscored: int = 0
    """Pictures left out, since nobody could score them."""
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Lines for people."""
        rows = [*self.columns, *([self.overall] if self.overall else [])]
        width = max([len(row.name) for row in rows] + [7])
        lines = [
            f"{row.name:<{width}}  {write_number(row.mean, 4)} {write_interval(row.low, row.high, 4)}  "
            f"{row.prompts} of {row.of} prompts"
            for row in rows
        ]
        if self.overall is None:
            done = sum(row.prompts for row in self.columns)
            lines.append(f"{'Overall':<{width}}  none: the official scorer asks for all prompts ({done} are here)")
        lines += [f"unscored, left out above: {self.unscored} pictures"] if self.unscored else []
        return "\n".join([*lines, *self.notes])
