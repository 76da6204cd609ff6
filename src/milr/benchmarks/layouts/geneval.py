"""GenEval's folders and result files.

Source: `evaluation/evaluate_images.py` and `evaluation/summary_scores.py` of djghosh13/geneval, commit af4902f.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from milr.benchmarks.layouts.base import FoundPicture, OneEdition, Scored
from milr.errors import UsageError, say_reason
from milr.files import write_text
from milr.rewards.geneval.rules import kept_objects, to_detections
from milr.tasks import OBJECT_NAMES, check_task, read_tasks
from milr.types import Score, Task

RESULTS = "results.jsonl"
_FIELDS = ("tag", "prompt", "include", "exclude")
_PICTURE = re.compile(r"\d+\.png")


class GenEvalLayout(OneEdition):
    """00000/metadata.jsonl and 00000/samples/0000.png.

    As in the original, folders whose names are not all digits and files that are not named by digits and ".png" are
    skipped; unlike there, the order is that of the numbers.
    """

    reward = "geneval"
    prompts = 553
    right_or_wrong = True

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find every image that GenEval's scorer would find, by the numbers of folder and image.

        Args:
            folder: Holds the numbered folders.
            prompts: GenEval's evaluation_metadata.jsonl, to check that no prompt lacks a folder; None skips the check.

        Raises:
            UsageError: There are no images, a folder has no readable metadata, or a prompt has no folder.
        """
        if not folder.is_dir():
            raise UsageError(f"no folder {str(folder)!r}: give one with GenEval's 00000/samples/0000.png in it")
        numbered = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        found: list[FoundPicture] = []
        for prompt_folder in sorted(numbered, key=lambda path: (int(path.name), path.name)):
            found += _pictures(prompt_folder)
        if not found:
            raise UsageError(f"no images in {str(folder)!r}: GenEval's scorer looks for 00000/samples/0000.png")
        if prompts is not None:
            there = {picture.task.key for picture in found}
            absent = [task.prompt for task in read_tasks(prompts, free=True) if task.key not in there]
            if absent:
                raise UsageError(
                    f"{len(absent)} prompts of {prompts.name} have no image in {str(folder)!r}, the first is "
                    f"{absent[0]!r}: draw them, or leave --prompts out"
                )
        return found

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return 00012/samples/0000.png: the prompt's number, then the image's."""
        return f"{place:05d}/samples/{image:04d}.png"

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return each prompt's line of evaluation_metadata.jsonl."""
        tasks = {place: task for task, place in pictures.values()}
        return {f"{place:05d}/metadata.jsonl": json.dumps(write_metadata(task)) + "\n" for place, task in tasks.items()}

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write results.jsonl, one line per scored image; return the summary as summary_scores.py prints it.

        Args:
            out: An existing folder.
            folder: The folder given to `find`; each line's filename begins with it.
            scored: In the order of `find`.
            reward: Unused: GenEval's rows have no place for it.
        """
        rows = [_row(folder, picture, score) for picture, score in scored if isinstance(score, Score)]
        lines = [json.dumps(row, separators=(",", ":")) + "\n" for row in rows]
        write_text(out / RESULTS, "".join(lines))
        return summarise(rows)


def write_metadata(task: Task) -> dict[str, object]:
    """Return a task as a line of evaluation_metadata.jsonl, the reverse of `milr.tasks.read_tasks`."""
    items = {
        name: [
            item.model_dump(
                mode="json", by_alias=True, exclude_none=True, include={"name", "count", "color", "position"}
            )
            for item in getattr(task, name)
        ]
        for name in ("include", "exclude")
    }
    explained = {} if task.explanation is None else {"explanation": task.explanation}
    return {
        "tag": task.tag,
        **{name: found for name, found in items.items() if found},
        "prompt": task.prompt,
        **explained,
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the output of GenEval's summary_scores.py for result rows.

    It has the share of correct images per tag; the overall score is the plain mean over the tags.
    """
    if not rows:
        return "Summary\n=======\nTotal images: 0\n"
    prompts: dict[str, bool] = {}
    tags: dict[str, list[bool]] = {}
    for row in rows:
        correct = bool(row["correct"])
        prompts[row["metadata"]] = prompts.get(row["metadata"], False) or correct
        tags.setdefault(row["tag"], []).append(correct)
    lines = [
        *("Summary", "======="),
        f"Total images: {len(rows)}",
        f"Total prompts: {len(prompts)}",
        f"% correct images: {sum(bool(row['correct']) for row in rows) / len(rows):.2%}",
        f"% correct prompts: {sum(prompts.values()) / len(prompts):.2%}",
        *("", "Task breakdown", "=============="),
        *(f"{tag:<16} = {sum(right) / len(right):.2%} ({sum(right)} / {len(right)})" for tag, right in tags.items()),
        "",
        f"Overall score (avg. over tasks): {sum(sum(right) / len(right) for right in tags.values()) / len(tags):.5f}",
    ]
    return "\n".join(lines) + "\n"


def _pictures(prompt_folder: Path) -> list[FoundPicture]:
    source = prompt_folder / "metadata.jsonl"
    try:
        metadata: Any = json.loads(source.read_text(encoding="utf-8-sig"))
        task = Task.model_validate({name: metadata[name] for name in _FIELDS if name in metadata})
    except FileNotFoundError:
        raise UsageError(f"no {source}: each numbered folder needs its line of evaluation_metadata.jsonl") from None
    except (OSError, ValueError, TypeError) as error:
        reason = say_reason(error.errors()[0]) if isinstance(error, ValidationError) else error
        raise UsageError(f"{source} is not GenEval's metadata ({reason}): give one JSON object") from error
    if task.tag is None:
        raise UsageError(f"{source} has no tag, and GenEval's scores go by tag: give one of GenEval's six")
    try:
        check_task(task)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
    samples = prompt_folder / "samples"
    if not samples.is_dir():
        raise UsageError(f"no folder {samples}: GenEval's scorer looks for its images there")
    pictures = [path for path in samples.iterdir() if _PICTURE.match(path.name) and path.is_file()]
    return [
        FoundPicture(f"{prompt_folder.name}/samples/{path.name}", task, metadata)
        for path in sorted(pictures, key=lambda path: (int(path.name.split(".")[0]), path.name))
    ]


def _row(folder: Path, picture: FoundPicture, score: Score) -> dict[str, object]:
    correct = score.value == 1.0
    kept = kept_objects(to_detections(score.regions), picture.task)
    boxes = {name: [list(one[:5]) for one in kept[name]] for name in OBJECT_NAMES if name in kept}
    return {
        "filename": str(folder / picture.key),
        "tag": picture.task.tag,
        "prompt": picture.task.prompt,
        "correct": correct,
        "reason": "" if correct else score.explanation.replace("; ", "\n"),
        "metadata": json.dumps(picture.metadata),
        "details": json.dumps(boxes),
    }
