"""T2I-CompBench's spatial rule, detections to a score, as pure functions.

Source: `UniDet_eval/2D_spatial_eval.py` of Karine-Huang/T2I-CompBench, commit 1b70949. Boxes are (x0, y0, x1, y1) in
pixels of UniDet's frame (`official_frame`), y down: the rule's 150 pixels are pixels of that frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image

from milr.rewards.compbench.prompts import NOUN, PROPER_NOUN, Analysis
from milr.types import Region

Box: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1)."""

BESIDE = ("next to", "on side of", "near")
RIGHT, LEFT, BOTTOM, TOP = "on the right of", "on the left of", "on the bottom of", "on the top of"
RELATIONS = ("on side of", "next to", "near", LEFT, RIGHT, BOTTOM, TOP, "on top of")
"""Relations in the order in which they are looked for; a prompt's relation is the first one that it contains anywhere.
"""
_PLACES = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
"""Place words: a complex prompt's two objects are looked for before and after one of these."""
_PERSONS = ("girl", "boy", "man", "woman")
_NEAR = 150.0
_MOST_OVERLAP = 0.1
_LEAST_SCORE = 0.5
_SHORT_SIDE, _LONG_SIDE = 479, 480


@dataclass(frozen=True)
class Seen:
    """One detection."""

    name: str
    """UniDet's whole label: "table, desk" is one name."""
    score: float
    """Confidence in [0, 1]."""
    box: Box
    """Box in the official frame's pixels."""


@dataclass(frozen=True)
class SpatialVerdict:
    """The rule's decision on one image."""

    value: float
    """Score in [0, 1]; 0 or at least 0.5."""
    explanation: str
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    counted: tuple[Seen, ...] = ()
    """The detection of each object that was found, in the order of the prompt."""

    def regions(self, image: Image.Image) -> tuple[Region, ...]:
        """Return the counted detections with boxes in that image's own pixels."""
        wide, high = official_frame(*image.size)
        across, down = image.width / wide, image.height / high
        return tuple(
            Region(seen.name, (x0 * across, y0 * down, x1 * across, y1 * down), seen.score)
            for seen in self.counted
            for x0, y0, x1, y1 in [seen.box]
        )


def official_frame(width: int, height: int) -> tuple[int, int]:
    """Return the width and height, in pixels, at which UniDet sees an image: shorter side 479, longer at most 480."""
    scale = min(_SHORT_SIDE / min(width, height), _LONG_SIDE / max(width, height))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def find_relation(prompt: str) -> str | None:
    """Return the first of `RELATIONS` in the prompt, inside words too, as the official script does; else None."""
    return next((relation for relation in RELATIONS if relation in prompt), None)


def simple_objects(analysis: Analysis) -> tuple[str, str] | None:
    """Return the two objects of a spatial prompt: its first and its last noun; None if it has none."""
    nouns = [analysis.text(i, i + 1) for i, word in enumerate(analysis.words) if word.tag == NOUN]
    return (_as_label(nouns[0]), _as_label(nouns[-1])) if nouns else None


def complex_objects(analysis: Analysis) -> tuple[str, str] | None:
    """Return the two objects of a complex prompt.

    Take the nearest noun or proper noun before each place word, and after it the first noun, or else the first proper
    noun that no other proper noun follows. None unless the whole prompt yields exactly two.
    """
    found: list[str] = []
    for i in range(len(analysis.words)):
        length = next((n for n in (3, 2, 1) if analysis.text(i, i + n) in _PLACES), None)
        if length is not None:
            found += _before(analysis, i) + _after(analysis, i + length)
    return (_as_label(found[0]), _as_label(found[1])) if len(found) == 2 else None


def _before(analysis: Analysis, end: int) -> list[str]:
    for i in range(end - 1, -1, -1):
        if analysis.words[i].tag in (NOUN, PROPER_NOUN):
            return [analysis.text(i, i + 1)]
    return []


def _after(analysis: Analysis, start: int) -> list[str]:
    tags = [word.tag for word in analysis.words]
    for i in range(start, len(tags)):
        if tags[i] == NOUN:
            return [analysis.text(i, i + 1)]
    # the very last word is never taken as a proper noun: the official script looks at the word after it
    for i in range(start, len(tags) - 1):
        if tags[i] == PROPER_NOUN and tags[i + 1] != PROPER_NOUN:
            return [analysis.text(i, i + 1)]
    return []


def _as_label(word: str) -> str:
    return "person" if word in _PERSONS else word


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes; 0 if both are empty."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    shared = width * height
    union = _area(first) + _area(second) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def score_geometry(relation: str | None, first: Box, second: Box) -> float:
    """Score the placement of two boxes, in [0, 1]: the first object has the relation to the second.

    "On top of" without "the" and no relation at all score 0, as officially.
    """
    x = (second[0] + second[2]) / 2 - (first[0] + first[2]) / 2
    y = (second[1] + second[3]) / 2 - (first[1] + first[3]) / 2
    if relation in BESIDE:
        close = abs(x) < _NEAR or abs(y) < _NEAR
        return 1.0 if close else _NEAR / max(abs(x), abs(y))
    placed = {
        RIGHT: x < 0 and abs(x) > abs(y),
        LEFT: x > 0 and abs(x) > abs(y),
        BOTTOM: y < 0 and abs(y) > abs(x),
        TOP: y > 0 and abs(y) > abs(x),
    }
    if relation is None or not placed.get(relation, False):
        return 0.0
    shared = overlap(first, second)
    return 1.0 if shared < _MOST_OVERLAP else _MOST_OVERLAP / shared


def score_spatial(relation: str | None, objects: tuple[str, str] | None, detections: Sequence[Seen]) -> SpatialVerdict:
    """Return the score of one image.

    It is a quarter of each object's confidence plus half of the geometry; a sum below 0.5 becomes 0. An object is found
    if its word equals a detected name exactly.

    Args:
        relation: As `find_relation` gives it.
        objects: As `simple_objects` or `complex_objects` give them; None scores 0.
        detections: Detections in any order; the first one of a tie counts.
    """
    if objects is None:
        return SpatialVerdict(0.0, "the prompt yields no two objects")
    best: dict[str, Seen] = {}
    for seen in detections:
        if seen.name in objects and (seen.name not in best or seen.score > best[seen.name].score):
            best[seen.name] = seen
    first, second = (best.get(name) for name in objects)
    parts = {f"{name}: confidence": best[name].score if name in best else 0.0 for name in objects}
    raw = sum(0.25 * seen.score for seen in (first, second) if seen is not None)
    missing = [name for name in dict.fromkeys(objects) if name not in best]
    explanation = f"not found: {', '.join(missing)}" if missing else ""
    if first is not None and second is not None:
        geometry = score_geometry(relation, first.box, second.box)
        parts[relation or "no relation"] = geometry
        raw += geometry / 2
        explanation = f"{objects[0]} {relation or 'and'} {objects[1]}: {geometry:.2f}"
    counted = tuple(best[name] for name in dict.fromkeys(objects) if name in best)
    if raw < _LEAST_SCORE:
        return SpatialVerdict(0.0, f"{explanation}; {raw:.2f} is below 0.5", parts, counted)
    return SpatialVerdict(raw, explanation, parts, counted)
