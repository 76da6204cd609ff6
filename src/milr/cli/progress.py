"""How far a benchmark's run is, on the screen."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from milr.runs.layout import MANIFEST
from milr.types import StepRecord

if TYPE_CHECKING:
    from milr.benchmarks.runner import BenchmarkJob  # brings torch


class Watch:
    """Says how far the run is: a line a finished task, on a terminal a bar below."""

    def __init__(self, job: BenchmarkJob, screen: Console) -> None:
        """Count what is finished already."""
        from milr.benchmarks.tables import answers_of
        from milr.runs import read_run

        self._job, self._screen = job, screen
        manifest = job.writer.manifest
        self._total = len(manifest.tasks) * manifest.images_per_prompt
        begun = (job.folder / MANIFEST).is_file()
        self._answers = answers_of(read_run(job.folder)) if begun else []
        self._before = len(self._answers)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=screen, disable=not screen.is_terminal)
        self._bar = self._progress.add_task(manifest.method, total=self._total, completed=self._before)

    def __enter__(self) -> Self:
        """Begin to count time."""
        self._clock = time.monotonic()
        if self._before:
            self._screen.print(f"milr: {self._before} of {self._total} tasks are finished already")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as it is."""
        self._progress.stop()

    def pictures(self) -> int:
        """How many may be drawn yet, at most."""
        config = self._job.writer.manifest.config
        return (self._total - len(self._answers)) * (config.steps + 1) * config.drawings_per_step

    def see(self, record: StepRecord, folder: Path | None) -> None:
        """Take a record; `folder` is the task's when this is its last."""
        if folder is None:
            return
        from milr.benchmarks.tables import answer_of, summarise
        from milr.runs import read_task

        places = self._job.writer.manifest.places or ()
        answer = answer_of(read_task(folder), places[record.index])
        self._answers.append(answer)
        table = summarise(self._job.benchmark, self._answers)
        running = table.running
        score = "" if running is None else f"{running.mean:.3f} [{running.low:.3f}, {running.high:.3f}]"
        done = len(self._answers) - self._before
        left = (time.monotonic() - self._clock) / done * (self._total - len(self._answers))
        parts = (
            f"{len(self._answers)}/{self._total}",
            "unscored" if answer.value is None else f"{answer.value:.2f}",
            f"after {record.drawings_spent:>4.4g} drawings",
            f"so far {score}",
            f"{timedelta(seconds=round(left))} left",
            record.task.prompt,
        )
        self._progress.update(self._bar, completed=len(self._answers))
        self._progress.console.print("  ".join(parts))
