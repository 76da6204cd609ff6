"""Rewards by name. A reward is imported, and its weights are read, when it is first used."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from milr.errors import UsageError
from milr.models.devices import Placement, own_numbers, telling_shortage
from milr.registry import construct, find, load
from milr.rewards.base import Reward, make_reward
from milr.rewards.needs import RewardEntry, find_fault, find_missing, find_place, name_object, split_parts
from milr.rewards.spec import check_name, split_name
from milr.types import Task

if TYPE_CHECKING:
    from milr.models.base import Capabilities
    from milr.rewards.vlm.client import VlmClient

__all__ = [
    "REWARDS",
    "Reward",
    "check_installed",
    "check_reward",
    "check_scorable",
    "default_reward",
    "load_reward",
    "locate_reward",
    "may_ask_vlm",
    "needs_model",
]

REWARDS: Mapping[str, RewardEntry] = {
    "icons": RewardEntry(
        "milr.rewards.icons.reward:Icons",
        "GenEval's rules on the icon detector's findings: 1 or 0",
        images="icons",
        needs=("include list", "rules"),
        runs="cpu",
    ),
    "icons-judge": RewardEntry(
        "milr.rewards.icons.reward:IconsEvaluator",
        "icons by another detector: to watch, not to optimise",
        images="icons",
        needs=("include list", "rules"),
        runs="cpu",
        advised=False,
    ),
    "icons-soft": RewardEntry(
        "milr.rewards.icons.reward:IconsSoft",
        "the same with a slope: the share of conditions met",
        images="icons",
        needs=("include list", "rules"),
        runs="cpu",
    ),
    "geneval": RewardEntry(
        "milr.rewards.geneval.reward:GenEval",
        "GenEval's own scorer, without mmdet: 1 or 0",
        needs=("rules",),
        extra="geneval",
    ),
    "geneval-hf": RewardEntry(
        "milr.rewards.geneval.reward:GenEvalHub",
        "an approximation of it: a detector from another training run",
        needs=("rules",),
        extra="geneval",
    ),
    "t2i-compbench": RewardEntry(
        "milr.rewards.compbench.reward:T2ICompBench",
        "T2I-CompBench's score by category; OWLv2 in UniDet's place",
        needs=("category",),
    ),
    "grounding-dino": RewardEntry(
        "milr.rewards.mixed.grounding_dino:GroundingDino",
        "MixedReward's part: objects, counts and places by GroundingDINO",
        needs=("include list", "rules"),
    ),
    "git-vqa": RewardEntry(
        "milr.rewards.mixed.git_vqa:GitVqa",
        "MixedReward's part: GIT's answers about each object",
        needs=("include list",),
    ),
    "self": RewardEntry(
        "milr.rewards.self_reward:SelfReward",
        "the verdict of the model that drew; self:p-yes asks for a probability",
        runs="model",
    ),
    "gpt-4o": RewardEntry(
        "milr.rewards.vlm.gpt4o:GPT4o",
        "right or wrong by any OpenAI-compatible server; gpt-4o:p-yes",
        runs="server",
        extra="vlm",
    ),
    "wise": RewardEntry(
        "milr.rewards.vlm.wise:Wise",
        "WISE's binary protocol of 2026, by a server; tasks need an explanation",
        needs=("explanation",),
        runs="server",
        extra="vlm",
    ),
    "wise-legacy": RewardEntry(
        "milr.rewards.vlm.wise:WiseLegacy",
        "WiScore by WISE's protocol of 2025; tasks need an explanation",
        needs=("explanation",),
        runs="server",
        extra="vlm",
    ),
    "unified-reward": RewardEntry(
        "milr.rewards.vlm.unified_reward:UnifiedReward",
        "UnifiedReward's score from 1 to 5, by a server or unified-reward:FOLDER",
        runs="server",
        extra="vlm",
    ),
    "checklist": RewardEntry(
        "milr.rewards.vlm.checklist:Checklist",
        "a VLM's answers to a task's questions, one by one; checklist:mean",
        needs=("checklist",),
        runs="server",
        extra="vlm",
    ),
    "checklist-self": RewardEntry(
        "milr.rewards.checklist:SelfChecklist",
        "the same by the model that drew; checklist-self:mean",
        needs=("checklist",),
        runs="model",
    ),
    "geneval2": RewardEntry(
        "milr.rewards.vlm.checklist:GenEval2",
        "GenEval 2's Soft-TIFA by a server; geneval2:words is TIFA",
        needs=("checklist",),
        runs="server",
        extra="vlm",
    ),
    "t2i-corebench": RewardEntry(
        "milr.rewards.vlm.checklist:CoReBench",
        "T2I-CoReBench's share of questions answered yes, by a server",
        needs=("checklist",),
        runs="server",
        extra="vlm",
    ),
    "mix": RewardEntry(
        "milr.rewards.mix:Mix",
        "a weighted mean: mix:icons-soft*0.7+self*0.3",
        runs="parts",
        advised=False,
    ),
    "http": RewardEntry(
        "milr.rewards.http:Remote",
        "a reward at a URL: http://localhost:8123/score",
        runs="server",
        advised=False,
        extra="vlm",
    ),
}
"""Name -> entry. A reward is one file and one line here."""


def default_reward(capabilities: Capabilities) -> str:
    """Return the reward that reads the model's images and needs no key and no more weights: `icons` or `self`."""
    return "icons" if capabilities.image_language == "icons" else "self"


def check_installed(*names: str | None) -> None:
    """Refuse rewards whose packages are not installed, before a model is loaded for them.

    Args:
        names: Names of rewards; None and rewards of other packages are skipped.

    Raises:
        UsageError: With the command that installs them.
    """
    for part, entry in (pair for name in names if name is not None for pair in split_parts(name, REWARDS)):
        package = find_missing(part, entry)
        if package is not None:
            raise UsageError(
                f"the reward {part!r} needs the package {package!r}, which is not installed: "
                f'type pip install "milr[{entry.extra}]"'
            )


def load_reward(
    name: str | None = None,
    *,
    model: object | None = None,
    vlm: VlmClient | None = None,
    placement: Placement | None = None,
    **options: object,
) -> Reward:
    """Return the reward of that name.

    Args:
        name: One of `REWARDS`, or of an installed package, or ``package.module:attribute``, ``./file.py:attribute``: a
            class, or any callable of images and tasks; with its argument after a colon where it takes one
            (`milr.rewards.spec`). None takes the model's default reward, and without a model `icons`, the default
            model's.
        model: The model that draws, for rewards that ask it.
        vlm: Client of VLM judges; all rewards that share it share one budget and one cache. None makes a default one.
        placement: Device and dtype of the run, for rewards with their own networks; None is the CPU.
        options: Settings of that reward; a device given here overrides `placement`.

    A reward's class is called with what its parameters name of these: argument, model, vlm, device, dtype, load (loads
    another reward by name), and the options.

    Raises:
        UsageError: There is no such reward, its argument cannot be read, it has no such option, or files that it needs
            are missing.
    """
    if name is None:
        capabilities: Capabilities | None = getattr(model, "capabilities", None)
        name = "icons" if capabilities is None else default_reward(capabilities)
    if not isinstance(cast("object", name), str):
        raise UsageError(f"{name!r} ({type(name).__name__}) is no reward's name: milr.search takes rewards as they are")
    base, argument = split_name(name, REWARDS)
    made = load(find("reward", base, REWARDS))
    # a class is called to make a reward; any other object is one
    wanted: Collection[str] = inspect.signature(made).parameters if isinstance(made, type) else ()
    if argument is not None and "argument" not in wanted:
        raise UsageError(f"the reward {base!r} takes no argument, and {name!r} gives it {argument!r}: type {base}")
    for option in options:
        if option not in wanted:
            raise UsageError(f"the reward {name!r} has no option {option!r}: leave it out")
    if "vlm" in wanted or "load" in wanted:
        from milr.rewards.vlm.client import VlmClient

        vlm = vlm or VlmClient()
    placement = placement or Placement()
    offered = {
        "argument": argument,
        "model": model,
        "vlm": vlm,
        "device": placement.device,
        "dtype": placement.dtype,
        "load": partial(load_reward, model=model, vlm=vlm, placement=placement),
    }
    if not isinstance(made, type):
        return make_reward(made)
    with own_numbers(), telling_shortage(f"the reward {name}"):
        return make_reward(construct(made, {**offered, **options}))


def check_reward(name: str) -> None:
    """Refuse a name that no reward has, also in the parts of a mix; import nothing.

    Raises:
        UsageError: Names the part.
    """
    check_name(name, REWARDS)


def check_scorable(
    reward: str | Reward, tasks: Sequence[Task], capabilities: Capabilities | None = None, flag: str = "--reward"
) -> None:
    """Refuse a reward that cannot score the planned images.

    Args:
        reward: A name, or a loaded reward; one from outside declares its needs by attributes.
        tasks: All tasks that must be scored.
        capabilities: Capabilities of the model that draws; None if the model is unknown.
        flag: The option that names another reward, for the error.

    Raises:
        UsageError: Gives the reason and names the rewards that can.
    """
    for part, entry in split_parts(reward, REWARDS) if isinstance(reward, str) else name_object(reward, REWARDS):
        fault = find_fault(entry, tasks, capabilities)
        if fault is not None:
            able = [
                other for other, its in REWARDS.items() if its.advised and find_fault(its, tasks, capabilities) is None
            ]
            raise UsageError(f"the reward {part!r} {fault}; give {flag} one of these: {', '.join(able)}")


def needs_model(name: str) -> bool:
    """Return true if a reward, or a part of it, asks the model that draws; import nothing."""
    return any(entry.runs == "model" for _, entry in split_parts(name, REWARDS))


def may_ask_vlm(name: str) -> bool:
    """Return true if a reward, or a part of it, asks a VLM judge, or is not of milr and may do so."""
    others = [entry for entry in REWARDS.values() if entry.runs != "server" or entry is REWARDS["http"]]
    return any(entry not in others for _, entry in split_parts(name, REWARDS))


def locate_reward(name: str, placement: Placement) -> str:
    """Return the place where a reward computes: a device or "server"; for a mix, each part's."""
    places = {part: find_place(part, entry, placement) for part, entry in split_parts(name, REWARDS)}
    if len(set(places.values())) == 1:
        return next(iter(places.values()))
    return ", ".join(f"{part}: {place}" for part, place in places.items())
