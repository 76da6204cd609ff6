"""GenEval's rules: detections to correct or incorrect, as pure functions.

Source: `evaluation/evaluate_images.py` of djghosh13/geneval, commit af4902f. The colour of a detection was classified
earlier; these functions only compare it. Boxes are (x0, y0, x1, y1) in pixels, y down.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from milr.tasks import RELATIONS, check_task
from milr.types import Region, Relation, Requirement, Task

Detection: TypeAlias = tuple[float, float, float, float, float, str | None]
"""(x0, y0, x1, y1, score, colour); the colour is None if it was not classified."""
Detections: TypeAlias = Mapping[str, Sequence[Detection]]
"""Class name -> all its detections, before any threshold, in any order."""

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_OBJECTS = 16
MAX_OVERLAP = 1.0
POSITION_THRESHOLD = 0.1

_COUNTING_TAGS = frozenset({"counting", "colored_counting"})
_UNMET = 0.99
"""Highest degree of a condition that is not met."""


def to_regions(detections: Detections) -> tuple[Region, ...]:
    """Convert detections to a score's regions, class by class."""
    return tuple(Region(name, (*one[:4],), one[4], one[5]) for name, found in detections.items() for one in found)


def to_detections(regions: Sequence[Region]) -> dict[str, list[Detection]]:
    """Convert a score's regions to detections."""
    found: dict[str, list[Detection]] = {}
    for one in regions:
        found.setdefault(one.name, []).append((*one.box, one.confidence, one.color))
    return found


@dataclass(frozen=True)
class Verdict:
    """GenEval's decision on one image."""

    correct: bool
    reason: str
    """All faults, on one line; empty if the image is correct."""


def apply_rules(
    detections: Detections,
    task: Task,
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_objects: int = MAX_OBJECTS,
    max_overlap: float = MAX_OVERLAP,
    position_threshold: float = POSITION_THRESHOLD,
) -> Verdict:
    """Decide whether one image is correct, from its detections.

    Detections of equal score are taken in the order of their boxes, so that the decision does not depend on the given
    order.

    Args:
        detections: All detections of the image.
        task: A task with include or exclude lists.
        threshold: Detections need a score above this.
        counting_threshold: The same for tasks that count. Their tag is "counting", or "colored_counting" in
            `icons-hard`; a task without a tag counts if it has an exclude list, as all counting tasks of GenEval do.
        max_objects: Detections kept of one class, the most confident ones.
        max_overlap: A detection is dropped if its IoU with a more confident one of its class is this or more; 1 keeps
            all.
        position_threshold: Share of both sizes that is subtracted from an offset before it is compared.

    Raises:
        UsageError: These rules cannot decide the task (`milr.tasks.check_task`).
    """
    check_task(task)
    kept = kept_objects(
        detections,
        task,
        threshold=threshold,
        counting_threshold=counting_threshold,
        max_objects=max_objects,
        max_overlap=max_overlap,
    )
    wrong: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for item in task.include:
        objects = kept.get(item.name, [])[: item.count]
        fault = _fault(item, objects, matched, task, position_threshold)
        matched.append(None if fault else objects)
        if fault:
            wrong.append(fault)
    for item in task.exclude:
        found = len(kept.get(item.name, []))
        if found >= item.count:
            wrong.append(f"expected {item.name}<{item.count}, found {found}")
    return Verdict(correct=not wrong, reason="; ".join(wrong))


def kept_objects(
    detections: Detections,
    task: Task,
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_objects: int = MAX_OBJECTS,
    max_overlap: float = MAX_OVERLAP,
) -> dict[str, list[Detection]]:
    """Return the detections that `apply_rules` counts as objects, by class, most confident first, none empty.

    The arguments are those of `apply_rules`. An item of the include list uses only the first ``count`` of its class, so
    only their colours must be known.
    """
    limit = counting_threshold if _counts(task) else threshold
    kept = {name: _keep(seen, limit, max_objects, max_overlap) for name, seen in detections.items()}
    return {name: objects for name, objects in kept.items() if objects}


def conditions_met(
    detections: Detections,
    task: Task,
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    max_objects: int = MAX_OBJECTS,
    max_overlap: float = MAX_OVERLAP,
    position_threshold: float = POSITION_THRESHOLD,
) -> dict[str, float]:
    """Return the degree to which an image meets each condition of its task.

    The arguments are those of `apply_rules`. 1 is met, and all are 1 exactly if `apply_rules` says correct.

    An item that asks for n objects has n places. The kept detections fill them with weight 1, then the best rejected
    ones with weight score / threshold, below 1; missing ones weigh 0. Of the include list come

    * "dog: present" or "dog: at least 2": the mean weight of the places;
    * "dog: red": the mean weight, with 0 for a place of another colour;
    * "dog: left of cat": the mean over all pairs of both weights times 0 on the opposite side, 0.5 on neither, rising
      to 1 at the limit of `apply_rules`'s position rule;

    and of the exclude list "dog: fewer than 3": the share of the dogs found that may stay.
    """
    check_task(task)
    limit = counting_threshold if _counts(task) else threshold
    kept = {name: _keep(seen, limit, max_objects, max_overlap) for name, seen in detections.items()}
    parts: list[tuple[str, float]] = []
    places: list[list[tuple[Detection, float]]] = []
    for item in task.include:
        rejected = [seen for seen in detections.get(item.name, ()) if seen[4] > 0 and not _is_above(seen[4], limit)]
        filled = [(seen, 1.0) for seen in kept.get(item.name, [])]
        filled += [(seen, min(seen[4] / limit, _UNMET)) for seen in _by_confidence(rejected)]
        places.append(filled[: item.count])
        present = f"at least {item.count}" if item.count > 1 else "present"
        parts.append((f"{item.name}: {present}", sum(weight for _, weight in places[-1]) / item.count))
        if item.color is not None:
            right = sum(weight for seen, weight in places[-1] if seen[5] == item.color)
            parts.append((f"{item.name}: {item.color}", right / item.count))
        if item.position is not None:
            relation, index = item.position
            reference = task.include[index]
            near = sum(
                weight * other_weight * _nearness(_toward(seen, other, relation, position_threshold))
                for seen, weight in places[-1]
                for other, other_weight in places[index]
            )
            parts.append((f"{item.name}: {relation} {reference.name}", near / (item.count * reference.count)))
    for item in task.exclude:
        found = len(kept.get(item.name, []))
        share = 1.0 if found < item.count else (item.count - 1) / found
        parts.append((f"{item.name}: fewer than {item.count}", share))
    conditions: dict[str, float] = {}
    for name, value in parts:
        # a hand-made task may ask for the same thing twice: the lower degree counts
        conditions[name] = min(value, conditions.get(name, 1.0))
    return conditions


def right_objects(detections: Detections, task: Task) -> list[Detection]:
    """Return the objects that meet the conditions of their item of the include list.

    These are the most confident ones of the item's class and colour, as many as it asks for. If the item has a position
    relative to another item, it must hold for all the correct objects of that item.

    Args:
        detections: As in `apply_rules`.
        task: A task with an include list.
    """
    kept = kept_objects(detections, task)
    right: list[list[Detection]] = []
    for item in task.include:
        objects = [seen for seen in kept.get(item.name, []) if item.color in (None, seen[5])][: item.count]
        if item.position is not None:
            relation, index = item.position
            placed = _relations(objects, right[index], POSITION_THRESHOLD)
            objects = objects if all(relation in held for held in placed) else []
        right.append(objects)
    return [one for objects in right for one in objects]


def _counts(task: Task) -> bool:
    return task.tag in _COUNTING_TAGS or (task.tag is None and bool(task.exclude))


def _by_confidence(seen: Sequence[Detection]) -> list[Detection]:
    """Sort by confidence, the most confident first; ties by their boxes."""
    return sorted(seen, key=lambda detection: (-detection[4], detection[:4], detection[5] or ""))


def _keep(seen: Sequence[Detection], limit: float, max_objects: int, max_overlap: float) -> list[Detection]:
    """Return the detections of one class that count as objects, most confident first."""
    confident = _by_confidence([detection for detection in seen if _is_above(detection[4], limit)])[:max_objects]
    if max_overlap >= 1:
        # identical boxes have an IoU of 1 and are still kept
        return confident
    kept: list[Detection] = []
    for detection in confident:
        if all(_iou(detection, other) < max_overlap for other in kept):
            kept.append(detection)
    return kept


def _is_above(score: float, limit: float) -> bool:
    """Return true if a score passes a threshold, both in single precision as in GenEval's code.

    A score that is the 32-bit number nearest to 0.3 is above 0.3 in double precision, and dropped there.
    """
    score, limit = struct.unpack("2f", struct.pack("2f", score, limit))
    return score > limit


def _iou(a: Detection, b: Detection) -> float:
    """Return the intersection over union of two boxes that include their last row and column of pixels."""
    shared = _area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = _area(*a[:4]) + _area(*b[:4]) - shared
    return shared / union if union else 0.0


def _area(x0: float, y0: float, x1: float, y1: float) -> float:
    return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)


def _fault(
    item: Requirement,
    objects: Sequence[Detection],
    matched: Sequence[Sequence[Detection] | None],
    task: Task,
    position_threshold: float,
) -> str | None:
    """Return the fault of the objects of one item of the include list; None if there is none."""
    if len(objects) < item.count:
        return f"expected {item.name}>={item.count}, found {len(objects)}"
    if item.color is not None:
        colors = [detection[5] for detection in objects]
        if colors.count(item.color) < item.count:
            found = ", ".join(color or "no colour" for color in colors)
            return f"expected {item.color} {item.name}>={item.count}, found {found}"
    if item.position is not None:
        relation, index = item.position
        reference = matched[index]
        if reference is None:
            return f"no {task.include[index].name} for {item.name} to be {relation}"
        for held in _relations(objects, reference, position_threshold):
            if relation not in held:
                found = " and ".join(held) or "no relation"
                return f"expected {item.name} {relation} {task.include[index].name}, found {found}"
    return None


def _relations(
    objects: Sequence[Detection], reference: Sequence[Detection], position_threshold: float
) -> Iterator[list[Relation]]:
    """Return the relations that hold, for every pair."""
    for a in objects:
        for b in reference:
            yield [relation for relation in RELATIONS if _toward(a, b, relation, position_threshold) > 0.5]


def _toward(a: Detection, b: Detection, relation: Relation, position_threshold: float) -> float:
    """Return the offset of a from b in the direction of the relation, in [-1, 1]; the relation holds above 0.5.

    It is the offset of the centres, reduced on each axis by a share of both sizes, divided by the length of the offset.
    """
    x = (a[0] + a[2]) / 2 - (b[0] + b[2]) / 2
    y = (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2
    shortened_x = max(abs(x) - position_threshold * (abs(a[2] - a[0]) + abs(b[2] - b[0])), 0.0)
    shortened_y = max(abs(y) - position_threshold * (abs(a[3] - a[1]) + abs(b[3] - b[1])), 0.0)
    if shortened_x < 1e-3 and shortened_y < 1e-3:
        return 0.0
    if relation in ("left of", "right of"):
        along = math.copysign(shortened_x, x) / math.hypot(x, y)
    else:
        along = math.copysign(shortened_y, y) / math.hypot(x, y)
    return -along if relation in ("left of", "above") else along


def _nearness(toward: float) -> float:
    """Return the degree to which a relation holds: 0 on the opposite side, 0.5 on neither, 1 if it holds."""
    if toward > 0.5:
        return 1.0
    return min(0.5 + (toward if toward > 0 else toward / 2), _UNMET)
