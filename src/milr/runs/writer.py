"""Writer of run folders from step records; an interruption at any moment loses only the tasks in progress."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from milr.errors import UsageError
from milr.files import PART, write_bytes
from milr.rewards.base import Reward
from milr.runs.evaluating import evaluate_missing
from milr.runs.figures import Figures
from milr.runs.folders import check_folder
from milr.runs.killed import add_unsaved
from milr.runs.layout import (
    EVALUATED,
    MANIFEST,
    RunError,
    check_inside,
    check_resumable,
    list_tasks,
    name_task,
    read_manifest,
)
from milr.runs.lock import hold_run
from milr.runs.metadata import describe_run
from milr.runs.page import write_page
from milr.runs.reader import TaskRun, read_task, read_whole
from milr.runs.schema import NAMES, EvaluatedImage, Manifest, Status, dump, dump_lines
from milr.runs.sessions import Spending, find_versions, open_session, spend_from_now, update_session
from milr.runs.task_folder import TaskFolder, recall_steps
from milr.settings import Settings
from milr.types import KnownStep, Score, StepRecord, Task, end_early


class RunFacts(TypedDict, total=False):
    """Optional fields of a manifest; see `Manifest`."""

    benchmark: str | None
    data: str | None
    places: tuple[int, ...] | None
    shard: str | None
    images_per_prompt: int
    deterministic: bool
    model_asked: str | None
    model_folder: Path | str | None
    reward_asked: str | None
    evaluator_asked: str | None
    panel: Sequence[str]
    panel_asked: Sequence[str]
    device: str
    dtype: str | None
    profile: str | None


class RunWriter:
    """A context manager that stores the records of one runner.

    The name of a task's folder ends in `.part` until the task is complete: its last record is written, and the
    evaluator, if there is one, has scored all of its images. At the end of the block, however it is left, the manifest
    says how it ended, and every finished task stays. Inside the block, no other process can write the run.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        tasks: Sequence[Task],
        settings: Settings,
        model: str,
        reward: str,
        evaluator: Reward | None = None,
        vlm_usage: Spending = lambda: None,
        machine: Mapping[str, str | int] | None = None,
        **facts: Unpack[RunFacts],
    ) -> None:
        """Begin a new run; the folder is made when the block is entered.

        Args:
            folder: New or empty.
            tasks: All tasks; a record's index refers to this list.
            settings: The method with all settings.
            model: Name of the model.
            reward: Name of the reward with version.
            evaluator: Scores every image of a task once the task has finished.
            vlm_usage: Returns the usage of VLM judges.
            machine: Facts that only torch knows: threads, accelerator.
            facts: More fields of the manifest.
        """
        self._resumed = self._redo_cancelled = False
        weights = facts.get("model_folder")
        known = {"device": "cpu", **facts, "model_folder": None if weights is None else str(weights)}
        manifest = Manifest.model_validate(
            {
                **known,
                "names": NAMES,
                "model": model,
                "reward": reward,
                "panel": tuple(facts.get("panel", ())),
                "evaluator": None if evaluator is None else evaluator.name,
                "settings": settings,
                "tasks": tuple(tasks),
                "versions": find_versions(),
                "platform": platform.platform(),
                "started": datetime.now().astimezone(),
            }
        )
        self._prepare(Path(folder), manifest, evaluator, vlm_usage, machine)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        *,
        evaluator: Reward | None = None,
        vlm_usage: Spending = lambda: None,
        machine: Mapping[str, str | int] | None = None,
        redo_cancelled: bool = False,
    ) -> Self:
        """Continue a run: the tasks of `remaining` are still to be done, the others stay unchanged.

        Args:
            folder: The run's folder.
            evaluator: The run's evaluator, loaded again.
            vlm_usage: Usage of VLM judges so far.
            machine: Facts for the manifest.
            redo_cancelled: Begin the tasks again that ended as "cancelled", as an interrupt ends them.

        Raises:
            UsageError: The folder holds no run, one of milr 0.1, or one with another evaluator.
        """
        check_resumable(Path(folder))
        manifest = read_manifest(Path(folder))
        name = None if evaluator is None else evaluator.name
        if name != manifest.evaluator:
            raise UsageError(f"{folder} was evaluated by {manifest.evaluator}, not by {name}: begin a new run")
        writer = cls.__new__(cls)
        writer._resumed, writer._redo_cancelled = True, redo_cancelled
        writer._prepare(Path(folder), manifest, evaluator, vlm_usage, machine)
        return writer

    def _prepare(
        self,
        folder: Path,
        manifest: Manifest,
        evaluator: Reward | None,
        vlm_usage: Spending,
        machine: Mapping[str, str | int] | None,
    ) -> None:
        self.folder = folder
        self._manifest = manifest
        self._evaluator, self._vlm_usage = evaluator, vlm_usage
        self._machine = machine or {}
        self._held = ExitStack()
        self._open: dict[tuple[int, int], TaskFolder] = {}  # (task, image)
        self._figures = Figures()
        self._finished = 0
        self._unscored: set[tuple[int, int]] = set()  # written, but with no scored image
        self._cut: set[tuple[int, int]] = set()  # interrupted in an earlier session, with their best images so far
        self._begun = False

    @property
    def manifest(self) -> Manifest:
        """Return the manifest as it was last saved."""
        return self._manifest

    def remaining(self) -> list[tuple[int, int]]:
        """Return the tasks that have not finished, as (index, image), image by image.

        A task without any scored image counts as unfinished: a resumed run begins it again, as it does damaged ones and
        those that an interrupt ended early.
        """
        manifest = self._manifest
        return [
            (index, image)
            for image in range(manifest.images_per_prompt)
            for index, task in enumerate(manifest.tasks)
            if not (folder := self.folder / "tasks" / name_task(index, task, image)).is_dir()
            or (index, image) in self._unscored | self._cut
            or (self._resumed and not self._begun and not self._is_done(folder))
        ]

    def __enter__(self) -> Self:
        if not self._resumed:
            check_folder(self.folder)
        if self._resumed:
            check_inside(self.folder)
        try:
            (self.folder / "tasks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make {self.folder} ({error.strerror}): give --out a folder that you may write to"
            ) from error
        with ExitStack() as held:
            held.enter_context(hold_run(self.folder, MANIFEST))
            with self._refusing_full_disks():
                self._begin()
            self._held = held.pop_all()
        return self

    def _begin(self) -> None:
        """Open a session after locking the run."""
        if self._resumed:
            self._manifest = add_unsaved(read_manifest(self.folder), self.folder)  # as its last session has left it
            for left in (task for task in list_tasks(self.folder) if _read_scored(task) is None):
                left.unlink() if left.is_symlink() else shutil.rmtree(left)
            for begun in (self.folder / "tasks").glob(f"*{PART}"):
                if begun.is_symlink():  # others stay until they are continued
                    begun.unlink()
            # a cancelled task keeps its images until its new ones are there
            again = [task for task in list_tasks(self.folder) if not self._is_done(task)]
            self._cut = {(task.index, task.image) for task in map(read_task, again)}
            self._begun = True
        elif (self.folder / MANIFEST).exists():
            raise UsageError(f"another process has begun a run in {self.folder}: give --out a new or an empty folder")
        expected = len(self._manifest.tasks) * self._manifest.images_per_prompt
        self._finished = expected - len(self.remaining())
        self._figures.begin()
        self._manifest = open_session(self._manifest, self._machine)
        self._vlm_usage = spend_from_now(self._vlm_usage)
        self._save("running")

    def evaluate_missing(self) -> None:
        """Let the evaluator score again the images that it could not score in an earlier session.

        Raises:
            RunError: Nothing can be written any more, or the evaluator cannot score any more.
        """
        if self._evaluator is None:
            return
        with self._figures.evaluating(), self._refusing_full_disks():
            for folder in list_tasks(self.folder):
                task = read_task(folder)
                whole, fresh = evaluate_missing(self._evaluator, task, task.evaluated)
                if fresh:
                    write_bytes(folder / EVALUATED, dump_lines(whole))
                    self._figures.add_scores(fresh)

    def write(
        self,
        record: StepRecord,
        image: int = 0,
        evaluated: Sequence[EvaluatedImage] | None = None,
        strip: bytes | None = None,
    ) -> Path | None:
        """Store a record; return the task's folder if the record is the task's last, else None.

        Args:
            record: A record whose index refers to the writer's list of tasks.
            image: Number of the image among the prompt's images.
            evaluated: With a task's last record, the evaluator's scores of all its images, where they are known.
            strip: With a task's last record, its strip as PNG, where it is drawn.

        Raises:
            RunError: Nothing can be written any more, or the evaluator cannot score any more.
        """
        key = record.index, image
        with self._refusing_full_disks():
            if key not in self._open:
                name = name_task(record.index, record.task, image)
                self._open[key] = TaskFolder(self.folder / "tasks" / name, image, describe_run(self._manifest, image))
            task = self._open[key]
            task.add(record)
            self._figures.add(key, record)
            if record.finished is None:
                return None
            task.conclude(record, strip)
            if self._evaluator is not None:
                with self._figures.evaluating():
                    scores = task.evaluate(self._evaluator, record.task) if evaluated is None else task.keep(evaluated)
                    self._figures.add_scores(scores)
            del self._open[key]
            self._cut.discard(key)
            if isinstance(record.best_score, Score):
                self._finished += 1
            else:
                self._unscored.add(key)
            folder = task.rename()
            self._save("running")
            return folder

    def recall(self, index: int, image: int) -> list[KnownStep]:
        """Return the recorded steps of an unfinished task, of this session or of one that was cut short.

        Steps of an earlier session are left out from the first one that was not scored, which is tried again.
        """
        key = index, image
        if key in self._open:
            return self._open[key].recall()
        if not self._resumed:
            return []
        whole = self.folder / "tasks" / name_task(index, self._manifest.tasks[index], image)
        found = [recall_steps(one) for one in (whole.with_name(whole.name + PART), whole) if one.is_dir()]
        known = [list(takewhile(_is_scored, steps)) for steps in found]
        longest = max(known, key=len, default=list[KnownStep]())
        self._figures.note_known(key, len(longest))
        return longest

    def draw_begun(self) -> list[Path]:
        """Write the best image so far of every task in progress, which stays unfinished; return their folders."""
        with self._refusing_full_disks():
            return [task.draw(task.last) for task in self._open.values() if task.last is not None]

    def conclude_begun(self) -> list[tuple[StepRecord, Path]]:
        """End the tasks in progress with their best images so far.

        If an earlier session recorded more steps of a task, these stay.

        Returns:
            Each task's last record, which says "cancelled", and its folder.

        Raises:
            RunError: As `write`.
        """
        ended: list[tuple[StepRecord, Path]] = []
        for (_, image), task in list(self._open.items()):
            if task.last is None:  # not even its first step was written
                continue
            if (task.last.index, image) in self._cut and read_task(task.final).last.step > task.last.step:
                task.discard()
                continue
            record = end_early(task.last, "cancelled")
            folder = self.write(record, image)
            assert folder is not None
            ended.append((record, folder))
        return ended

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if error is None:
                with self._refusing_full_disks():
                    self._save("stopped" if self.remaining() else "finished")
                    write_page(self.folder)
                return
            with suppress(OSError, UsageError):  # a full disk leaves the manifest of the last finished task
                if isinstance(error, (KeyboardInterrupt, GeneratorExit)):  # the caller no longer holds the run
                    self._save("interrupted")
                else:
                    self._save("failed", str(error) or type(error).__name__)
                write_page(self.folder)

    @contextmanager
    def _refusing_full_disks(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot write {self.folder} ({error.strerror or error}): make room there; the finished tasks are kept"
            ) from error

    def _is_done(self, folder: Path) -> bool:
        """Return true if nothing is left to do for a finished task."""
        task = _read_scored(folder)
        return task is not None and not (self._redo_cancelled and task.last.finished == "cancelled")

    def _save(self, status: Status, error: str | None = None) -> None:
        figures = {
            "status": status,
            "error": error,
            **self._figures.read(),
            "vlm_usage": self._vlm_usage(),
        }
        whole = {
            "status": status,
            "error": error,
            "finished": None if status == "running" else datetime.now().astimezone(),
            "tasks_finished": self._finished,
        }
        self._manifest = update_session(self._manifest, **figures).model_copy(update=whole)
        write_bytes(self.folder / MANIFEST, dump(self._manifest, indent=2) + b"\n")


def _is_scored(step: KnownStep) -> bool:
    return all(isinstance(score, Score) for score in step.scores)


def _read_scored(folder: Path) -> TaskRun | None:
    """Read a finished task; return None if it is damaged, or the reward has scored none of its images."""
    task = read_whole(folder)
    return task if task is not None and isinstance(task.last.best_score, Score) else None
