"""T2I-CompBench's folders and result files.

Source: the evaluation scripts of Karine-Huang/T2I-CompBench, commit 1b70949. A folder holds one category's images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from milr.benchmarks.layouts.base import FoundPicture, OneEdition, Scored
from milr.errors import UsageError
from milr.files import write_text
from milr.rewards.compbench.prompts import Category, find_listing
from milr.rewards.images.files import list_visible
from milr.tasks import read_tasks
from milr.types import Score, Task

SAMPLES = "samples"


@dataclass(frozen=True)
class _Files:
    """The result files of one official script."""

    folder: str
    mean_file: str
    mean_text: str


_FILES: Mapping[str, _Files] = {
    "blip-vqa": _Files("annotation_blip", "blip_vqa_score.txt", "BLIP-VQA score:"),
    "spatial": _Files("labels/annotation_obj_detection_2d", "avg_score.txt", "score avg:"),
    "clip": _Files("annotation_clip", "score_avg.txt", "score avg:"),
    "3-in-1": _Files("annotation_3_in_1", "vqa_score.txt", "score avg:"),
}


class T2ICompBenchLayout(OneEdition):
    """samples/<prompt>_<six digits>.png, all of one category, which the prompts determine.

    As in the original, the prompt is the text before the first underscore and the number is the text after the last
    one; unlike there, any other file is an error that names it, unless it is hidden.
    """

    reward = "t2i-compbench"
    prompts = 300
    right_or_wrong = False

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find every image of the samples folder, by its number.

        Args:
            folder: Holds the folder "samples".
            prompts: The category's prompt file, one prompt per line, to check that none lacks an image; None skips the
                check.

        Raises:
            UsageError: There are no images, a name cannot be read, a prompt is not the benchmark's, there are prompts
                of several categories, or a prompt has no image.
        """
        samples = folder / SAMPLES
        if not samples.is_dir():
            raise UsageError(f"no folder {samples}: T2I-CompBench's scorers look for <prompt>_000000.png there")
        found = sorted(map(_picture, list_visible(samples)), key=_number)
        if not found:
            raise UsageError(f"no images in {samples}: T2I-CompBench's scorers look for <prompt>_000000.png there")
        twice = [b.key for a, b in zip(found, found[1:], strict=False) if _number(a) == _number(b)]
        if twice:
            raise UsageError(f"{samples / Path(twice[0]).name} has the number of another image: renumber them")
        categories = sorted({cast("str", picture.task.tag) for picture in found})
        if len(categories) > 1:
            raise UsageError(f"{samples} holds {' and '.join(categories)}: give each category a folder of its own")
        if prompts is not None:
            _check_complete(found, prompts, samples)
        return found

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return color/samples/<prompt>_000012.png: one folder per category, numbers through it, final dots kept."""
        number = place % self.prompts * images + image
        return f"{task.tag}/{SAMPLES}/{task.prompt}_{number:06d}.png"

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return nothing: an image's name contains its prompt, and the folder must hold nothing else."""
        return {}

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write each scorer's vqa_result.json and mean, as the official scripts do; return the summary.

        For complex prompts a scorer's file has only the images whose list needs it.

        Args:
            out: An existing folder.
            folder: Unused: the official files do not name it.
            scored: In the order of `find`.
            reward: Name of the reward. The summary gives its mean if it is not an official scorer, and names
                substitutes for official parts.
        """
        answers: dict[str, list[dict[str, object]]] = {}
        mapping: list[dict[str, object]] = []
        titles: list[str] = []
        for picture, score in scored:
            if not isinstance(score, Score):
                continue
            number, name = _number(picture), Path(picture.key).name
            values = _values(picture, score)
            for scorer, value in values.items():
                answer: object = f"{value:.4f}" if scorer == "blip-vqa" else value
                answers.setdefault(scorer, []).append({"question_id": number, "answer": answer})
            if "spatial" in values:
                mapping.append({"image": name, "question_id": number})
            notes = cast("Sequence[str]", score.evidence.get("approximations", ()))
            titles += [note for note in notes if note not in titles]
        for scorer, rows in answers.items():
            files = _FILES[scorer]
            (out / files.folder).mkdir(parents=True, exist_ok=True)
            write_text(out / files.folder / "vqa_result.json", json.dumps(rows))
            write_text(out / files.folder / files.mean_file, f"{files.mean_text}{_mean(rows)}")
        if "spatial" in answers:
            write_text(out / _FILES["spatial"].folder / "mapping.json", json.dumps(mapping))
        return _summarise(scored, answers, titles or ([] if answers else [reward]))


def _summarise(scored: Sequence[Scored], answers: Mapping[str, list[dict[str, Any]]], notes: Sequence[str]) -> str:
    category = str(scored[0][0].task.tag)
    title = f"{category} ({'; '.join(notes)})" if notes else category
    final = "3-in-1" if category == "complex" else next(iter(answers), "")
    # another reward has none of its answers, but one value per image
    rows = answers.get(final) or [{"answer": score.value} for _, score in scored if isinstance(score, Score)]
    prompts = len({picture.task.key for picture, score in scored if isinstance(score, Score)})
    lines = [
        f"{title} = {_mean(rows):.4f} ({len(rows)} pictures, {prompts} prompts)" if rows else f"{title}: nothing scored"
    ]
    lines += [f"  {name} = {_mean(part):.4f} ({len(part)} pictures)" for name, part in answers.items() if name != final]
    return "\n".join(lines) + "\n"


def _values(picture: FoundPicture, score: Score) -> dict[str, float]:
    """Return scorer -> value that its official script would write for an image, before rounding."""
    values = dict(cast("Mapping[str, float]", score.evidence.get("scorers", {})))
    if picture.task.tag == "complex":
        values["3-in-1"] = score.value
    return values


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(row["answer"]) for row in rows) / len(rows)


def _picture(path: Path) -> FoundPicture:
    prompt, _, rest = path.name.partition("_")
    number = rest.rpartition("_")[2].partition(".")[0]
    if path.suffix != ".png" or not number.isdecimal() or not prompt:
        raise UsageError(f"{path} is no <prompt>_<number>.png: T2I-CompBench's scorers fail on it; move it away")
    listing = find_listing(prompt)
    if listing is None:
        raise UsageError(
            f"{prompt!r}, the prompt of {path.name}, is none of T2I-CompBench's 1,800: name it as it is there"
        )
    category: Category = listing.category
    task = Task(prompt=prompt, tag=category)
    return FoundPicture(f"{SAMPLES}/{path.name}", task, {"question_id": int(number)})


def _number(picture: FoundPicture) -> int:
    return int(cast("int", picture.metadata["question_id"]))


def _check_complete(found: Sequence[FoundPicture], prompts: Path, samples: Path) -> None:
    wanted = [task.prompt for task in read_tasks(prompts, free=True)]
    there = {picture.task.prompt.rstrip(".") for picture in found}
    absent = [prompt for prompt in wanted if prompt.rstrip(".") not in there]
    if absent:
        raise UsageError(
            f"{len(absent)} prompts of {prompts.name} have no image in {samples}, the first is {absent[0]!r}: "
            "draw them, or leave --prompts out"
        )
