"""The reward `t2i-compbench`: T2I-CompBench's own score of an image, by its prompt's category.

Colour, shape and texture by BLIP-VQA, spatial by the rule over detections, non-spatial by CLIPScore, complex by 3-in-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from milr.errors import MilrError, UsageError
from milr.rewards.compbench.known_answers import check_scorer
from milr.rewards.compbench.prompts import CATEGORIES, Analysis, Category, Kind, analyse, find_listing
from milr.rewards.compbench.scorers import Scorers
from milr.rewards.compbench.three_in_one import Scorer, combine, scorers_of
from milr.rewards.images.tensors import read_rgb
from milr.types import Region, Score, Task, Unscored
from milr.weights import name_with

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
"""Scorers that a category may need; for a complex prompt, its list decides which."""


@dataclass
class _Job:
    """An image in progress."""

    image: Image.Image
    """The image, RGB."""
    file: str
    prompt: str
    category: Category
    kind: Kind | None
    analysis: Analysis | None
    """Analysis of the prompt, which CLIPScore of a non-spatial prompt does not need."""
    values: dict[Scorer, float] = field(default_factory=dict[Scorer, float])
    parts: dict[str, float] = field(default_factory=dict[str, float])
    said: list[str] = field(default_factory=list[str])
    regions: tuple[Region, ...] = ()
    fault: str = ""

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return scorers_of(self.kind) if self.category == "complex" else _SCORERS[self.category]


class T2ICompBench:
    """T2I-CompBench's score by category: the task's tag, or else the official list that contains its prompt.

    A score's parts are each question's answer, each object's confidence, the geometry, and each scorer's value; its
    evidence has the category, the questions, the tagger, and every approximation. Its regions are the two objects of a
    spatial or complex prompt, as far as they were found, without colours. Its stop value is its category's,
    which a search uses; the reward's own is that of the attributes.
    """

    stop_at = 0.9

    def __init__(self, *, unidet: str | Path | None = None, device: str = "cpu", self_test: bool = True) -> None:
        """Check that all weights are there; they are loaded later.

        Args:
            unidet: Results of UniDet from elsewhere (`milr.rewards.compbench.sources.read_unidet`); None uses OWLv2
                instead.
            device: In torch's notation.
            self_test: Let each scorer pass its self-test when it is first needed. If false, scores are not reliable
                until `milr doctor t2i-compbench` has passed.

        Raises:
            UsageError: Weights are missing; the message has the commands that get them.
        """
        self.scorers = Scorers(Path(unidet) if unidet else None, device)
        self._untested = set(scorers_of(None)) if self_test else set[Scorer]()
        blip, substitute = self.scorers.blip_origin, self.scorers.substitute
        self.name = "t2i-compbench@2"
        self.name += "" if blip.is_official else "+blip-hub-copy"
        self.name += f"+{substitute.name}-for-unidet" if substitute else "+unidet"
        self.name = name_with(self.name, *self.scorers.weights)
        self._blip_note = "" if blip.is_official else f"BLIP-VQA: {blip.title}"
        self._spatial_note = f"{substitute.title} in UniDet's place" if substitute else ""

    def column_titles(self) -> dict[Category, str]:
        """Return each category's column title, which names substitutes for official parts."""
        titles: dict[Category, str] = {}
        for category in CATEGORIES:
            notes = self._notes(_SCORERS[category])
            titles[category] = f"{category} ({'; '.join(notes)})" if notes else category
        return titles

    def _notes(self, scorers: Sequence[Scorer]) -> list[str]:
        """Return notes on substitutes for official parts of those scorers."""
        notes = {"blip-vqa": self._blip_note, "spatial": self._spatial_note}
        return [note for name in scorers if (note := notes.get(name, ""))]

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        jobs = [self._prepare(image, task) for image, task in zip(images, tasks, strict=True)]
        ready = [job for job in jobs if isinstance(job, _Job)]
        self._test({name for job in ready for name in job.scorers})
        self._ask_blip([job for job in ready if "blip-vqa" in job.scorers])
        for job in ready:
            self._finish(job)
        return [self._conclude(job) if isinstance(job, _Job) else job for job in jobs]

    def _test(self, needed: set[Scorer]) -> None:
        """Refuse to score with a scorer that fails on images with known answers."""
        for name in sorted(needed & self._untested):
            for finding in check_scorer(name, self.scorers):
                if finding.fine is False:
                    raise MilrError(
                        f"{self.name} fails its self-test, so nothing is scored: {finding.subject}: {finding.said}; "
                        "type: milr doctor t2i-compbench"
                    )
            self._untested.discard(name)

    def _prepare(self, image: Image.Image, task: Task) -> _Job | Unscored:
        try:
            category, kind = self._place(task)
            rgb = read_rgb(image)
            file = Path(str(getattr(image, "filename", "") or "")).name
            analysis = None if category == "non_spatial" else analyse(task.prompt)
            return _Job(rgb, file, task.prompt, category, kind, analysis)
        except MilrError as error:
            return Unscored(reason=str(error), reward=self.name)
        except (OSError, ValueError) as error:
            return Unscored(reason=f"the image cannot be read: {error}", reward=self.name)

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
        answers = self.scorers.blip.answer([job.image for job in jobs], questions)
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
                verdict = self.scorers.spatial.score(job.image, job.file, job.analysis, is_complex=is_complex)
                job.values["spatial"] = verdict.value
                job.parts.update(verdict.parts)
                job.said.append(verdict.explanation)
                job.regions = verdict.regions(job.image)
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
            return self.scorers.clip.compare([job.image], [text])[0]
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
            regions=job.regions,
        )
