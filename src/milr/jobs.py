"""One job for `milr.generate` and the commands generate, benchmark and ablate: tasks, settings and a run folder."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from milr.errors import MilrError, UsageError
from milr.methods import METHODS
from milr.methods.queue import Assigned, Assignment, Repeats
from milr.models import MODELS
from milr.models.devices import Placement, machine_facts
from milr.parts import Hooks, Names, Parts
from milr.registry import check_stored
from milr.rewards import REWARDS, locate_reward
from milr.rewards.spec import check_stored_name
from milr.runs import Manifest, NotScored, RunFacts, RunWriter, check_resumable, read_manifest
from milr.runs.layout import MANIFEST
from milr.runs.lock import check_unheld
from milr.runs.schema import EvaluatedImage
from milr.runs.time_left import TimeLeft
from milr.runs.workers_file import WorkersFile
from milr.settings import Settings, make_settings
from milr.types import StepRecord, Task, Unscored

if TYPE_CHECKING:
    from milr.rewards.vlm.client import VlmClient

MOST_UNSCORED = 8
"""Tasks in a row of which the reward scores no image; then the run stops."""
MOST_FAILED = 8
"""Tasks in a row that fail twice in workers; then the run stops."""


def begin_run(
    folder: Path,
    tasks: Sequence[Task],
    settings: Settings,
    parts: Parts,
    names: Names | None,
    placement: Placement,
    vlm: VlmClient | None = None,
    **facts: Unpack[RunFacts],
) -> RunWriter:
    """Return the writer of a new run; the folder is made when the job runs.

    Args:
        folder: New or empty.
        tasks: All tasks.
        settings: Settings of the run.
        parts: Loaded parts.
        names: Their names; None if a program gave objects, which nothing but that program can load again.
        placement: Device and dtype.
        vlm: Client of VLM judges.
        facts: More fields of the manifest.
    """
    known: RunFacts = {
        "model_folder": parts.model.folder,
        "panel": [one.name for one in parts.panel.values()],
        "device": placement.device,
        "dtype": placement.dtype,
    }
    asked: RunFacts = {}
    if names is not None:
        asked = {
            "model_asked": names.model,
            "reward_asked": names.reward,
            "evaluator_asked": names.evaluator,
            "panel_asked": names.panel,
            "profile": names.profile,
        }
    whole: RunFacts = {**known, **asked, **facts}
    return RunWriter(
        folder,
        tasks=tasks,
        settings=settings,
        model=parts.model.name,
        reward=parts.reward.name,
        evaluator=parts.evaluator,
        vlm_usage=parts.spending(vlm),
        machine={**_describe_machine(names, placement), **parts.facts},
        **whole,
    )


def read_names(folder: Path, typed: Collection[str] = ()) -> tuple[Manifest, Names]:
    """Return the manifest of a run that is to be resumed, and the names of its parts.

    Args:
        folder: The run's folder.
        typed: Code (``./file.py:attribute``) that may be loaded if the run names it; a run alone loads none.

    Raises:
        UsageError: The folder holds no run, one of milr 0.1 or one of objects, another process works on it, or it names
            code that was not typed.
    """
    manifest = read_manifest(folder)
    if manifest.model_asked is None or manifest.reward_asked is None:
        raise UsageError(
            f"{folder} does not say by which names its model and reward are loaded: a program made it, or an early "
            "milr; call milr.generate there again with resume=True, or begin a new run"
        )
    check_resumable(folder)
    check_unheld(folder, MANIFEST)
    check_stored("model", manifest.model_asked, MODELS, folder, typed)
    check_stored("method", manifest.method, METHODS, folder, typed)
    rewards = (manifest.reward_asked, manifest.evaluator_asked, *manifest.panel_asked)
    for name in filter(None, rewards):
        check_stored_name(name, REWARDS, folder, typed)
    asked = manifest.model_asked, manifest.reward_asked, manifest.method
    return manifest, Names(*asked, manifest.profile, manifest.evaluator_asked, manifest.panel_asked)


def resume_run(
    folder: Path, manifest: Manifest, parts: Parts, names: Names | None, vlm: VlmClient | None = None
) -> RunWriter:
    """Return the writer that continues a run.

    Raises:
        UsageError: A part is another one than the run was made with.
    """
    evaluator = None if parts.evaluator is None else parts.evaluator.name
    for what, was, now in (
        ("model", manifest.model, parts.model.name),
        ("reward", manifest.reward, parts.reward.name),
        ("evaluator", manifest.evaluator, evaluator),
        ("method", manifest.method, parts.method.name),
        ("panel", _list(manifest.panel), _list(one.name for one in parts.panel.values())),
    ):
        if was != now:
            way_out = "type --panel as you did then" if what == "panel" else "begin a new run"
            raise UsageError(f"{folder} was made with the {what} {was}, and here is {now}: {way_out}")
    return RunWriter.resume(
        folder,
        evaluator=parts.evaluator,
        vlm_usage=parts.spending(vlm),
        machine={**_describe_machine(names, Placement(manifest.device, manifest.dtype)), **parts.facts},
        redo_cancelled=True,
    )


class Job:
    """A run in progress: iterate over `run`; interrupted, it keeps each task's best image so far."""

    def __init__(self, parts: Parts, writer: RunWriter, *, keeps_cut: bool = True) -> None:
        """Take loaded parts and a writer.

        Args:
            parts: From `load_parts`, or objects of a program.
            writer: From `begin_run` or `resume_run`.
            keeps_cut: Finish the tasks that an interrupt or a total limit cuts short, with their best image so far. A
                benchmark leaves them unfinished, because they are no answers.
        """
        self.parts, self.writer, self._keeps_cut = parts, writer, keeps_cut
        self._unscored = self._failed = 0  # tasks in a row
        self._evaluated: dict[tuple[int, int], list[EvaluatedImage]] = {}  # by workers, of tasks in progress
        self._strips: dict[tuple[int, int], bytes] = {}  # by workers, of tasks that end
        self.stopped: str | None = None
        """Reason why `run` ended before all tasks had finished, in the words of `Finished`; None if it did not."""
        self.cut: list[tuple[StepRecord, Path]] = []
        """Last record and folder of the tasks that an interrupt cut short, if the job keeps them."""
        self.set_aside: dict[tuple[int, int], str] = {}
        """Tasks, as (index, image), that failed twice in workers -> their last error. They are left for resuming."""
        self._workers = WorkersFile(writer.folder)

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.writer.folder

    def time_left(self) -> TimeLeft:
        """Return the estimate of the remaining time, before `run` begins."""
        settings, workers = self.writer.manifest.settings, int(self.parts.facts.get("workers", 1))
        return TimeLeft(
            len(self.writer.remaining()),
            settings.most_images(1),
            settings.run.batch_size * workers,
            total_drawings=settings.run.total_drawings,
            total_seconds=settings.run.total_seconds,
        )

    def failures(self) -> list[str]:
        """Return one line for each task that failed twice in workers."""
        tasks = self.writer.manifest.tasks
        return [
            f"failed twice and set aside: {tasks[index].shown}{f', image {image}' if image else ''}: {error}"
            for (index, image), error in sorted(self.set_aside.items())
        ]

    def run(self) -> Generator[tuple[StepRecord, int, Path | None]]:
        """Draw and score the remaining images; images that could not be scored are tried again.

        A total limit of the settings ends the run cleanly, and `stopped` says so. It holds for this call: tasks that
        never began are left for resuming. Close the iterator on an interrupt (`contextlib.closing`), so that the tasks
        in progress are kept as they are.

        Yields:
            A record, which of the prompt's images it belongs to, and the task's folder with the task's last record. The
            record's index is the task's place in the manifest. A task that was cut short and is not kept has no folder.

        Raises:
            RunError: Nothing can be written any more; the finished tasks are kept.
            OutOfMemory: The reward or the model does not fit; the same.
            NotScored: Nothing is scored or evaluated any more; the same.
        """
        with closing(self.parts), self.writer as writer:
            self._workers.end(())  # that of a killed process
            try:
                yield from self._run(writer)
            except (KeyboardInterrupt, GeneratorExit):
                if self._keeps_cut:
                    self.cut = writer.conclude_begun()
                else:
                    writer.draw_begun()
                raise
            except (MemoryError, RuntimeError) as error:
                from milr.decode.batching import tell_shortage

                if (told := tell_shortage(error, "give a smaller --batch-size")) is None:
                    raise
                raise told from error
            finally:
                self._workers.end(self.failures())

    def _run(self, writer: RunWriter) -> Iterator[tuple[StepRecord, int, Path | None]]:
        parts, manifest = self.parts, writer.manifest
        # a method from outside declares its settings only once it is loaded
        stored = make_settings(manifest.method, {}, manifest.settings.flat, declared=parts.method.settings)
        writer.evaluate_missing()
        places, repeats = writer.remaining(), Repeats()
        keys = [repeats.key(task) for task in manifest.tasks]  # a repeated prompt has its own random streams
        seeded = [stored.change(seed=stored.run.seed + image) for image in range(manifest.images_per_prompt)]
        source = Assigned(
            [Assignment(manifest.tasks[i], parts.method, seeded[image], keys[i]) for i, image in places],
            lambda place: writer.recall(*places[place]),
        )
        hooks = Hooks(
            evaluated=lambda place, scores: self._evaluated.setdefault(places[place], []).extend(scores),
            recall=lambda place: writer.recall(*places[place]),
            set_aside=lambda place, error: self._set_aside(places[place], error),
            drawn=lambda place, strip: self._strips.__setitem__(places[place], strip),
        )
        with closing(parts.start(source, stored, hooks)) as runner:
            for found in parts.watch(runner):
                if found.finished == "unscored" and not self._keeps_cut:
                    # stored, it would count as finished for ever; left out, resuming draws it again
                    raise NotScored(f"{'; '.join(found.notes)}; {parts.reward.name} scores nothing any more")
                self._workers.update(parts.report, self.failures)
                place = index, image = places[found.index]
                strip = self._strips.pop(place, None)
                record = replace(found, index=index)
                if not self._keeps_cut and found.index in runner.cut:
                    if record.images:
                        writer.write(replace(record, finished=None), image)  # unfinished, for the same reason
                    yield record, image, None
                else:
                    scores = self._evaluated.pop(place, []) if parts.evaluates and record.finished else None
                    yield record, image, writer.write(record, image, scores, strip)
                    self._count_unscored(record)
            self.stopped = runner.stopped if writer.remaining() else None

    def _set_aside(self, place: tuple[int, int], error: str) -> None:
        """Note a task that failed twice; stop the run when it is one of many in a row."""
        self._evaluated.pop(place, None)
        self.set_aside[place] = error
        self._failed += 1
        if self._failed >= MOST_FAILED:
            raise MilrError(f"{self._failed} tasks in a row failed twice, the last one: {error}")

    def _count_unscored(self, record: StepRecord) -> None:
        """Stop the run if the reward scored no image of several tasks in a row, because it is then down."""
        if record.finished is None:
            return
        best = record.best_score
        self._failed = 0
        self._unscored = self._unscored + 1 if isinstance(best, Unscored) else 0
        if isinstance(best, Unscored) and self._unscored >= MOST_UNSCORED:
            raise NotScored(f"{self._unscored} tasks in a row could not be scored, the last one: {best.reason}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _describe_machine(names: Names | None, placement: Placement) -> dict[str, str | int]:
    places: dict[str, str] = {}
    if names is not None:
        places["reward_device"] = locate_reward(names.reward, placement)
        if names.evaluator is not None:
            places["evaluator_device"] = locate_reward(names.evaluator, placement)
    return machine_facts(placement, places)
