"""Known answers that `t2i-compbench` must give before it scores: rules on known cases, weights on known images."""

from __future__ import annotations

from collections.abc import Iterator

from milr.rewards.compbench.prompts import Analysis, Word
from milr.rewards.compbench.scorers import Scorers
from milr.rewards.compbench.sources import DetectorSource
from milr.rewards.compbench.spatial import Seen, find_relation, score_spatial, simple_objects
from milr.rewards.compbench.three_in_one import Scorer, combine
from milr.rewards.geneval.known_answers import read_photographs
from milr.weights import Finding


def check_scorer(name: Scorer, scorers: Scorers) -> Iterator[Finding]:
    """Check a scorer's weights on two photographs: a woman is a person and no cat, a cat is a cat and no person."""
    for file, thing, image in read_photographs():
        other = {"person": "cat", "cat": "person"}[thing]
        if name == "blip-vqa":
            (answers,) = scorers.blip.answer([image], [(f"a {thing}?", f"a {other}?")])
            said = f"a {thing} {answers[0]:.2f}, a {other} {answers[1]:.2f}; the first above 0.5, the second below"
            yield Finding(f"self-test: BLIP-VQA on {file}", answers[0] > 0.5 > answers[1], said)
        elif name == "clip":
            near, far = scorers.clip.compare([image] * 2, [f"a photo of a {thing}", f"a photo of a {other}"])
            said = f"a {thing} {near:.3f}, a {other} {far:.3f}; the first must be larger"
            yield Finding(f"self-test: CLIPScore on {file}", near > far, said)
        elif isinstance(scorers.spatial, DetectorSource):
            seen = {one.name: one.score for one in scorers.spatial.detector.detect(image)}
            said = (
                f"a {thing} {seen.get(thing, 0.0):.2f}, a {other} {seen.get(other, 0.0):.2f}; the first must be larger"
            )
            yield Finding(f"self-test: detector on {file}", seen.get(thing, 0.0) > seen.get(other, 0.0), said)


def check_rules() -> Iterator[Finding]:
    """Check the rules that need no weights on a case worked out by hand."""
    prompt = "a cat on the left of a dog"
    tags = ("a.", "catN", "on.", "the.", "leftN", "of.", "a.", "dogN")
    words: list[Word] = []
    for tag in tags:
        start = words[-1].end + 1 if words else 0
        words.append(Word(start, start + len(tag) - 1, tag[-1]))
    objects = simple_objects(Analysis(prompt, tuple(words), (), "by hand"))
    seen = [Seen("cat", 0.8, (20, 100, 60, 140)), Seen("dog", 0.6, (200, 100, 260, 160))]
    value = score_spatial(find_relation(prompt), objects, seen).value
    yield Finding("self-test: spatial rule", abs(value - 0.85) < 1e-9, f"{value:.4f}, 0.8500 expected")
    mixed = combine("action", {"blip-vqa": 0.5, "clip": 0.3})
    yield Finding("self-test: 3-in-1", abs(mixed - 0.4) < 1e-9, f"{mixed:.4f}, 0.4000 expected")
