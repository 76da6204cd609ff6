"""Counts of the failures that the paper names: collapsed texts, collapsed images, reward hacking.

Each search is measured at its first image and at its last, because collapse comes with optimisation and the answer may
be earlier; hacking is measured at the answer. A collapse is flagged by the change since the first image, because plain
grounds and short plans from the start are not failures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milr.report.comparison import mark
from milr.report.entries import Entry, value_of
from milr.report.sections import Section
from milr.report.tables import Cell, Row, Table
from milr.runs import Run, RunImage, TaskRun

REPEATED = 0.5
"""A text is flagged if more than this share of its word pairs are repetitions, and were not at first."""
SHRUNK = 0.5
"""A text or an image is flagged if its length, entropy or variance is below this share of the first one's."""
GAP = 0.5
"""An answer is flagged if the reward is above the evaluator by more than this."""
KINDS = ("textual collapse", "visual collapse", "reward hacking")


@dataclass(frozen=True)
class TextMeasure:
    """Measures of one reasoning."""

    words: int
    repetition: float
    """Share of repeated word pairs in the text, in [0, 1]."""
    entropy: float
    """Entropy of its words, in bits."""


@dataclass(frozen=True)
class ImageMeasure:
    """Measures of one image."""

    entropy: float
    """Entropy of its image tokens, in bits."""
    repetition: float
    """Share of tokens that equal the one before, in raster order."""
    variance: float
    """Variance of its grey values, on the scale [0, 1]."""


@dataclass(frozen=True)
class Diagnosis:
    """One search's measures, and the failures that they show."""

    run: Run
    task: TaskRun
    text: tuple[TextMeasure, TextMeasure]
    """Measures of the first and the last text."""
    image: tuple[ImageMeasure, ImageMeasure]
    """Measures of the first and the last image."""
    gap: tuple[float, float]
    """Reward minus evaluator at the first image and at the answer; NaN if a score is missing."""
    failures: tuple[str, ...]
    """Names from `KINDS`."""
    severity: dict[str, float]
    """Kind -> severity, to choose what is shown; higher is worse."""


def measure_text(text: str) -> TextMeasure:
    """Return words, repetition and entropy of a reasoning; a text of fewer than two words has no repetition."""
    words = text.lower().split()
    pairs = list(zip(words, words[1:], strict=False))
    repetition = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    return TextMeasure(len(words), repetition, entropy(words))


Diagnosed = tuple[Entry, list[Diagnosis]]
"""An entry and the diagnoses of its searches."""


def entropy(items: Sequence[object]) -> float:
    """Return the entropy of the items' frequencies, in bits."""
    counts = np.array(list(Counter(items).values()), dtype=float)
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def measure_image(tokens: Sequence[int], grey: NDArray[np.uint8]) -> ImageMeasure:
    """Return entropy and repetition of image tokens, and the variance of the image's grey values.

    Args:
        tokens: In raster order; without tokens both are 0.
        grey: The image, (height, width) in [0, 255].
    """
    equal = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    repetition = equal / (len(tokens) - 1) if len(tokens) > 1 else 0.0
    return ImageMeasure(entropy(tokens), repetition, float((grey / 255.0).var()))


def diagnose(entry: Entry) -> list[Diagnosis]:
    """Diagnose every search of an entry."""
    return [_diagnose(run, task) for run in entry.runs for task in run.tasks]


def diagnose_all(section: Section) -> list[Diagnosed]:
    """Diagnose every search of every entry. It opens two images per search, so call it once."""
    return [(entry, diagnose(entry)) for entry in section.entries]


def _diagnose(run: Run, task: TaskRun) -> Diagnosis:
    text = measure_text(task.first.reasoning.text), measure_text(task.last.reasoning.text)
    image = _measure(task, task.images[0]), _measure(task, task.images[-1])
    first, answer = task.images[0], task.answer
    gap = tuple(
        value_of(one.reward) - (math.nan if one.evaluator is None else value_of(one.evaluator))
        for one in (first, answer)
    )
    before, after = text
    severity: dict[str, float] = {}
    if after != before and (
        (after.repetition > REPEATED >= before.repetition)
        or after.entropy < SHRUNK * before.entropy
        or after.words < SHRUNK * before.words
    ):
        severity[KINDS[0]] = max(after.repetition, 1 - _share(after.entropy, before.entropy))
    seen, drawn = image
    if drawn.entropy < SHRUNK * seen.entropy or drawn.variance < SHRUNK * seen.variance:
        shares = _share(drawn.entropy, seen.entropy), _share(drawn.variance, seen.variance)
        severity[KINDS[1]] = 1 - min(shares)
    if gap[1] > GAP:
        severity[KINDS[2]] = gap[1]
    return Diagnosis(run, task, text, image, (gap[0], gap[1]), tuple(severity), severity)


def _share(now: float, first: float) -> float:
    return now / first if first else 1.0


def _measure(task: TaskRun, shown: RunImage) -> ImageMeasure:
    """Measure an image; all values are NaN if the run has no images."""
    if not task.has_images:
        return ImageMeasure(math.nan, math.nan, math.nan)
    return measure_image(shown.image.tokens, np.asarray(task.load_image(shown.image).convert("L")))


def failures_table(section: Section, found: Sequence[Diagnosed]) -> Table:
    """Return each entry's measures from first to last, and how many searches were flagged for each failure."""
    columns = (
        "searches",
        *KINDS,
        "text repetition",
        "text entropy (bits)",
        "words",
        "token entropy (bits)",
        "token repetition",
        "variance",
        "reward - evaluator",
    )
    rows = [Row(mark(entry), tuple(_summarise(own))) for entry, own in found]
    return Table(
        f"Failures by kind: {section.name}",
        columns,
        tuple(rows),
        (
            "Means at the first image -> at the last one (reward - evaluator: at the answer).",
            f"Textual collapse: over {REPEATED:.0%} of the word pairs repeat and did not at first, or words or entropy "
            f"fall under {SHRUNK:.0%} of the first text's. Visual collapse: token entropy or variance falls under "
            f"{SHRUNK:.0%} of the first image's. Reward hacking: the reward of the answer is over {GAP:g} above "
            f"the evaluator's.",
            *(
                []
                if all(entry.evaluated for entry in section.entries)
                else ["Without an evaluator no hacking can be seen."]
            ),
            *(
                ["Packed runs and compact results have no images: nothing is known of theirs."]
                if any(not one.task.has_images for _, own in found for one in own)
                else []
            ),
        ),
        key="failures",
    )


def _summarise(found: Sequence[Diagnosis]) -> Iterator[Cell]:
    yield Cell(float(len(found)), digits=0)
    for kind in KINDS:
        unknown = (kind == KINDS[2] and all(math.isnan(one.gap[1]) for one in found)) or (
            kind == KINDS[1] and all(math.isnan(one.image[1].variance) for one in found)
        )
        yield Cell() if unknown else Cell(float(sum(kind in one.failures for one in found)), digits=0)
    text, image = [one.text for one in found], [one.image for one in found]
    yield _change([(a.repetition, b.repetition) for a, b in text], 2)
    yield _change([(a.entropy, b.entropy) for a, b in text], 2)
    yield _change([(float(a.words), float(b.words)) for a, b in text], 1)
    yield _change([(a.entropy, b.entropy) for a, b in image], 2)
    yield _change([(a.repetition, b.repetition) for a, b in image], 2)
    yield _change([(a.variance, b.variance) for a, b in image], 3)
    yield _change([one.gap for one in found], 2)


def _change(pairs: Sequence[tuple[float, float]], digits: int) -> Cell:
    """Return the means at both ends over the searches with values."""
    means = [np.mean([end for end in ends if not math.isnan(end)] or [math.nan]) for ends in zip(*pairs, strict=True)]
    if any(math.isnan(mean) for mean in means):
        return Cell()
    return Cell(" -> ".join(f"{round(mean, digits) + 0.0:.{digits}f}" for mean in means))


def worst(found: Sequence[Diagnosed], kind: str, many: int) -> list[tuple[Entry, Diagnosis]]:
    """Return the searches with the worst failures, the worst first."""
    failed = [(entry, one) for entry, own in found for one in own if kind in one.failures]
    return sorted(failed, key=lambda pair: -pair[1].severity[kind])[:many]
