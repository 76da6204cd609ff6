"""Writes a run folder from step records, so that a kill at any moment loses only the tasks in flight."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from milr import __version__
from milr.config import SearchConfig
from milr.errors import UsageError
from milr.runs.schema import Manifest, Status, StoredStep, dump
from milr.runs.strip import Frame, draw_strip
from milr.types import Score, StepRecord, Task, Unscored

MANIFEST, RECORDS, PART = "run.json", "records.jsonl", ".part"


def default_folder(prompt: str, root: Path = Path("runs")) -> Path:
    """A folder under `root` that does not exist yet, named by the time and the prompt; not created."""
    slug = re.sub(r"\W+", "-", prompt.lower())[:40].strip("-") or "run"
    folder = first = root / f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that a run would write over."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a run needs a folder: give --out a name that is not taken")
    if any(folder.iterdir()):
        what = "another run" if (folder / MANIFEST).exists() else "files"
        raise UsageError(f"{folder} holds {what}; nothing was overwritten: give --out a new or an empty folder")


class RunWriter:
    """Consumes the records of one search; a context manager.

    A task's folder bears `.part` at its end until the task's last record is in. However the block is left, the
    manifest then tells how it ended, and every finished task stays.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        tasks: Sequence[Task],
        config: SearchConfig,
        model: str,
        reward: str,
        panel: Sequence[str] = (),
        judges: Callable[[], dict[str, str | int] | None] = lambda: None,
        model_folder: Path | str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._manifest = Manifest(
            model=model,
            model_folder=None if model_folder is None else str(model_folder),
            device=device,
            dtype=dtype,
            reward=reward,
            panel=tuple(panel),
            config=config,
            tasks=tuple(tasks),
            versions=_versions(),
            platform=platform.platform(),
            started=datetime.now().astimezone(),
        )
        self._judges = judges
        self._open: dict[int, _TaskFolder] = {}
        self._spent: dict[int, tuple[float, int]] = {}  # task -> drawings, tokens

    def __enter__(self) -> Self:
        check_folder(self.folder)
        try:
            (self.folder / "tasks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make {self.folder} ({error.strerror}): give --out a folder that you may write to"
            ) from error
        self._clock = time.monotonic()
        self._save("running")
        return self

    def write(self, record: StepRecord) -> Path | None:
        """Keep a record; gives the task's folder when the record is the task's last, else None."""
        if record.index not in self._open:
            self._open[record.index] = _TaskFolder(self.folder / "tasks" / f"{record.index:04d}-{record.task.key}")
        task = self._open[record.index]
        task.add(record)
        self._spent[record.index] = record.drawings_spent, record.tokens_spent
        if record.finished is None:
            return None
        del self._open[record.index]
        return task.finish(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._save("finished")
        elif isinstance(error, KeyboardInterrupt):
            self._save("interrupted")
        else:
            self._save("failed", str(error) or type(error).__name__)

    def _save(self, status: Status, error: str | None = None) -> None:
        drawings, tokens = (sum(spent[which] for spent in self._spent.values()) for which in (0, 1))
        manifest = self._manifest.model_copy(
            update={
                "status": status,
                "error": error,
                "finished": None if status == "running" else datetime.now().astimezone(),
                "seconds": round(time.monotonic() - self._clock, 3),
                "tasks_finished": len(self._spent) - len(self._open),
                "judges": self._judges(),
                "drawings": drawings,
                "tokens": tokens,
            }
        )
        path = self.folder / MANIFEST
        fresh = path.with_name(f"{MANIFEST}{PART}")
        fresh.write_bytes(dump(manifest, indent=2) + b"\n")
        os.replace(fresh, path)


class _TaskFolder:
    """The folder of a task in flight. Pictures are not held: the strip reads them back."""

    def __init__(self, folder: Path) -> None:
        self._final = folder
        self._folder = folder.with_name(folder.name + PART)
        (self._folder / "steps").mkdir(parents=True)
        self._best = ""
        self._cells: list[tuple[str, str, str]] = []  # picture, label, reward

    def add(self, record: StepRecord) -> None:
        """Write the step's pictures and its line."""
        names = [f"steps/{record.step:02d}-{number}.png" for number in range(len(record.drawings))]
        for number, (name, drawing, score) in enumerate(zip(names, record.drawings, record.scores, strict=True)):
            drawing.picture.save(self._folder / name)
            label = f"step {record.step}" + (f" #{number + 1}" if len(names) > 1 else "")
            self._cells.append((name, label, _reward_text(score)))
        if record.best_step == record.step:
            self._best = names[_best_number(record)]
        with (self._folder / RECORDS).open("ab") as file:
            file.write(dump(StoredStep.of(record, names, self._best)) + b"\n")

    def finish(self, record: StepRecord) -> Path:
        """Write the best picture and the strip, then give the folder its name."""
        record.best.picture.save(self._folder / "best.png")
        frames = [
            Frame(_read(self._folder / name), label, reward, best=name == self._best)
            for name, label, reward in self._cells
        ]
        draw_strip(record.task.prompt, frames).save(self._folder / "strip.png")
        self._folder.rename(self._final)
        return self._final


def _best_number(record: StepRecord) -> int:
    """Which of the step's drawings is the best: the object itself, or the first with its tokens."""
    for number, drawing in enumerate(record.drawings):
        if drawing is record.best:
            return number
    return next(number for number, drawing in enumerate(record.drawings) if drawing.tokens == record.best.tokens)


def _reward_text(score: Score | Unscored) -> str:
    return "unscored" if isinstance(score, Unscored) else f"{score.value:.2f}"


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _versions() -> dict[str, str]:
    """Read from the installed packages' metadata, so that torch need not be imported to write a run."""
    found = {"milr": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
