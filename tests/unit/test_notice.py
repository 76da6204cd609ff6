"""NOTICE names every prompt that the package sends, and the package contains none that may not be distributed."""

from __future__ import annotations

import re

from milr.models.prompts import PROFILES
from milr.rewards import REWARDS
from milr.rewards.vlm.checklist import COREBENCH, GENEVAL2
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.serve.judge import ANSWERS
from tests.support.paths import ROOT


def test_every_prompt_is_listed_with_its_source() -> None:
    section = (ROOT / "NOTICE").read_text(encoding="utf-8").partition("\nPrompts\n=======\n")[2].partition("\n\n\n")[0]
    heads = re.findall(r"^(\S[^\n]*)\n    ", section, re.MULTILINE)
    named = {word.rstrip(":") for head in heads for word in re.findall(r"[\w:-]+", head)}
    asking = {"geneval", "t2i-compbench", "git-vqa", "grounding-dino", "self"}
    assert asking < set(REWARDS)
    by_item = {"checklist", "checklist-self", "geneval2", "t2i-corebench"}
    assert set(PROFILES) | set(ANSWERS) | asking | by_item <= named


def test_official_checklist_prompts_are_not_in_the_package() -> None:
    for protocol in (GENEVAL2, COREBENCH):
        assert (protocol.system, protocol.user) == (None, "")
        assert protocol.official is not None and protocol.official[0] == protocol.name


def test_wises_judge_prompts_are_not_in_the_package() -> None:
    for protocol in (LEGACY, VERIFIED):
        assert (protocol.system, protocol.user) == (None, "") and protocol.words_of == protocol.name
