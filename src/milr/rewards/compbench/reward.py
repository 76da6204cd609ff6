"""The reward `t2i-compbench`: T2I-CompBench's own score of a picture, by its prompt's category.

Colour, shape and texture by BLIP-VQA, spatial by the rule over detections, non-spatial by CLIPScore, complex by 3-in-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from milr.errors import MilrError, UsageError
from milr.rewards.compbench.prompts import CATEGORIES, Analysis, Category, Kind, analyse, find_listing
from milr.rewards.compbench.three_in_one import Scorer, combine, scorers_of
from milr.rewards.images.tensors import read_rgb
from milr.types import Score, Task, Unscored
from milr.weights import Finding

if TYPE_CHECKING:
    from milr.rewards.compbench.blip_vqa import BlipVqa
    from milr.rewards.compbench.clip_score import ClipScore
    from milr.rewards.compbench.sources import SpatialSource

STOP_AT: Mapping[Category, float] = {
    "color": 0.9,
    "shape": 0.9,
    "texture": 0.9,
    "spatial": 0.9,
    "non_spatial": 0.35,
    "complex": 0.4,
}
"""The paper's stop values: R - 1 above -0.1, -0.65 and -0.6."""
_SCORERS: Mapping[Category, tuple[Scorer, ...]] = {
    "color": ("blip-vqa",),
    "shape": ("blip-vqa",),
    "texture": ("blip-vqa",),
    "spatial": ("spatial",),
    "non_spatial": ("clip",),
    "complex": scorers_of(None),
}
"""The scorers that a category may need; of a complex prompt, its list says which of them."""


_CHECKS: tuple[Scorer, ...] = ("blip-vqa", "clip", "spatial")


class Scorers:
    """BLIP, CLIP and a source of spatial scores, each loaded when it is first asked."""

    def __init__(self, unidet: Path | None = None, device: str = "cpu") -> None:
        """Look for the weights, and refuse to go on without them.

        Args:
            unidet: Results that UniDet gave elsewhere; None for OWLv2 in its place.
            device: As torch names it.

        Raises:
            UsageError: Weights are missing; the message has the commands that get them.
        """
        from milr.rewards.compbench import weights

        self._unidet = unidet
        self._device = device
        for part in (weights.BLIP, weights.CLIP, *(() if unidet else (weights.OWLV2, weights.LABELS))):
            part.find()
        self.blip_origin = weights.describe_blip(weights.BLIP.folder)
        """What the weights of BLIP-VQA are."""
        self.substitute = None if unidet else weights.SUBSTITUTE
        """What stands in UniDet's place; None for UniDet itself."""

    @cached_property
    def blip(self) -> BlipVqa:
        """BLIP-VQA."""
        from milr.rewards.compbench.blip_vqa import BlipVqa
        from milr.rewards.compbench.weights import BLIP

        return BlipVqa.from_folder(BLIP.find(), self._device)

    @cached_property
    def clip(self) -> ClipScore:
        """CLIPScore."""
        from milr.rewards.compbench.clip_score import ClipScore
        from milr.rewards.compbench.weights import CLIP

        return ClipScore.from_folder(CLIP.find(), self._device)

    @cached_property
    def spatial(self) -> SpatialSource:
        """UniDet's results, or OWLv2."""
        from milr.rewards.compbench import sources, weights
        from milr.rewards.compbench.owlv2 import Owlv2Detector
        from milr.rewards.compbench.unidet import LABEL_FILE, read_labels

        if self._unidet is not None:
            return sources.read_unidet(self._unidet)
        labels = read_labels(weights.LABELS.find() / LABEL_FILE)
        detector = Owlv2Detector.from_folder(weights.OWLV2.find(), labels, self._device)
        return sources.DetectorSource(detector)


@dataclass
class _Job:
    """A picture on its way to its score."""

    picture: Image.Image
    """RGB."""
    file: str
    prompt: str
    category: Category
    kind: Kind | None
    analysis: Analysis | None
    """Not needed for CLIPScore of a non-spatial prompt."""
    values: dict[Scorer, float] = field(default_factory=dict[Scorer, float])
    parts: dict[str, float] = field(default_factory=dict[str, float])
    said: list[str] = field(default_factory=list[str])
    fault: str = ""

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return scorers_of(self.kind) if self.category == "complex" else _SCORERS[self.category]


class T2ICompBench:
    """T2I-CompBench's score by category: the task's tag, or else the official list that its prompt stands in.

    A score's parts are each question's answer, each object's confidence, the geometry, and each scorer's value; its
    evidence says category, questions, who analysed the prompt, and every approximation. Its stop value is its
    category's, and a search goes by that; the reward's own is that of the attributes.
    """

    stop_at = 0.9

    def __init__(self, *, unidet: str | Path | None = None, device: str = "cpu", self_test: bool = True) -> None:
        """Load nothing yet, but see that all weights are there.

        Args:
            unidet: Results that UniDet gave elsewhere (`milr.rewards.compbench.sources.read_unidet`); None for OWLv2
                in its place.
            device: As torch names it.
            self_test: Let each scorer pass its self-test when it is first needed. Without it scores mean nothing until
                `milr doctor t2i-compbench` has passed.

        Raises:
            UsageError: Weights are missing; the message has the commands that get them.
        """
        self.scorers = Scorers(Path(unidet) if unidet else None, device)
        self._untested = set(_CHECKS) if self_test else set[Scorer]()
        blip, substitute = self.scorers.blip_origin, self.scorers.substitute
        self.name = "t2i-compbench@1"
        self.name += "" if blip.is_official else "+blip-hub-copy"
        self.name += f"+{substitute.name}-for-unidet" if substitute else "+unidet"
        self._blip_note = "" if blip.is_official else f"BLIP-VQA: {blip.title}"
        self._spatial_note = f"{substitute.title} in UniDet's place" if substitute else ""

    def column_titles(self) -> dict[Category, str]:
        """Each category's column title, which names what stands in for an official part."""
        titles: dict[Category, str] = {}
        for category in CATEGORIES:
            notes = self._notes(_SCORERS[category])
            titles[category] = f"{category} ({'; '.join(notes)})" if notes else category
        return titles

    def _notes(self, scorers: Sequence[Scorer]) -> list[str]:
        """What stands in for an official part of those scorers."""
        notes = {"blip-vqa": self._blip_note, "spatial": self._spatial_note}
        return [note for name in scorers if (note := notes.get(name, ""))]

    def __call__(self, pictures: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """One score a picture, in order."""
        jobs = [self._prepare(picture, task) for picture, task in zip(pictures, tasks, strict=True)]
        ready = [job for job in jobs if isinstance(job, _Job)]
        self._test({name for job in ready for name in job.scorers})
        self._ask_blip([job for job in ready if "blip-vqa" in job.scorers])
        for job in ready:
            self._finish(job)
        return [self._conclude(job) if isinstance(job, _Job) else job for job in jobs]

    def _test(self, needed: set[Scorer]) -> None:
        """Refuse to score with a scorer that fails on pictures whose answers are known."""
        from milr.rewards.compbench import known_answers as check

        for name in sorted(needed & self._untested):
            for finding in check.check_scorer(name, self.scorers):
                if finding.fine is False:
                    raise MilrError(
                        f"{self.name} fails its self-test, so nothing is scored: {finding.subject}: {finding.said}; "
                        "type: milr doctor t2i-compbench"
                    )
            self._untested.discard(name)

    def _prepare(self, picture: Image.Image, task: Task) -> _Job | Unscored:
        try:
            category, kind = self._place(task)
            rgb = read_rgb(picture)
            file = Path(str(getattr(picture, "filename", "") or "")).name
            analysis = None if category == "non_spatial" else analyse(task.prompt)
            return _Job(rgb, file, task.prompt, category, kind, analysis)
        except MilrError as error:
            return Unscored(reason=str(error), reward=self.name)
        except (OSError, ValueError) as error:
            return Unscored(reason=f"the picture cannot be read: {error}", reward=self.name)

    def _place(self, task: Task) -> tuple[Category, Kind | None]:
        listing = find_listing(task.prompt)
        kind = listing.kind if listing else None
        if task.tag in CATEGORIES:
            return task.tag, kind
        if listing is None:
            raise UsageError(
                f"{task.prompt!r} is none of T2I-CompBench's prompts: give the task a tag, {', '.join(CATEGORIES)}"
            )
        return listing.category, kind

    def _ask_blip(self, jobs: Sequence[_Job]) -> None:
        from milr.rewards.compbench.blip_vqa import make_questions, multiply

        questions = [make_questions(job.analysis) if job.analysis else () for job in jobs]
        answers = self.scorers.blip.answer([job.picture for job in jobs], questions)
        for job, asked, answered in zip(jobs, questions, answers, strict=True):
            if not asked:
                job.fault = f"{job.prompt!r} has no noun phrase to ask for"
                continue
            for question, value in zip(asked, answered, strict=True):
                job.parts[question] = min(value, job.parts.get(question, 1.0))
            job.values["blip-vqa"] = multiply(answered)
            worst = min(range(len(asked)), key=lambda i: answered[i])
            job.said.append(f"least sure: {asked[worst]} {answered[worst]:.2f}")

    def _finish(self, job: _Job) -> None:
        try:
            if "spatial" in job.scorers and job.analysis is not None:
                is_complex = job.category == "complex"
                verdict = self.scorers.spatial.judge(job.picture, job.file, job.analysis, is_complex=is_complex)
                job.values["spatial"] = verdict.value
                job.parts.update(verdict.parts)
                job.said.append(verdict.explanation)
            if "clip" in job.scorers:
                job.values["clip"] = self._compare(job)
                job.said.append(f"cosine {job.values['clip']:.3f}")
        except MilrError as error:
            job.fault = str(error)

    def _compare(self, job: _Job) -> float:
        from milr.rewards.compbench.clip_score import TextTooLong

        if job.analysis is not None and not job.analysis.words:
            raise UsageError(f"the words of {job.prompt!r} are not tagged ({job.analysis.source})")
        text = job.prompt if job.analysis is None else job.analysis.without_adjectives()
        try:
            return self.scorers.clip.compare([job.picture], [text])[0]
        except TextTooLong as error:
            raise UsageError(str(error)) from error

    def _conclude(self, job: _Job) -> Score | Unscored:
        if job.fault:
            return Unscored(reason=job.fault, reward=self.name)
        value = combine(job.kind, job.values) if job.category == "complex" else job.values[job.scorers[0]]
        notes = self._notes(job.scorers)
        if job.analysis is not None and not job.analysis.source.startswith("table"):
            notes.append(f"noun phrases by {job.analysis.source}")
        return Score(
            value=min(1.0, max(0.0, value)),
            reward=self.name,
            stop_at=STOP_AT[job.category],
            parts={**job.parts, **{str(name): value for name, value in job.values.items()}},
            explanation="; ".join(filter(None, job.said)),
            evidence={
                "category": job.category,
                "complex_list": job.kind,
                "scorers": {str(name): value for name, value in job.values.items()},
                "analysis": job.analysis.source if job.analysis else None,
                "approximations": notes,
            },
        )


def examine(device: str) -> Iterator[Finding]:
    """`milr doctor t2i-compbench`."""
    from milr.rewards.compbench import known_answers as check
    from milr.rewards.compbench import weights

    findings = [finding for part in weights.ALL for finding in part.examine()]
    yield from findings
    yield from check.check_rules()
    if any(finding.fine is False for finding in findings):
        yield Finding("self-test: weights", None, "not run before all files are right")
        return
    origin = weights.describe_blip(weights.BLIP.folder)
    note = "no hash of it is published to compare with" if origin.is_official else "an approximation, named in scores"
    yield Finding("blip-vqa: its source", None, f"{origin.title}; {note}")
    yield Finding(
        "UniDet", None, "cannot run here: OWLv2 stands in its place, named in scores, unless --unidet is given"
    )
    scorers = Scorers(device=device)
    for name in _CHECKS:
        yield from check.check_scorer(name, scorers)
