"""UniDet's label space, and UniDet's results from elsewhere.

UniDet itself cannot run on transformers. A user who runs it brings its results: either each image's detections, or the
official script's own result files.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from milr.errors import UsageError
from milr.rewards.compbench.spatial import Seen

LABEL_FILE = "learned_mAP+M.csv"
FETCH_LABELS = (
    "curl --location --fail --create-dirs --output '{path}' "
    "'https://raw.githubusercontent.com/xingyizhou/UniDet/94cd0e8/datasets/label_spaces/learned_mAP%2BM.csv'"
)
_COLUMNS = ("key", "oid_name", "objects365_name", "coco_name", "mapillary_name")
_CORRECTIONS: Mapping[str, str] = {
    "Image frame_image/frame_": "image, frame",
    "Street light_street lights_": "street light",
    "Whiteboard_blackboard/whiteboard_": "whiteboard, blackboard",
    "Bench2_bench_bench": "bench",
    "_trash bin/can_": "trash bin, can",
    "_towel/napkin_": "towel, napkin",
    "_barrel/bucket_": "barrel, bucket",
    "_pot/pan_": "pot, pan",
    "_shampoo/shower gel_": "shampoo, shower gel",
    "_router/modem_": "router, modem",
    "_tape measure/ruler_": "tape measure, ruler",
    "construction--flat--crosswalk-plain": "crosswalk",
    "object--traffic-sign--back": "traffic sign back",
}
"""Classes that T2I-CompBench's list of labels names differently from the rule: key -> label."""


def read_labels(path: Path) -> tuple[str, ...]:
    """Return UniDet's distinct class names, in the order of their first appearance.

    Two forms are read: the label space's CSV, and a JSON list of names. The CSV has one class per row. T2I-CompBench's
    name is the one in OpenImages and, if it differs, the one in Objects365, lower-case, joined by ", "; else the one in
    COCO; else the last part of the one in Mapillary; with a dozen exceptions.

    Raises:
        UsageError: There is no such file, or it contains no names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            f"no file {str(path)!r} with UniDet's label space; get it: {FETCH_LABELS.format(path=path)}"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error}): give UniDet's {LABEL_FILE}") from error
    names = _names_of_json(text, path) if path.suffix == ".json" else _names_of_csv(text, path)
    if not names:
        raise UsageError(f"{str(path)!r} names no class: give UniDet's {LABEL_FILE}")
    return tuple(dict.fromkeys(names))


def split_label(label: str) -> tuple[str, ...]:
    """Split a label into its names: "table, desk" is a table and a desk."""
    return tuple(name.strip() for name in label.split(",") if name.strip())


def _names_of_json(text: str, path: Path) -> list[str]:
    try:
        content: object = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is no JSON ({error}): give UniDet's {LABEL_FILE}") from error
    entries = cast("list[object]", content) if isinstance(content, list) else []
    if not entries or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{str(path)!r} is no list of names: give UniDet's {LABEL_FILE}")
    return [str(entry) for entry in entries]


def _names_of_csv(text: str, path: Path) -> list[str]:
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{str(path)!r} has no column {', '.join(missing)}: give UniDet's {LABEL_FILE}")
    return [name for row in reader if (name := _name_of(row))]


def _name_of(row: Mapping[str, str | None]) -> str:
    """Return T2I-CompBench's name of a class of the label space."""
    key, *names = ((row[column] or "").strip() for column in _COLUMNS)
    if key in _CORRECTIONS:
        return _CORRECTIONS[key]
    open_images, objects365, coco, mapillary = (name.lower() for name in names)
    joined = ", ".join(dict.fromkeys(filter(None, (open_images, objects365))))
    return joined or coco or mapillary.rpartition("--")[2].replace("-", " ")


def read_detections(path: Path) -> dict[str, tuple[Seen, ...]]:
    """Read UniDet's detections, by name of the image file.

    Args:
        path: JSON lines: {"image": file name, "detections": [[label, score, x0, y0, x1, y1], ...]}, boxes in pixels of
            UniDet's own frame (shorter side 479), as the official script has them.

    Raises:
        UsageError: The file cannot be read; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read UniDet's results in {str(path)!r}: {error}") from error
    results: dict[str, tuple[Seen, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = cast("dict[str, Any]", json.loads(line))
            results[str(row["image"])] = tuple(_seen(entry) for entry in row["detections"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{str(path)!r}, line {number}: {type(error).__name__} {error}; a line is "
                '{"image": "NAME.png", "detections": [["dog", 0.93, x0, y0, x1, y1]]}'
            ) from error
    return results


def _seen(entry: Sequence[Any]) -> Seen:
    name, score, *box = entry
    x0, y0, x1, y1 = (float(value) for value in box)
    if not isinstance(name, str) or not 0.0 <= float(score) <= 1.0 or not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"{entry!r} is no [label, score in 0 to 1, x0, y0, x1, y1]")
    return Seen(name, float(score), (x0, y0, x1, y1))


def read_answers(folder: Path) -> dict[str, float]:
    """Read the scores that the official spatial script wrote, by name of the image file.

    Args:
        folder: Folder of `vqa_result.json` and `mapping.json`: OUT/labels/annotation_obj_detection_2d.

    Raises:
        UsageError: A file is missing, or is not one that the script writes.
    """
    try:
        answers, mapping = (
            cast("list[dict[str, Any]]", json.loads((folder / name).read_text(encoding="utf-8")))
            for name in ("vqa_result.json", "mapping.json")
        )
        by_question = {int(row["question_id"]): float(row["answer"]) for row in answers}
        return {str(row["image"]): by_question[int(row["question_id"])] for row in mapping}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"cannot read UniDet's scores in {str(folder)!r} ({type(error).__name__}: {error}): give the folder with "
            "the vqa_result.json and mapping.json that T2I-CompBench's 2D_spatial_eval.py wrote"
        ) from error
