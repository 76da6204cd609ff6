"""Search for runs under the paths that a user gave: run folders, packed runs, compact results, folders of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from milr.benchmarks import is_benchmark, load_benchmark
from milr.errors import MilrError, UsageError
from milr.report.entries import settings_of
from milr.runs import SUFFIX, Manifest, Run, is_compact, read_compact, read_packed, read_run
from milr.runs.layout import MANIFEST
from milr.types import Task

_DEPTH = 4
"""Depth of folders to which runs are searched for."""
_FORM = "give run folders, files that milr pack made, or a folder of these"


@dataclass(frozen=True)
class Found:
    """The runs found, and notes on paths without any."""

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def find_runs(paths: Sequence[Path], data: Path | None = None) -> Found:
    """Read every run under these paths.

    A folder that is not a run is searched for runs. Three kinds of runs are left out with a note if there is any other
    run: unreadable files, runs without a finished task, and packed runs that are also there as folders.

    Args:
        paths: Folders and files.
        data: The folder with the benchmark's own files, for files without prompts; None takes the one that the run
            used.

    Raises:
        UsageError: A path does not exist, or no run was found.
    """
    runs: list[Run] = []
    notes: list[str] = []
    strange: list[Path] = []
    errors: list[MilrError] = []
    for path in _expand(paths, strange):
        try:
            found = open_runs(path, data, notes)
            runs += found
            notes += [note for run in found for note in run.notes]
        except MilrError as error:
            if not path.exists():  # FILE/NAME: the user typed a name that the file does not have
                raise
            errors.append(error)
            notes.append(f"left out: {error}")
    begun = [run for run in runs if run.tasks] or runs
    notes += [f"left out: {run.folder} has no finished task yet" for run in runs if run not in begun]
    kept, repeated = _leave_copies_out(begun)
    notes += repeated
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        notes.append(f"left out, no run: {strange[0]}{more}")
    if not kept:
        if errors:
            raise errors[0]
        where = strange[0] if strange else ", ".join(map(str, paths))
        raise UsageError(f"{where} holds no run ({MANIFEST} is missing): {_FORM}")
    return Found(tuple(kept), tuple(dict.fromkeys(notes)))


def _expand(paths: Sequence[Path], strange: list[Path]) -> Iterator[Path]:
    """Yield run folders and files of runs, each once; add other paths to `strange`."""
    seen: set[Path] = set()
    for path in paths:
        if not (path.exists() or path.parent.is_file()):  # below a file: one of its runs
            raise UsageError(f"{path} does not exist: {_FORM}")
        below = list(_runs_below(path, _DEPTH))
        strange += [] if below else [path]
        for one in below:
            if one.resolve() not in seen:
                seen.add(one.resolve())
                yield one


def _runs_below(path: Path, depth: int) -> Iterator[Path]:
    if is_compact(path):
        yield path
    elif path.is_file():
        if path.name.endswith(SUFFIX):
            yield path
    elif (path / MANIFEST).is_file():
        yield path
    elif path.is_dir() and depth:
        for one in sorted(path.iterdir()):
            yield from _runs_below(one, depth - 1)


def open_run(path: Path, data: Path | None = None, notes: list[str] | None = None) -> Run:
    """Read one run, as `open_runs`.

    Raises:
        UsageError: The path has several runs.
    """
    run, *more = open_runs(path, data, notes)
    if more:
        raise UsageError(f"{path} holds {len(more) + 1} runs: give the path of one, such as {run.folder}")
    return run


def open_runs(path: Path, data: Path | None = None, notes: list[str] | None = None) -> tuple[Run, ...]:
    """Read the runs of a path, in any of their forms.

    Args:
        path: A run folder, a packed run, compact results, or `FILE/NAME`, one run of these.
        data: As `find_runs`.
        notes: Gets a line if prompts had to be replaced by their indices.

    Raises:
        UsageError: It is not a run, or cannot be read.
    """
    if is_compact(path):
        return read_compact(path, lambda manifest, tags: _tasks_or_places(manifest, tags, data, notes))
    if path.name.endswith(SUFFIX):
        return (read_packed(path, lambda manifest: read_tasks(manifest, data))[0],)
    return (read_run(path),)


def read_tasks(manifest: Manifest, data: Path | None = None) -> Sequence[Task]:
    """Return the tasks for a manifest without tasks, from the benchmark's own files.

    Raises:
        UsageError: The files are not there, or the manifest names no benchmark.
    """
    if not is_benchmark(manifest.benchmark) or manifest.places is None:
        raise UsageError("the packed run has neither prompts nor a benchmark to read them from: pack it again")
    listed = load_benchmark(manifest.benchmark).read(data or Path(manifest.data or ""))
    return [listed[place] for place in manifest.places]


def _tasks_or_places(
    manifest: Manifest, tags: Sequence[str | None], data: Path | None, notes: list[str] | None
) -> Sequence[Task]:
    """Return the benchmark's tasks, or tasks named by their indices: numbers need no prompts."""
    places = manifest.places or range(len(tags))
    try:
        tasks = _read_somewhere(manifest, data)
        if [task.tag for task in tasks] == list(tags):
            return tasks
    except MilrError:
        if data is not None:
            raise
    if notes is not None:
        notes.append(
            f"the prompts of {manifest.benchmark} are not here (milr data get {manifest.benchmark}): "
            "the results are shown by their places in it"
        )
    return [Task(prompt=f"{manifest.benchmark} #{place}", tag=tag) for place, tag in zip(places, tags, strict=True)]


def _read_somewhere(manifest: Manifest, data: Path | None) -> Sequence[Task]:
    """Read the tasks from that folder, from the run's own, or from the one that `milr data get` fills."""
    if data is not None or (manifest.data and Path(manifest.data).is_dir()):
        return read_tasks(manifest, data)
    if not is_benchmark(manifest.benchmark) or manifest.places is None:
        raise UsageError(f"{manifest.benchmark} is no benchmark of this milr")
    listed = load_benchmark(manifest.benchmark).read(None)
    return [listed[place] for place in manifest.places]


def _leave_copies_out(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out the packed form of a run that is also there in a fuller form."""
    fullest: dict[object, Run] = {}
    for run in sorted(runs, key=lambda run: _fullness(run.folder)):
        fullest.setdefault(_identity(run), run)
    kept = [run for run in runs if fullest[_identity(run)] is run or _fullness(run.folder) == 0]
    notes = [f"left out: {run.folder} is {fullest[_identity(run)].folder} once more" for run in runs if run not in kept]
    return kept, notes


def _fullness(path: Path) -> int:
    return 0 if path.is_dir() else 1 if path.name.endswith(SUFFIX) else 2


def _identity(run: Run) -> object:
    """Return a key that no two runs share: time of start, settings, prompts."""
    manifest = run.manifest
    return (manifest.started, manifest.shard, manifest.settings.run.seed, str(settings_of(manifest)), manifest.platform)


def leave_repeats_out(runs: Sequence[Run], say: Callable[[str], object]) -> list[Run]:
    """Leave out runs with the same prompts, settings and seed as an earlier one."""
    seen: dict[object, Run] = {}
    kept: list[Run] = []
    for run in runs:
        settings, seed = str(settings_of(run.manifest)), run.manifest.settings.run.seed
        own = {(settings, task.task.key, seed + task.image, task.index) for task in run.tasks}
        if before := next((seen[one] for one in own if one in seen), None):
            say(f"left out: {run.folder} repeats searches of {before.folder} (same prompts, settings and seed)")
            continue
        seen |= dict.fromkeys(own, run)
        kept.append(run)
    return kept
