"""Progress on the screen, from step records: a line per step of a search, a line per finished task of a benchmark."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from milr.runs.layout import MANIFEST
from milr.runs.time_left import TimeLeft
from milr.settings import Settings
from milr.types import Finished, ImageSample, Score, StepRecord, Task, Unscored, say_end, say_score

if TYPE_CHECKING:
    from milr.benchmarks.runner import BenchmarkJob  # imports torch
    from milr.runs import TaskRun


class SearchProgress:
    """Progress of a search: a line per step, on a terminal with a status line below, and a summary at the end.

    Consecutive steps with the same numbers share a line. A task's first and last line have the whole prompt; every line
    has its number.
    """

    def __init__(
        self,
        screen: Console,
        tasks: Sequence[Task],
        settings: Settings,
        left: TimeLeft,
        *,
        verbose: bool = False,
        finished: Sequence[TaskRun] = (),
    ) -> None:
        """Take the tasks of the run.

        Args:
            screen: Console for the lines.
            tasks: All tasks.
            settings: Settings of the run.
            left: The estimate of the remaining time.
            verbose: Print every step, with reasons and texts.
            finished: Tasks that earlier sessions have finished.
        """
        self._screen, self._tasks, self._verbose = screen, tasks, verbose
        steps = settings.get("steps")
        self._of = "" if steps is None else f"/{steps}"
        self._clock = time.monotonic()
        self._left = left
        self._first: dict[int, Score | Unscored] = {}
        self._last: dict[int, tuple[StepRecord, Path]] = {}  # finished tasks and their folders
        for task in finished:
            self._first[task.index] = next(iter(task.first.scores), task.last.best_score)
            self._last[task.index] = _recall(task), task.folder
        self._before = len(finished)
        self._numbers: dict[int, tuple[str, ...]] = {}  # the line of a task's last step
        self._folded: dict[int, list[int]] = {}  # later steps with the same line
        self._texts: dict[int, str] = {}  # the text of a task's last step
        self._noted: set[str] = set()
        self._told = False  # the meaning of "flipped"
        self._status = screen.status("reasoning and drawing the first images") if screen.is_terminal else None

    def __enter__(self) -> Self:
        """Show the status line."""
        if self._before:
            self._screen.print(f"milr: {self._before} of {len(self._tasks)} tasks are finished already")
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print the folded steps; remove the status line."""
        for index in list(self._folded):
            self._unfold(index)
        if self._status:
            self._status.stop()

    def show(self, record: StepRecord, folder: Path | None) -> None:
        """Print the record's line; `folder` is given with the task's last record."""
        # a task that a limit or an interrupt ends may have a last record without images
        begins = record.index not in self._first
        self._first.setdefault(record.index, record.scores[0] if record.scores else record.best_score)
        self._left.count(record, record.index)
        if folder is not None:
            self._last[record.index] = record, folder
        for note in record.notes:
            if note not in self._noted:
                self._noted.add(note)
                self._screen.print(f"note: {note}")
        numbers = _say_numbers(record)
        if not (self._verbose or begins or record.finished) and numbers == self._numbers[record.index]:
            self._folded.setdefault(record.index, []).append(record.step)
        else:
            self._unfold(record.index)
            self._numbers[record.index] = numbers
            if record.trace and not self._told:
                self._told = True
                self._screen.print(
                    "milr: below, flipped 3/4 means: 3 of the 4 tokens that have latents differ from step 0"
                )
            self._screen.print(self._line(record, numbers, begins))
            for line in self._reasons(record) if self._verbose else ():
                self._screen.print(f"    {line}")
        if self._status:
            seconds = time.monotonic() - self._clock
            done = f"{len(self._last)} of {len(self._tasks)} tasks finished"
            parts = (f"step {record.step}{self._of}", done, f"{seconds:.0f} s", self._left.say())
            self._status.update(", ".join(filter(None, parts)))

    def _unfold(self, index: int) -> None:
        """Print in one line the steps whose numbers are those of the step before."""
        steps = self._folded.pop(index, [])
        if steps:
            which = f"step {steps[0]:>2}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
            self._screen.print(f"{self._place(index)}{which}: numbers as before")

    def _place(self, index: int) -> str:
        return f"{index + 1}/{len(self._tasks)}  " if len(self._tasks) > 1 else ""

    def _line(self, record: StepRecord, numbers: Sequence[str], begins: bool) -> str:
        many = len(self._tasks) > 1
        parts = [
            f"step {record.step:>2}{self._of}",
            *numbers[:2],
            f"{record.seconds:.1f} s",
            record.finished or "",
            *numbers[2:],
            record.task.shown if many and (begins or record.finished) else "",
            self._left.say() if record.finished and len(self._last) < len(self._tasks) else "",
        ]
        return self._place(record.index) + "  ".join(part for part in parts if part)

    def _reasons(self, record: StepRecord) -> list[str]:
        """Return the reasons of the images' scores, and their text if it has changed."""
        lines = [_verdict(score) for score in record.scores]
        if record.reasoning.text != self._texts.get(record.index, ""):
            self._texts[record.index] = record.reasoning.text
            lines.append(f"reasoning: {' '.join(record.reasoning.text.split())}")
        return lines

    def kept(self) -> str:
        """Return the finished part of the run, in words."""
        return f"{len(self._last)} of {len(self._tasks)} tasks finished and kept"

    def unfinished(self) -> int:
        """Return how many tasks have not finished."""
        return len(self._tasks) - len(self._last)

    def outcomes(self, run: Path) -> list[dict[str, object]]:
        """Return one object per finished task, in the order of the prompts."""
        return [self._outcome(*self._last[index], run) for index in sorted(self._last)]

    def _outcome(self, last: StepRecord, folder: Path, run: Path) -> dict[str, object]:
        scores = [self._first[last.index], last.best_score]
        first, best = map(_number, scores)
        reasons = [score.reason for score in scores if isinstance(score, Unscored)]
        panel = {
            name: {"first": _number(last.panel_first[name]), "best": _number(seen)}
            for name, seen in last.panel_best.items()
        }
        outcome: dict[str, object] = {
            "prompt": last.task.prompt,
            "first_reward": first,
            "best_reward": best,
            "steps": last.step,
            "drawings": last.drawings_spent,
            "seconds": round(last.seconds, 3),
            "finished": last.finished,
            "picture": str((folder / "best.png").resolve()),
            "run": str(run.resolve()),
        }
        if last.task.typed is not None:
            outcome["typed"] = last.task.typed
        if last.cost:
            outcome["cost"] = last.cost
        if panel:
            outcome["panel"] = panel
        if reasons:
            outcome["reason"] = reasons[-1]
        return outcome

    def ends(self) -> list[tuple[Score | Unscored, StepRecord]]:
        """Return the first score and the last record of each finished task."""
        return [(self._first[index], self._last[index][0]) for index in sorted(self._last)]

    def conclude(self, run: Path, more: Sequence[str], result: Console) -> None:
        """Print the scores of the first and the best images, why tasks ended, `more`, and the paths of the results."""
        finished = [self._last[index] for index in sorted(self._last)]
        for last, _ in finished if len(finished) == 1 else ():
            result.print(f"first image: {_verdict(self._first[last.index])}")
            result.print(f"best image:  {_verdict(last.best_score)}, at step {last.best_step}")
        if len(finished) > 1:
            result.print(f"first images: {_average(list(self._first.values()))}")
            result.print(f"best images:  {_average([last.best_score for last, _ in finished])}")
        if finished:
            result.print(f"ended:       {say_ends(last.finished for last, _ in finished)}")
        for _, folder in finished if len(finished) == 1 else ():
            result.print(f"all images:  {folder / 'strip.png'}")
        for line in more:
            result.print(line)
        if len(finished) < len(self._tasks):
            result.print(f"not begun: {len(self._tasks) - len(finished)} of {len(self._tasks)} tasks")
        result.print(f"run: {run}")


class BenchmarkProgress:
    """Progress of a benchmark: a line per finished task, on a terminal with a bar below."""

    def __init__(self, job: BenchmarkJob, screen: Console, *, verbose: bool = False) -> None:
        """Count the tasks that are already finished."""
        from milr.benchmarks.tables import answers_of
        from milr.runs import read_run

        self._job, self._screen, self.verbose = job, screen, verbose
        manifest = job.writer.manifest
        self._total = len(manifest.tasks) * manifest.images_per_prompt
        begun, left = (job.folder / MANIFEST).is_file(), set(job.writer.remaining())
        run = read_run(job.folder) if begun else None
        kept = [] if run is None else [task for task in run.tasks if (task.index, task.image) not in left]
        self._answers = [] if run is None else answers_of(replace(run, tasks=tuple(kept)))
        self._before = len(self._answers)
        self._left = job.time_left()
        self._ends: list[Finished | None] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=screen, disable=not screen.is_terminal)
        self._bar = self._progress.add_task(manifest.settings.method, total=self._total, completed=self._before)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._before:
            self._screen.print(f"milr: {self._before} of {self._total} tasks are finished already")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar."""
        self._progress.stop()

    def images(self) -> int:
        """Return the most images that may still be drawn."""
        return self._job.writer.manifest.settings.most_images(self._total - len(self._answers))

    def scores(self) -> list[float | None]:
        """Return the scores of all finished tasks in the run's folder; None for unscored ones.

        They are read from the folder, because unscored images of an earlier session may have been scored again.
        """
        from milr.benchmarks.tables import answers_of
        from milr.runs import read_run

        return [answer.value for answer in answers_of(read_run(self._job.folder))]

    def ends(self) -> str:
        """Return why this session's tasks ended, in words; empty if none did."""
        return say_ends(self._ends)

    def show(self, record: StepRecord, image: int, folder: Path | None) -> None:
        """Print a finished task's line; `folder` is given with the task's last record."""
        self._left.count(record, (record.index, image))
        if self.verbose:
            said = "  ".join(part for part in _say_numbers(record) if part)
            self._progress.console.print(f"    {record.task.prompt}  step {record.step}  {said}")
        if folder is None:
            return
        from milr.benchmarks.tables import answer_of, summarise
        from milr.runs import read_task

        places = self._job.writer.manifest.places or ()
        answer = answer_of(read_task(folder), places[record.index])
        self._answers.append(answer)
        self._ends.append(record.finished)
        scorer = "reward" if self._job.writer.manifest.evaluator is None else "evaluator"
        value = "unscored" if answer.value is None else f"{answer.value:.2f}"
        ended = say_end(record.finished, record.drawings_spent)
        running = summarise(self._job.benchmark, self._answers).running
        score = "" if running is None else running.write(3)
        parts = (
            f"{len(self._answers)}/{self._total}",
            f"{scorer} {value}",
            f"reward {ended}" if record.finished == "met" else ended,
            f"so far {score}",
            self._left.say(),
            record.task.prompt,
        )
        workers = self._job.parts.report()
        about = "".join(f", {line}" for line in workers[:1])
        method = self._job.writer.manifest.settings.method
        self._progress.update(self._bar, completed=len(self._answers), description=f"{method}{about}")
        self._progress.console.print("  ".join(filter(None, parts)))
        for line in workers if self.verbose else ():
            self._progress.console.print(f"    {line}")


_ENDS: Mapping[Finished, str] = {
    "met": "the reward is above its stop value",
    "out of steps": "all steps are made",
    "out of drawings": "--max-drawings or --total-drawings is reached",
    "out of time": "--max-seconds or --total-seconds is reached",
    "out of reward calls": "--max-reward-calls or --total-reward-calls is reached",
    "out of money": "--max-cost or --total-cost is reached",
    "cancelled": "stopped early, with the best image so far",
    "unscored": "the reward scores nothing any more",
}
"""Reason why a task ended -> its meaning."""


def say_ends(reasons: Iterable[Finished | None]) -> str:
    """Return why tasks ended, with meanings, most frequent first: "3 met (...), 1 out of time (...)"."""
    counts = Counter[Finished](reason for reason in reasons if reason is not None).most_common()
    many = sum(count for _, count in counts) > 1
    return ", ".join(f"{f'{count} ' if many else ''}{reason} ({_ENDS[reason]})" for reason, count in counts)


def _recall(task: TaskRun) -> StepRecord:
    """Return the last record of a task that an earlier session has finished, with its best image alone."""
    last = task.last
    values: dict[str, Any] = {one.name: getattr(last, one.name) for one in fields(StepRecord)}
    values |= {"images": (), "scores": (), "best": ImageSample(last.best.tokens, task.load_image(last.best))}
    return StepRecord(**values)


def _say_numbers(record: StepRecord) -> tuple[str, ...]:
    """Return the numbers of a step's line: its reward, the best so far, the flipped tokens."""
    trace = record.trace
    flipped = trace and (
        f"flipped: text {trace.flipped_text}/{trace.text_latents}, image {trace.flipped_image}/{trace.image_latents}"
    )
    return (
        f"reward {' '.join(say_score(score) for score in record.scores)}" if record.scores else "",
        f"best {say_score(record.best_score)} at {record.best_step:>2}",
        flipped or "",
    )


def _number(score: Score | Unscored) -> float | None:
    return None if isinstance(score, Unscored) else score.value


def _verdict(score: Score | Unscored) -> str:
    if isinstance(score, Unscored):
        return f"unscored: {score.reason}"
    return f"{score.value:.2f}" + (f" ({score.explanation})" if score.explanation else "")


def _average(scores: Sequence[Score | Unscored]) -> str:
    values = [score.value for score in scores if isinstance(score, Score)]
    unscored = f", {len(scores) - len(values)} unscored" if len(values) < len(scores) else ""
    return (f"{sum(values) / len(values):.2f} on average" if values else "none scored") + unscored
