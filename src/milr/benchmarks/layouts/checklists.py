"""Folders and result files of GenEval 2 and T2I-CoReBench.

Sources: `evaluation.py` and `soft_tifa_analysis.py` of facebookresearch/GenEval2, commit a6e82d2; `evaluate.py` of
KwaiVGI/T2I-CoReBench, commit 5d523d3. Neither folder holds the questions: they come from the benchmark's own files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from milr.benchmarks.checklists import COREBENCH_COLUMNS, GENEVAL2_COLUMNS, SKILLS, make_task
from milr.benchmarks.layouts.base import FoundPicture, OneEdition, Scored
from milr.errors import UsageError
from milr.files import write_text
from milr.sources import SOURCES
from milr.tasks.prompt_files import read_rows
from milr.types import Score, Task
from milr.untrusted import UntrustedError, one_line, resolve_inside

PATHS = "image_paths.json"
"""GenEval 2's file: an object of prompts and the paths of their images."""
SCORE_LISTS = "score_lists.json"
"""The official scorer's result: a list of values per prompt of the data, in their order."""
_IDENTIFIER = "id"


class GenEval2Layout(OneEdition):
    """image_paths.json, which maps prompts to image files in the folder, such as images/00000.png."""

    reward = "geneval2"
    prompts = 800
    right_or_wrong = False

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find the image of each prompt, in the order of the benchmark's data.

        Args:
            folder: Holds image_paths.json; its paths begin in the folder.
            prompts: geneval2_data.jsonl, or a part of it, each prompt of which must have an image; None takes the file
                that `milr data get` fetched, and the images that there are.

        Raises:
            UsageError: There are no images, no such file, a path leads out of the folder, or a prompt has no image.
        """
        paths = _read_paths(folder)
        data = prompts or SOURCES["geneval2"].find(None) / SOURCES["geneval2"].files[0].name
        rows = {str(row["prompt"]): row for row in _read_rows(data, ("prompt", "atom_count", "vqa_list"))}
        unknown, absent = _first(paths, rows), _first(rows, paths)
        if unknown is not None:
            raise UsageError(f"{data} has no prompt {one_line(unknown, 80)!r}, which {folder / PATHS} names")
        if prompts is not None and absent is not None:
            raise UsageError(
                f"{folder / PATHS} names no image of {one_line(absent, 80)!r}: GenEval 2's scorer ends there; draw it"
            )
        known = {"rows": len(rows)}
        return [
            FoundPicture(paths[prompt], make_task(row, "prompt", f"{row['atom_count']} atoms"), known)
            for prompt, row in rows.items()
            if prompt in paths
        ]

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return images/00012.png: the prompt's number in the benchmark's data."""
        if images != 1:
            raise UsageError(f"GenEval 2's scorer takes one image per prompt, and these are {images}: give such a run")
        return f"images/{place:05d}.png"

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return image_paths.json, with paths from the folder: the official scorer is to be started in it."""
        return {PATHS: json.dumps({task.prompt: path for path, (task, _) in pictures.items()}, indent=1) + "\n"}

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write score_lists.json if every prompt of the data has all its values; return the official numbers.

        Args:
            out: An existing folder.
            folder: Unused: the official file does not name it.
            scored: In the order of `find`.
            reward: Unused: neither has it.
        """
        rated = [(picture.task, score) for picture, score in scored if isinstance(score, Score)]
        lists = {task.prompt: values for task, score in rated if (values := _values(task, score)) is not None}
        (out / SCORE_LISTS).unlink(missing_ok=True)
        if scored and len(lists) == scored[0][0].metadata["rows"]:  # else the official analysis would pair wrong lines
            write_text(out / SCORE_LISTS, json.dumps(list(lists.values())))
        prompts = [(task.tag, score.value) for task, score in rated]
        items = [
            (item.tags[0], value)
            for task, _ in rated
            for item, value in zip(task.checklist, lists.get(task.prompt, ()), strict=False)
            if item.tags
        ]
        total = _percent([value for _, value in prompts])
        lines = ["GenEval 2", "=========", *_by(prompts, GENEVAL2_COLUMNS), f"{'Score':<16} = {total}"]
        lines += ["by question (arithmetic means):", *_by(items, SKILLS)] if items else []
        return "\n".join(lines) + "\n"


class CoReBenchLayout(OneEdition):
    """C-MI/C-MI-001-0.png: a folder per dimension, names that begin with an entry's key and a hyphen."""

    reward = "t2i-corebench"
    prompts = 1080
    right_or_wrong = False

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find the images of every dimension that is there, by name; other folders are skipped.

        Args:
            folder: Holds the dimensions' folders.
            prompts: Folder of the benchmark's data files; None takes those that `milr data get` fetched.

        Raises:
            UsageError: There are no images, no such files, or an image belongs to no entry.
        """
        nothing = UsageError(f"no images in {str(folder)!r}: T2I-CoReBench's scorer looks for C-MI/C-MI-001-0.png")
        there = [tag for tag in COREBENCH_COLUMNS if (folder / tag).is_dir()]
        if not there:
            raise nothing
        data = prompts or SOURCES["t2i-corebench"].find(None)
        found: list[FoundPicture] = []
        for tag in there:
            rows = {
                str(row[_IDENTIFIER]): row
                for row in _read_rows(data / f"{tag}.json", (_IDENTIFIER, "Prompt", "Checklist"))
            }
            for path in sorted(one for one in (folder / tag).iterdir() if one.suffix.lower() == ".png"):
                key = "-".join(path.name.split("-")[:3])  # the official rule, so that C-MI-001.png has none
                if key not in rows:
                    raise UsageError(f"{path} belongs to no entry of {tag}.json: name it {tag}-001-0.png, and so on")
                task = make_task(rows[key], "Prompt", tag)
                found.append(FoundPicture(f"{tag}/{path.name}", task, {"row": rows[key]}))
        if not found:
            raise nothing
        return found

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return C-MI/C-MI-001-0.png: dimension, entry from 1, image."""
        return f"{task.tag}/{task.tag}-{place % 90 + 1:03d}-{image}.png"

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return nothing: an image's name contains its entry's key."""
        return {}

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write C-MI.json and so on, as the official scorer does; return the dimensions' means.

        Args:
            out: An existing folder.
            folder: Unused: rows name images by their key.
            scored: In the order of `find`.
            reward: Unused: the official rows have no place for it.
        """
        dimensions: dict[str, dict[str, object]] = {}
        means: list[tuple[str | None, float]] = []
        for picture, score in scored:
            if not isinstance(score, Score):
                continue
            means.append((picture.task.tag, score.value))
            values = _values(picture.task, score)
            if values is None:
                continue
            row = cast("Mapping[str, Any]", picture.metadata["row"])
            asked = [
                {**item, "score": int(value) if value in (0, 1) else value}
                for item, value in zip(row["Checklist"], values, strict=True)
            ]
            kept = {name: value for name, value in row.items() if name != _IDENTIFIER}
            key = Path(picture.key).stem
            dimensions.setdefault(str(picture.task.tag), {})[key] = {
                **kept,
                "Checklist": asked,
                "image_score": score.value,
            }
        for tag, entries in dimensions.items():
            each = [value for one, value in means if one == tag]
            write_text(
                out / f"{tag}.json",
                json.dumps({**entries, "mean_score": math.fsum(each) / len(each)}, ensure_ascii=False, indent=2),
            )
        lines = ["T2I-CoReBench", "=============", *_by(means, COREBENCH_COLUMNS)]
        groups = [[value for one, value in means if one == tag] for tag in COREBENCH_COLUMNS]
        total = _percent([math.fsum(group) / len(group) for group in groups if group])
        return "\n".join([*lines, f"{'Overall':<16} = {total}"]) + "\n"


def _read_paths(folder: Path) -> dict[str, str]:
    """Return prompt -> path of its image, from the folder."""
    file = folder / PATHS
    if not file.is_file():
        raise UsageError(
            f"no {file}: GenEval 2's scorer reads there which image each prompt has; milr export writes it"
        )
    try:
        read: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} cannot be read ({one_line(str(error), 80)}): write prompts and paths in JSON"
        ) from error
    paths = cast("dict[str, object]", read) if isinstance(read, dict) else {}
    if not paths:
        raise UsageError(f"{file} names no images: write an object of prompts and paths in JSON")
    found: dict[str, str] = {}
    for prompt, path in paths.items():
        try:
            found[prompt] = resolve_inside(folder, str(path)).relative_to(folder.resolve()).as_posix()
        except UntrustedError as error:
            raise UsageError(f"{file}: {error}; give paths from that folder") from None
    return found


def _read_rows(file: Path, needs: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows of a benchmark's file; an object of entries gives each its key as `_IDENTIFIER`."""
    try:
        if _IDENTIFIER in needs:
            read: object = json.loads(file.read_text(encoding="utf-8"))
            entries = cast("dict[str, dict[str, object]]", read) if isinstance(read, dict) else {}
            rows: list[Mapping[str, Any]] = [{**entry, _IDENTIFIER: key} for key, entry in entries.items()]
        else:
            rows = [cast("Mapping[str, Any]", row.content) for row in read_rows(file)]
        lacking = next((need for row in rows for need in needs if isinstance(row, str) or need not in row), None)
    except (OSError, ValueError, TypeError, RecursionError, UsageError) as error:
        raise UsageError(
            f"{file} cannot be read ({one_line(str(error), 80)}): give --prompts its official data"
        ) from error
    if lacking is not None or not rows:
        raise UsageError(f"{file} is none of the benchmark's data files: it has no {lacking or 'rows'}; give --prompts")
    return rows


def _first(ones: Iterable[str], others: Mapping[str, object]) -> str | None:
    """Return the first of some prompts that others lack."""
    return next((one for one in ones if one not in others), None)


def _values(task: Task, score: Score) -> list[float] | None:
    """Return the value of each question of a task; None if the score has not all of them."""
    found = [score.parts.get(item.question) for item in task.checklist]
    return None if None in found else cast("list[float]", found)


def _by(values: Sequence[tuple[str | None, float]], groups: Mapping[str, int]) -> list[str]:
    """Return a line per group that has values: their mean and number."""
    lines: list[str] = []
    for group in groups:
        own = [value for one, value in values if one == group]
        if own:
            lines.append(f"{group:<16} = {_percent(own)} ({len(own)})")
    return lines


def _percent(values: Sequence[float]) -> str:
    """Return a mean times 100, as the official scorers print it."""
    return f"{100 * math.fsum(values) / len(values):.2f}" if values else "none"
