"""WISE's folder and result file, of both editions: one image per prompt, named by its id.

Source: PKU-YuanGroup/WISE, commit eb51174: WISE_legacy/Calculate.py (2025) and calculate_verified.py (2026).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from milr.benchmarks.layouts.base import FoundPicture, Scored
from milr.errors import UsageError
from milr.files import write_text
from milr.rewards.vlm.wise import LEGACY_WEIGHTS, VERIFIED_WEIGHTS, overall
from milr.sources import SOURCES
from milr.tasks.prompt_files import read_rows
from milr.types import Score, Task
from milr.weights import hash_file

RESULTS = "scores.jsonl"


@dataclass(frozen=True)
class Edition:
    """Prompts and protocol of one year: the ids of each group, and its weight."""

    title: str
    year: int
    reward: str
    """Its protocol; its benchmark and its files in `milr.sources.SOURCES` have the same name."""
    groups: Mapping[str, range]
    """Group -> its prompt ids; in the order of `_CATEGORIES`."""
    weights: Mapping[str, float]


LEGACY = Edition(
    "WiScore",
    2025,
    "wise-legacy",
    {
        "Cultural": range(1, 401),
        "Time": range(401, 568),
        "Space": range(568, 701),
        "Biology": range(701, 801),
        "Physics": range(801, 901),
        "Chemistry": range(901, 1001),
    },
    LEGACY_WEIGHTS,
)
VERIFIED = Edition(
    "WISE_Verified",
    2026,
    "wise",
    {
        "Culture": range(1, 401),
        "Time": range(401, 521),
        "Space": range(521, 641),
        "Biology": range(641, 761),
        "Physics": range(761, 881),
        "Chemistry": range(881, 1001),
    },
    VERIFIED_WEIGHTS,
)
_EDITIONS = {edition.reward: edition for edition in (VERIFIED, LEGACY)}
_CATEGORIES = ("Cultural knowledge", "time", "Space", "Biology", "Physical Knowledge", "Chemistry")
"""Names of the groups in the prompt files; the official scorers use ids, which distinguish the editions."""
_MARKS = {"consistency": "consistency", "realism": "realism", "aesthetic_quality": "aesthetic quality"}
"""Field of a row -> part of a score."""
_FIELDS = ("prompt_id", "Prompt", "Explanation", "Subcategory")
_CATEGORY, _EDITION = "Category", "edition"
"""Fields of a found image that no row has: the prompt's category, and the edition of its file, if it is known."""
_PICTURE = re.compile(r"0*[1-9][0-9]*\.png")


class WiseLayout:
    """1.png to 1000.png in one folder; 0001.png is accepted if 1.png is missing. The prompts are those of 2026."""

    edition = VERIFIED
    reward = VERIFIED.reward
    prompts = 1000
    right_or_wrong = False

    def find(self, folder: Path, prompts: Path | None) -> list[FoundPicture]:
        """Find every image that is named by a prompt's id, in the order of the ids.

        Args:
            folder: Folder of the images.
            prompts: One of WISE's JSON files, or the folder with all of them; rewritten prompts are skipped.

        Raises:
            UsageError: There are no images, no prompts are given, prompts cannot be read, or an image has no prompt.
        """
        if not folder.is_dir():
            raise UsageError(f"no folder {str(folder)!r}: give one with WISE's 1.png to 1000.png in it")
        if prompts is None:
            raise UsageError("WISE's folder does not hold its prompts: give --prompts the folder of its JSON files")
        known = _read_prompts(prompts)
        names = sorted((path.name for path in folder.iterdir() if _PICTURE.fullmatch(path.name)), key=len, reverse=True)
        numbers = {int(name.partition(".")[0]): name for name in names}  # the shortest name of a number is its last
        if not numbers:
            raise UsageError(f"no images in {str(folder)!r}: WISE's scorer looks for 1.png to 1000.png")
        unknown = [number for number in sorted(numbers) if number not in known]
        if unknown:
            raise UsageError(f"{prompts} has no prompt {unknown[0]} for {unknown[0]}.png: give all of WISE's files")
        return [_found(known[number], name) for number, name in sorted(numbers.items())]

    def check_reward(self, found: Sequence[FoundPicture], reward: str) -> None:
        """Refuse the protocol of one edition for prompts of the other, whose numbers would compare with nothing."""
        own = _EDITIONS.get(reward)
        if own is None:
            return
        edition = find_edition([picture.metadata for picture in found], own)
        if edition is not own:
            raise UsageError(
                f"the prompts are WISE's of {edition.year}, and {reward} is the protocol of {own.year}: the numbers "
                f"would compare with nothing; type --reward {edition.reward}"
            )

    def name_picture(self, task: Task, place: int, image: int, images: int) -> str:
        """Return 1.png to 1000.png: the prompt's id, which begins at 1."""
        if images != 1:
            raise UsageError(f"WISE's scorer takes one image per prompt, and these are {images}: give a run with one")
        return f"{place + 1}.png"

    def describe(self, pictures: Mapping[str, tuple[Task, int]]) -> Mapping[str, str]:
        """Return nothing: an image is named by its prompt's id."""
        return {}

    def write(self, out: Path, folder: Path, scored: Sequence[Scored], reward: str) -> str:
        """Write scores.jsonl, one row per scored image; return the groups' means and the overall score.

        The groups are those of the prompts' edition, or of the reward's if the prompts fit both.

        Args:
            out: An existing folder.
            folder: Unused: rows name images by their id.
            scored: In the order of `find`.
            reward: Name of the reward, with its version.
        """
        own = _EDITIONS.get(reward.partition("@")[0], self.edition)
        edition = find_edition([picture.metadata for picture, _ in scored], own)
        marked = [(picture.metadata, score) for picture, score in scored if isinstance(score, Score)]
        lines = [json.dumps(_row(metadata, score), ensure_ascii=False) + "\n" for metadata, score in marked]
        write_text(out / RESULTS, "".join(lines))
        return summarise({int(str(metadata["prompt_id"])): score.value for metadata, score in marked}, edition)


class WiseLegacyLayout(WiseLayout):
    """The same for the prompts of 2025."""

    edition = LEGACY
    reward = LEGACY.reward


def find_edition(prompts: Sequence[Mapping[str, object]], own: Edition) -> Edition:
    """Return the edition of the prompts' files, or else the one that their categories fit; `own` if both or none do.

    Args:
        prompts: Each with its prompt_id and, if known, its Category and the edition of its file.
        own: The reward's edition.
    """
    named = {str(one[_EDITION]) for one in prompts if one.get(_EDITION) is not None}
    if len(named) == 1:
        return _EDITIONS[named.pop()]
    told = [(int(str(one["prompt_id"])), one.get(_CATEGORY)) for one in prompts]
    fitting = [
        edition
        for edition in (LEGACY, VERIFIED)
        for groups in [dict(zip(_CATEGORIES, edition.groups.values(), strict=True))]
        if all(number in groups[category] for number, category in told if category in groups)
    ]
    return fitting[0] if len(fitting) == 1 else own


def summarise(values: Mapping[int, float], edition: Edition) -> str:
    """Return the score by group, and overall if all 1,000 are there: otherwise WISE's scorers give none.

    Args:
        values: Prompt id -> score in [0, 1].
        edition: Edition of the groups.
    """
    lines = [edition.title, "=" * len(edition.title)]
    means: dict[str, float] = {}
    missing = 0
    for group, numbers in edition.groups.items():
        there = [values[number] for number in numbers if number in values]
        missing += len(numbers) - len(there)
        if there:
            means[group] = sum(there) / len(there)
        said = f"{means[group]:.4f}" if there else "none"
        lines.append(f"{group:<16} = {said} ({len(there)} / {len(numbers)})")
    said = f"none, {missing} of 1000 are missing" if missing else f"{overall(means, edition.weights):.4f}"
    return "\n".join([*lines, "", f"Overall score: {said}"]) + "\n"


def _found(prompt: Mapping[str, Any], name: str) -> FoundPicture:
    task = Task(prompt=prompt["Prompt"], explanation=prompt["Explanation"])
    fields = ("Subcategory", _CATEGORY, _EDITION)
    metadata = {"prompt_id": int(prompt["prompt_id"]), **{field: prompt[field] for field in fields}}
    return FoundPicture(name, task, metadata)


def _read_prompts(path: Path) -> dict[int, Mapping[str, Any]]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    known: dict[int, Mapping[str, Any]] = {}
    for file in files:
        if file.stem.endswith("_rewrite"):
            continue
        try:
            rows, edition = read_rows(file), _name_edition(file)
            for row in rows:
                prompt = cast("Mapping[str, Any]", row.content)
                number, fields = int(prompt["prompt_id"]), {field: prompt[field] for field in _FIELDS}
                if number in known and known[number]["Prompt"] != fields["Prompt"]:
                    raise _Twice(number)
                known[number] = {**fields, _CATEGORY: prompt.get(_CATEGORY), _EDITION: edition}
        except _Twice as error:
            raise UsageError(
                f"{path} has two prompts {error}, so it holds both editions: give --prompts a folder with one of them"
            ) from error
        except (UsageError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file} is none of WISE's prompt files ({error}): give those of its data folder"
            ) from error
    return known


class _Twice(Exception):
    """A number with two prompts."""


def _name_edition(file: Path) -> str | None:
    """Return the edition of an official file, whatever its name; None for any other file."""
    digest = hash_file(file)
    named = (name for name in _EDITIONS if any(one.sha256 == digest for one in SOURCES[name].files))
    return next(named, None)


def _row(metadata: Mapping[str, object], score: Score) -> dict[str, object]:
    """Return the official fields: marks of 0, 1 or 2, or WISE_Verified's score; another reward's value stays alone."""
    known = {name: value for name, value in metadata.items() if name not in (_CATEGORY, _EDITION)}
    if score.reward.startswith(f"{VERIFIED.reward}@"):
        return {**known, "score": score.value}
    marks = {field: 2 * score.parts[part] for field, part in _MARKS.items() if part in score.parts}
    return {**known, **(marks or {"value": score.value})}
