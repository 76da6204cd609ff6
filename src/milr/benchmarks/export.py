"""Export of a benchmark's runs as the folder that its official scorer reads: each task's answer, and nothing else.

Official scorers count every image that they find and never notice a missing one. So the folder is built under another
name and renamed when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milr.benchmarks import is_benchmark, load_benchmark
from milr.benchmarks.base import Benchmark
from milr.benchmarks.layouts import LAYOUTS, load_layout
from milr.benchmarks.layouts.base import Layout
from milr.errors import UsageError
from milr.files import PART, move
from milr.registry import find
from milr.runs import Manifest, Run, say_resume
from milr.types import Task
from milr.untrusted import UntrustedError, resolve_inside

_SAME = ("benchmark", "method", "model", "reward", "settings", "images_per_prompt")


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    folder: Path
    pictures: int
    prompts: int
    whole: int
    """Number of prompts of the whole benchmark; a score of fewer is a score of something else."""
    benchmark: str


def export(runs: Sequence[Run], layout: str, out: Path, *, partial: bool = False) -> Exported:
    """Write the answers of a run, or of all shards of one, in an official layout.

    Args:
        runs: Runs of one benchmark with the same settings.
        layout: A name of `milr.benchmarks.layouts.LAYOUTS`.
        out: New or empty.
        partial: Accept unfinished runs.

    Raises:
        UsageError: The runs do not belong together or have not finished, the layout is another benchmark's, or `out` is
            not empty.
    """
    find("layout", layout, LAYOUTS)
    benchmark = _check(runs, layout, partial)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds files; nothing was overwritten: give --out a new or an empty folder")
    made = load_layout(layout)
    building = out.with_name(f"{out.name}.{os.getpid()}{PART}")  # a folder that only this export writes to
    building.mkdir(parents=True)
    try:
        pictures, prompts = _write(runs, made, building)
        if out.exists():
            out.rmdir()
        move(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Exported(out, pictures, prompts, benchmark.prompts, benchmark.title)


def _write(runs: Sequence[Run], made: Layout, building: Path) -> tuple[int, int]:
    """Write all images into an empty folder; return the number of images and of prompts."""
    named: dict[str, tuple[Task, int]] = {}
    written: set[Path] = set()
    for run in runs:
        for task in run.tasks:
            place = _place(run.manifest, task.index)
            name = made.name_picture(task.task, place, task.image, run.manifest.images_per_prompt)
            picture = _resolve(building, name, run)
            if picture in written:
                raise UsageError(
                    f"{run.folder} has an image of prompt {place}, which is there already: give shards once"
                )
            written.add(picture)
            named[name] = task.task, place
            picture.parent.mkdir(parents=True, exist_ok=True)
            task.load_image(task.answer.image)  # a real image, not any other file of a received run
            shutil.copyfile(task.find_file(task.answer.image), picture)
    if not named:
        raise UsageError("no task has finished: there is nothing to export")
    for path, text in made.describe(named).items():
        _resolve(building, path, runs[0]).write_text(text, encoding="utf-8")
    return len(named), len({place for _, place in named.values()})


def _resolve(building: Path, name: str, run: Run) -> Path:
    """Return the path of a file; its name may contain a received run's prompts and tags."""
    try:
        return resolve_inside(building, name)
    except UntrustedError as error:
        raise UsageError(f"{run.folder} cannot be exported ({error}): nothing was written") from None


def _check(runs: Sequence[Run], layout: str, partial: bool) -> Benchmark:
    if not runs:
        raise UsageError("no run given: type milr export RUN --layout geneval")
    first = runs[0]
    for run in runs:
        manifest = run.manifest
        if manifest.benchmark is None:
            raise UsageError(f"{run.folder} is no benchmark's run, so no official scorer knows its prompts")
        for name in _SAME:
            if getattr(manifest, name) != getattr(first.manifest, name):
                raise UsageError(f"{run.folder} and {first.folder} differ in their {name}: export each by itself")
        left = len(manifest.tasks) * manifest.images_per_prompt - len(run.tasks)
        if left and not partial:
            damaged = f"; {len(run.damaged)} of them are damaged, the first is {run.damaged[0]}" if run.damaged else ""
            raise UsageError(
                f"{run.folder} has {left} tasks that have not finished, and official scorers do not notice: type "
                f"{say_resume(run.folder, benchmark=True)} first, or give --partial{damaged}"
            )
    if not is_benchmark(first.manifest.benchmark):
        raise UsageError(f"{first.manifest.benchmark} is no benchmark of this milr, so it has no official layout")
    benchmark = load_benchmark(first.manifest.benchmark)
    if benchmark.layout != layout:
        own = f"--layout {benchmark.layout}" if benchmark.layout else "no official layout: its table is all there is"
        raise UsageError(f"{layout} is not the layout of {benchmark.name}, which has {own}")
    return benchmark


def _place(manifest: Manifest, index: int) -> int:
    return index if manifest.places is None else manifest.places[index]
