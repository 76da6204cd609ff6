"""A search in progress: its run folder, and which of its images have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milr.runs import RunWriter, StoredStep, read_run, read_task
from milr.runs.layout import MANIFEST
from milr.serve.asked import Order
from milr.serve.drawing import Loaded
from milr.serve.steps import Place, find_task
from milr.serve.store import SearchRow, State, now
from milr.serve.worker import Worker
from milr.types import Finished, KnownStep, Score, StepRecord


@dataclass(frozen=True)
class Growing:
    """An image that is being drawn, as far as it is there."""

    number: int
    """Greater than those of earlier ones."""
    data: Mapping[str, Any]
    """For clients: task, image, the share that is drawn, the image as a data URL."""


@dataclass
class Job:
    """A search in progress. Its run folder is written by one thread, that of its model's worker."""

    id: str
    owner: str
    client: str
    """The client, for fair order: key or address."""
    order: Order
    folder: Path
    expires: float
    """On the monotonic clock."""
    open: dict[int, Place] = field(default_factory=dict[int, Place])
    """Index in its worker's queue -> the image, of all that have not ended."""
    firsts: dict[Place, float | None] = field(default_factory=dict[Place, "float | None"])
    """Reward of each image's first drawing."""
    ends: dict[Place, StoredStep] = field(default_factory=dict[Place, StoredStep])
    """Each finished image's last step."""
    why: Finished | None = None
    """Why it was stopped before its end."""
    error: str = ""
    """The error that ended it, if it failed."""
    started: bool = False
    """True once one of its images was given a place."""
    ending: bool = False
    """True once it is being closed."""
    worker: Worker | None = None
    """The worker that draws it."""
    growing: dict[Place, Growing] = field(default_factory=dict[Place, Growing])
    """The unfinished images that a client watches."""
    prompt_tokens: dict[Place, int] = field(default_factory=dict[Place, int])
    """Tokens of each image's prompt, where the model counts them."""
    tried: bool = False
    """True from its first place until its next new step: see `milr.serve.store.AttemptRow`."""
    _writer: RunWriter | None = None
    _earlier: RunWriter | None = None

    def remaining(self) -> list[Place]:
        """Return the images that have not ended, image by image."""
        places = [(task, image) for image in range(self.order.images) for task in range(len(self.order.tasks))]
        return [place for place in places if place not in self.ends]

    def resume(self) -> list[StoredStep]:
        """Restore the steps of an earlier process; return them.

        Raises:
            MilrError: The folder holds a run that cannot be read.
        """
        if not (self.folder / MANIFEST).exists():
            return []
        self._earlier = RunWriter.resume(self.folder)
        remaining = set(self._earlier.remaining())
        steps: list[StoredStep] = []
        for task in read_run(self.folder).tasks:
            if (task.index, task.image) not in remaining:
                steps += task.steps
                for step in task.steps:
                    self.note(step)
        return steps

    def recall(self, place: Place) -> Sequence[KnownStep]:
        """Return the recorded steps of an image that has not ended, of this process and of an earlier one."""
        writer = self._writer or self._earlier
        return () if writer is None else writer.recall(*place)

    def write(self, record: StepRecord, place: Place, loaded: Loaded) -> StoredStep:
        """Store a step of one image; return it as it is stored.

        Raises:
            MilrError: Nothing can be written any more.
        """
        if self._writer is None:
            self._writer = self._open_writer(loaded)
        self._writer.write(replace(record, index=place[0]), place[1])
        step = read_task(find_task(self.folder, record.task, place)).last
        self.note(step)
        return step

    def note(self, step: StoredStep) -> None:
        """Store a step's facts for the index."""
        place = step.index, step.image
        if step.step == 0:
            first = step.scores[0]
            self.firsts[place] = first.value if isinstance(first, Score) else None
        if step.finished is not None:
            self.ends[place] = step

    def close(self, error: BaseException | None = None) -> None:
        """End the run folder's session: finished or stopped, or as this error says."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(None if error is None else type(error), error, None)

    def conclude(self) -> Mapping[str, Any]:
        """Return the index's facts about the search so far."""
        firsts = [value for place in self.ends if (value := self.firsts.get(place)) is not None]
        bests = [step.best_score.value for step in self.ends.values() if isinstance(step.best_score, Score)]
        return {
            "done": len(self.ends),
            "met": sum(step.finished == "met" for step in self.ends.values()),
            "first": sum(firsts) / len(firsts) if firsts else None,
            "best": sum(bests) / len(bests) if bests else None,
        }

    def _open_writer(self, loaded: Loaded) -> RunWriter:
        if self._earlier is not None:
            return self._earlier.__enter__()
        order = self.order
        return RunWriter(
            self.folder,
            tasks=order.tasks,
            settings=order.settings,
            model=loaded.model.name,
            model_folder=loaded.model.folder,
            model_asked=order.model,
            reward=loaded.reward.name,
            panel=[one.name for one in loaded.panel.values()],
            images_per_prompt=order.images,
        ).__enter__()


def make_row(job: Job, state: State) -> SearchRow:
    """Return the index's facts about a new search."""
    return SearchRow(
        id=job.id,
        owner=job.owner,
        state=state,
        created=now(),
        model=job.order.model,
        method=job.order.settings.method,
        request=job.order.model_dump_json(),
        wanted=job.order.wanted,
        **describe_tasks(job.order.tasks),
    )


def describe_tasks(tasks: Sequence[Any]) -> dict[str, str]:
    """Return the title and the tags of a search's tasks."""
    tags = dict.fromkeys(task.tag for task in tasks if task.tag)
    title = " · ".join(task.shown for task in tasks[:20])[:2000]
    return {"title": title, "tags": f",{','.join(tags)}," if tags else ""}
