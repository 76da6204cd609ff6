"""`milr index`: rebuild the index from the run folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milr.errors import MilrError
from milr.runs import Run, StoredStep, read_run
from milr.runs.layout import MANIFEST
from milr.serve.jobs import describe_tasks
from milr.serve.steps import describe_step, name_place
from milr.serve.store import LIVE, SearchRow, State, Store
from milr.types import Score


@dataclass(frozen=True)
class Found:
    """The sources of an index."""

    runs: int
    steps: int
    gone: int
    faults: tuple[str, ...]


def reindex(folder: Path) -> Found:
    """Index every run in a folder, and forget those that are gone.

    Unfinished searches, which a server continues, are left unchanged. The owner of a search is kept if the index had
    it; searches without an owner are shown only if no keys are needed.

    Args:
        folder: Runs are its children. No server works in it.
    """
    runs = steps = gone = 0
    faults: list[str] = []
    with closing(Store(folder)) as store:
        known = store.known()
        for path in sorted(folder.iterdir()):
            state = known.pop(path.name, None)
            if state in LIVE or not (path / MANIFEST).is_file():
                continue
            try:
                run = read_run(path)
            except MilrError as error:
                faults.append(str(error))
                continue
            faults += run.damaged
            row, events = describe_run(path.name, run), list(_list_events(path.name, run))
            before = store.find_any(path.name)
            if before is not None:
                row.owner, row.request, row.created = before.owner, before.request, before.created
            store.replace(row, events)
            runs, steps = runs + 1, steps + len(events) - 1
        for search, state in known.items():
            if state not in LIVE:
                store.forget(search)
                gone += 1
    return Found(runs, steps, gone, tuple(faults))


def describe_run(search: str, run: Run) -> SearchRow:
    """Return the index's facts about a run that has ended."""
    manifest, lasts = run.manifest, [task.last for task in run.tasks]
    firsts = [task.first.scores[0] for task in run.tasks]
    first = [score.value for score in firsts if isinstance(score, Score)]
    best = [last.best_score.value for last in lasts if isinstance(last.best_score, Score)]
    return SearchRow(
        id=search,
        owner="",
        state=_find_state(run),
        created=manifest.started.timestamp(),
        ended=None if manifest.finished is None else manifest.finished.timestamp(),
        model=manifest.model_asked or manifest.model,
        method=manifest.method,
        request="",
        wanted=len(manifest.tasks) * manifest.images_per_prompt,
        done=len(lasts),
        met=sum(last.finished == "met" for last in lasts),
        first=sum(first) / len(first) if first else None,
        best=sum(best) / len(best) if best else None,
        error=manifest.error or "",
        **describe_tasks(manifest.tasks),
    )


def _find_state(run: Run) -> State:
    if run.manifest.status == "failed":
        return "failed"
    whole = len(run.tasks) == len(run.manifest.tasks) * run.manifest.images_per_prompt
    return "finished" if whole and all(task.last.finished != "cancelled" for task in run.tasks) else "cancelled"


def _list_events(search: str, run: Run) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield a run's events in the order in which they happened, as far as the records tell."""
    steps: list[StoredStep] = [step for task in run.tasks for step in task.steps]
    for step in sorted(steps, key=lambda one: (one.seconds, one.index, one.image, one.step)):
        yield "step" if step.finished is None else "image", name_place(step), describe_step(search, step)
    yield "end", "end", {"state": _find_state(run), "error": run.manifest.error}
