"""`milr doctor`: whether a scorer has all it needs here and gives the numbers that it should; so the embedded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from milr.registry import Entry, find, load
from milr.weights import Finding

DOCTORS: Mapping[str, Entry] = {
    "embedded": Entry("milr.selftest.embedded:examine_embedded", "the embedded model, against its card"),
    "embedded-small": Entry("milr.selftest.embedded:examine_small", "its sibling, against its card"),
    "geneval": Entry("milr.rewards.geneval.reward:examine_geneval", "GenEval's detector and colours"),
    "geneval-hf": Entry("milr.rewards.geneval.reward:examine_geneval_hub", "the approximation of GenEval"),
    "t2i-compbench": Entry("milr.rewards.compbench.reward:examine", "T2I-CompBench's scorers"),
    "mixed": Entry("milr.rewards.mixed.weights:examine", "the parts of the paper's MixedReward"),
    "icons": Entry("milr.selftest.rewards:examine_icons", "both icon detectors, on golden pictures"),
    "self": Entry("milr.selftest.rewards:examine_self", "the embedded model's looking, on golden pictures"),
    "gpt-4o": Entry("milr.selftest.rewards:examine_hosted", "judges at OpenAI: packages, key, reader"),
    "wise": Entry("milr.selftest.rewards:examine_hosted", "the same"),
    "wise-verified": Entry("milr.selftest.rewards:examine_served", "judges on a server: packages, key, reader"),
    "unified-reward": Entry("milr.selftest.rewards:examine_served", "the same"),
}
"""Name -> a function of the device that yields findings. What can be examined is one line here."""


def examine(name: str, device: str = "cpu") -> Iterator[Finding]:
    """Everything that can be said of a scorer: its files, where they came from, its self-test.

    Args:
        name: One of `DOCTORS`.
        device: Where the self-test runs, as torch names it.

    Raises:
        UsageError: No scorer has that name, or there is no such device.
    """
    diagnose: Callable[[str], Iterator[Finding]] = load(find("scorer", name, DOCTORS))
    return diagnose(device)
