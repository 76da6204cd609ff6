"""A run in one small file: everything but its images, which its image tokens decode to.

Format: lines of JSON under LZMA. The first line is a `PackedRun`, each further one a `PackedTask`, in the order of
`read_run`. It has no images, no evidence of scores, and no prompts of benchmarks that do not come with milr.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from milr.errors import UsageError
from milr.files import PART, move, write_bytes
from milr.png import encode_png
from milr.runs.layout import EVALUATED, MANIFEST, RECORDS, name_task, say_fault
from milr.runs.metadata import add_texts, describe_image, describe_run
from milr.runs.reader import Run, TaskRun, make_task_run
from milr.runs.schema import Count, EvaluatedImage, Manifest, Name, StoredImage, StoredStep, dump, dump_lines
from milr.runs.upgrade import upgrade_packed_run, upgrade_packed_task
from milr.types import Score, Task, Unscored
from milr.untrusted import read_packed_lines

SUFFIX = ".run.xz"
"""Ending of a packed run's file name."""
_SPENT = (
    "error",
    "finished",
    "sessions",
    "seconds",
    "tasks_finished",
    "drawings",
    "tokens",
    "reward_calls",
    "evaluated",
    "evaluator_seconds",
    "cost",
    "vlm_usage",
)
"""Fields of a manifest that a new run does not have."""
Redraw = Callable[[Sequence[Task], Sequence[Sequence[int]]], list[Image.Image]]
"""A function that decodes image tokens, each list for a task."""
Which = Literal["none", "ends", "all"]
"""Images to draw again: none, the first, best and last of every task, or all."""


class PackedRun(BaseModel):
    """The first line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packed: Literal[2] = 2
    """Version of the format."""
    manifest: Manifest
    """The manifest, without tasks if the prompts are not milr's: they are read from the benchmark's own files."""


class PackedTask(BaseModel):
    """One finished task."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    index: Count
    """The task's index in the manifest."""
    image: Count
    best: Name
    """`digest` of the answer's image."""
    steps: tuple[dict[str, Any], ...]
    """Each a `StoredStep` without task, index and image, and with the best image's file name only."""
    evaluated: tuple[EvaluatedImage, ...]


def digest(image: Image.Image) -> str:
    """Return a hash of an image's size and pixels, RGB."""
    return blake2b(image.convert("RGB").tobytes(), digest_size=8, salt=b"%dx%d" % image.size).hexdigest()


def pack_run(run: Run) -> bytes:
    """Return the packed run. Equal runs give equal bytes."""
    manifest = run.manifest
    if manifest.data is not None:
        manifest = manifest.model_copy(update={"tasks": ()})
    lines = [dump(PackedRun(manifest=manifest)), *(dump(_pack_task(task)) for task in run.tasks)]
    return pack_lines(lines, preset=9)


def pack_lines(lines: Sequence[bytes], **options: int) -> bytes:
    """Return lines in xz's format. To pack and to unpack few lines takes little memory.

    Args:
        lines: Lines without their ends.
        options: Of the filter LZMA2, the preset among them.
    """
    content = b"\n".join(lines)
    size = min(max(len(content), 2**12), 2**26)  # at most that of preset 9
    return lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": size, **options}])


def _pack_task(task: TaskRun) -> PackedTask:
    return PackedTask(
        index=task.index,
        image=task.image,
        best=digest(task.load_image(task.answer.image)),
        steps=tuple(_pack_step(step) for step in task.steps),
        evaluated=tuple(one.model_copy(update={"score": _plain(one.score)}) for one in task.evaluated),
    )


def _pack_step(step: StoredStep) -> dict[str, Any]:
    plain = step.model_copy(
        update={
            "scores": tuple(map(_plain, step.scores)),
            "best_score": _plain(step.best_score),
            "panel_first": {name: _plain(score) for name, score in step.panel_first.items()},
            "panel_best": {name: _plain(score) for name, score in step.panel_best.items()},
        }
    )
    kept = plain.model_dump(mode="json", by_alias=True, exclude={"task", "index", "image", "best"})
    return {**kept, "best": step.best.file}


def _plain(score: Score | Unscored) -> Score | Unscored:
    return replace(score, evidence={}, regions=()) if isinstance(score, Score) else score


def read_packed(file: Path, tasks: Callable[[Manifest], Sequence[Task]]) -> tuple[Run, dict[tuple[int, int], str]]:
    """Read a packed run, of this format or of milr 0.1; its images' files do not exist yet.

    Args:
        file: A file made by `pack_run`.
        tasks: Function that returns the tasks for a manifest without tasks.

    Returns:
        The run, and the digests of the answers by index and image.

    Raises:
        UsageError: It is not a packed run, or has an unknown version.
    """
    try:
        lines = read_packed_lines(file)
        manifest, method = _read_first(next(lines, b""))
        if not manifest.tasks:
            manifest = Manifest.model_validate({**dict(manifest), "tasks": tuple(tasks(manifest))})
        found: dict[tuple[int, int], TaskRun] = {}
        digests: dict[tuple[int, int], str] = {}
        for line in lines:
            packed = _read_packed_task(line, method)
            key = packed.index, packed.image
            if key in found:
                raise ValueError(f"task {packed.index} is there twice")
            found[key], digests[key] = _unpack_task(file, manifest, packed), packed.best
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise UsageError(f"{file} is no packed run ({say_fault(error)}): give a file that milr pack made") from None
    return Run(file, manifest, tuple(found.values())), digests


def _read_first(line: bytes) -> tuple[Manifest, str | None]:
    """Return the manifest and, for a run of format 1, its method, else None."""
    try:
        return PackedRun.model_validate_json(line).manifest, None
    except ValidationError:
        first = from_json(line)
        if not isinstance(first, dict) or cast("dict[str, Any]", first).get("packed") != 1:
            raise
        old = cast("dict[str, Any]", first)
        return PackedRun.model_validate(upgrade_packed_run(old)).manifest, str(old["manifest"].get("method", "milr"))


def _read_packed_task(line: bytes, method: str | None) -> PackedTask:
    if method is None:
        return PackedTask.model_validate_json(line)
    return PackedTask.model_validate(upgrade_packed_task(from_json(line), method))


def _unpack_task(file: Path, manifest: Manifest, packed: PackedTask) -> TaskRun:
    if packed.index >= len(manifest.tasks):
        raise ValueError(f"it has no task {packed.index}")
    if packed.image >= manifest.images_per_prompt:
        raise ValueError(f"task {packed.index} has no image {packed.image}")
    task = manifest.tasks[packed.index]
    steps: list[StoredStep] = []
    drawn: dict[str, dict[str, Any]] = {}
    for step in packed.steps:
        drawn |= {image["file"]: image for image in step["images"]}
        whole = {**step, "task": task, "index": packed.index, "image": packed.image, "best": drawn[step["best"]]}
        steps.append(StoredStep.model_validate(whole))
    folder = file / "tasks" / name_task(packed.index, task, packed.image)
    return make_task_run(folder, manifest, steps, packed.evaluated, has_images=False)


def unpack_run(
    run: Run, digests: Mapping[tuple[int, int], str], folder: Path, redraw: Redraw | None, which: Which = "ends"
) -> Iterator[tuple[int, int, bool | None]]:
    """Write a packed run as a run folder, without evidence and strips, with the requested images.

    Args:
        run: A run from `read_packed`.
        digests: Its digests by index and image.
        folder: New or empty; the manifest is written last, so that half a run is not taken for one.
        redraw: Decodes tokens; None if no images are requested.
        which: Images to draw.

    Yields:
        Number of written tasks, of all tasks, and whether the answer's image equals the packed one, to the
        pixel; None if it was not drawn.
    """
    for done, task in enumerate(run.tasks, start=1):
        place = folder / "tasks" / task.folder.name
        fresh = place.with_name(place.name + PART)
        (fresh / "steps").mkdir(parents=True, exist_ok=True)
        (fresh / RECORDS).write_bytes(dump_lines(task.steps))
        if task.evaluated:
            (fresh / EVALUATED).write_bytes(dump_lines(task.evaluated))
        same = None
        if redraw is not None and which != "none":
            chosen = _choose(task, which)
            images = dict(
                zip(
                    [image.file for image in chosen],
                    redraw([task.task] * len(chosen), [image.tokens for image in chosen]),
                    strict=True,
                )
            )
            shared = describe_run(run.manifest, task.image)
            made = {one.image.file: one for one in task.images}
            texts = {step.step: step.reasoning for step in task.steps}
            said = {
                name: {**shared, **describe_image(task.task, texts[one.step], one.reward, one.step)}
                for name, one in made.items()
            }
            files = {name: add_texts(encode_png(image), said[name]) for name, image in images.items()}
            best = task.answer.image.file
            for name, content in {**files, "best.png": files[best]}.items():
                (fresh / name).write_bytes(content)
            same = digest(images[best]) == digests[task.index, task.image]
        move(fresh, place)
        yield done, len(run.tasks), same
    write_bytes(folder / MANIFEST, dump(run.manifest, indent=2) + b"\n")


def _choose(task: TaskRun, which: Which) -> list[StoredImage]:
    images = [one.image for one in task.images]
    chosen = images if which == "all" else [images[0], task.answer.image, images[-1]]
    return list({image.file: image for image in chosen}.values())


def begin_anew(manifest: Manifest, folder: Path) -> None:
    """Write a run folder without any task, so that resuming it draws the run again by its settings.

    Args:
        manifest: Manifest of a run whose images are gone.
        folder: New or empty.
    """
    fresh = {name: field.get_default() for name, field in Manifest.model_fields.items() if name in _SPENT}
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / MANIFEST, dump(manifest.model_copy(update={**fresh, "status": "stopped"}), indent=2) + b"\n")
