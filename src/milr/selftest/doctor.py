"""`milr doctor`: checks of a scorer's files and scores, and of the embedded models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from milr.registry import Entry, find, load
from milr.weights import Finding

DOCTORS: Mapping[str, Entry] = {
    "embedded": Entry("milr.selftest.embedded:examine_embedded", "the embedded model, against its card"),
    "embedded-small": Entry("milr.selftest.embedded:examine_small", "its sibling, against its card"),
    "geneval": Entry("milr.selftest.geneval:examine_geneval", "GenEval's detector and colours"),
    "geneval-hf": Entry("milr.selftest.geneval:examine_geneval_hub", "the approximation of GenEval"),
    "t2i-compbench": Entry("milr.selftest.compbench:examine", "T2I-CompBench's scorers"),
    "mixed": Entry("milr.selftest.mixed:examine", "the parts of the paper's MixedReward"),
    "icons": Entry("milr.selftest.icons:examine_icons", "both icon detectors, on golden images"),
    "self": Entry("milr.selftest.self_reward:examine_self", "the embedded model's answers about golden images"),
    "gpt-4o": Entry("milr.selftest.vlm:examine_hosted", "VLM judges at OpenAI: packages, key, parser"),
    "wise-legacy": Entry("milr.selftest.vlm:examine_wise_legacy", "the same, and the words of its judge"),
    "wise": Entry("milr.selftest.vlm:examine_wise", "a VLM judge on a server: packages, key, parser, words"),
    "checklist": Entry("milr.selftest.vlm:examine_checklist", "a VLM judge that answers questions, and its reader"),
    "geneval2": Entry("milr.selftest.vlm:examine_geneval2", "the same, and the words of GenEval 2's questions"),
    "t2i-corebench": Entry("milr.selftest.vlm:examine_corebench", "the same for T2I-CoReBench"),
    "unified-reward": Entry("milr.selftest.vlm:examine_served", "the same without words"),
}
"""Name -> a function of the device that yields findings."""


def examine(name: str, device: str = "cpu") -> Iterator[Finding]:
    """Examine a scorer: its files, their origin, its self-test.

    Args:
        name: One of `DOCTORS`.
        device: Device of the self-test, in torch's notation.

    Raises:
        UsageError: There is no such scorer or device.
    """
    diagnose: Callable[[str], Iterator[Finding]] = load(find("scorer", name, DOCTORS))
    return diagnose(device)
