"""Results of `milr.generate`: one per image, read from its run folder, with a display for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from PIL import Image

from milr.runs import Manifest, Run, TaskRun, read_run
from milr.types import Finished, ImageSample, Score, StepRecord, Task, Unscored, say_end, say_score


@dataclass(frozen=True)
class Cost:
    """Cost of a result."""

    drawings: float
    """Images drawn; a partial one counts as its share."""
    tokens: int
    """Tokens sampled, text and image."""
    reward_calls: int
    seconds: float
    dollars: float
    """US dollars paid to VLM judges by the reward."""


class Result:
    """The answer to one prompt: its best image, and how it came about. Images are read from the run when asked for."""

    def __init__(self, run: TaskRun, manifest: Manifest) -> None:
        """Take a finished task of a run."""
        self.run, self.manifest = run, manifest

    @property
    def task(self) -> Task:
        """Return the task: the prompt, and what is known of a correct image."""
        return self.run.task

    @property
    def prompt(self) -> str:
        """Return the prompt as the user wrote it."""
        return self.task.shown

    @cached_property
    def image(self) -> Image.Image:
        """Return the best image, RGB."""
        return self.run.load_image(self.run.last.best)

    @property
    def reasoning(self) -> str:
        """Return the text that the best image was drawn after; empty if it was drawn from the prompt alone."""
        best = self.run.last.best_step
        return next(step.reasoning.text for step in self.run.steps if step.step == best)

    @property
    def score(self) -> Score | Unscored:
        """Return the reward's score of the best image."""
        return self.run.last.best_score

    @property
    def evaluated(self) -> Score | Unscored | None:
        """Return the evaluator's score of the best image; None without an evaluator."""
        return self.run.answer.evaluator

    @property
    def finished(self) -> Finished | None:
        """Return why the search ended."""
        return self.run.last.finished

    @property
    def cost(self) -> Cost:
        """Return what the search has cost."""
        last = self.run.last
        return Cost(last.drawings_spent, last.tokens_spent, last.reward_calls, last.seconds, last.cost)

    @property
    def folder(self) -> Path:
        """Return the task's folder in the run: records, every image, a strip."""
        return self.run.folder

    @cached_property
    def records(self) -> tuple[StepRecord, ...]:
        """Return every step with its images."""
        found: list[StepRecord] = []
        samples: dict[str, ImageSample] = {}
        for step in self.run.steps:
            for one in step.images:
                samples[one.file] = ImageSample(one.tokens, self.run.load_image(one))
            found.append(
                StepRecord(
                    task=step.task,
                    index=step.index,
                    step=step.step,
                    reasoning=step.reasoning,
                    images=tuple(samples[one.file] for one in step.images),
                    scores=step.scores,
                    best=samples[step.best.file],
                    best_score=step.best_score,
                    best_step=step.best_step,
                    drawings_spent=step.drawings_spent,
                    tokens_spent=step.tokens_spent,
                    reward_calls=step.reward_calls,
                    seconds=step.seconds,
                    cost=step.cost,
                    finished=step.finished,
                    trace=step.trace,
                    notes=step.notes,
                    panel_first=step.panel_first,
                    panel_best=step.panel_best,
                )
            )
        return tuple(found)

    def __repr__(self) -> str:
        """Return the prompt, the score and where the images are, on one line."""
        end = say_end(self.finished, self.cost.drawings)
        return f"Result({self.prompt!r}, {say_score(self.score)}, {end}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return self.run.to_html()


class Results(Sequence[Result]):
    """The answers to several prompts, in their order."""

    def __init__(self, run: Run) -> None:
        """Take a run; tasks that have not finished have no result."""
        self.run = run
        self._results = [Result(task, run.manifest) for task in run.tasks]

    @classmethod
    def read(cls, folder: Path | str) -> Results:
        """Read the results of a run folder, made by any program.

        Raises:
            UsageError: It holds no run.
        """
        return cls(read_run(folder))

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    @property
    def mean(self) -> float | None:
        """Return the mean score of the scored results; None if there is none."""
        values = [one.score.value for one in self if isinstance(one.score, Score)]
        return sum(values) / len(values) if values else None

    def __repr__(self) -> str:
        """Return one line per result."""
        mean = "none scored" if self.mean is None else f"{self.mean:.2f} on average"
        head = f"Results({len(self)} of {len(self.run.manifest.tasks)} prompts, {mean}, {str(self.run.folder)!r})"
        return "\n".join([head, *(f"  {one!r}" for one in self)])

    def _repr_html_(self) -> str:
        return "".join(one.run.to_html() for one in self)
