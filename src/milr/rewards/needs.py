"""What a reward needs, as data: of the task, of the images, and of the machine. Known before anything is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from milr.errors import UsageError, unknown_name
from milr.models.devices import Placement
from milr.registry import Entry
from milr.rewards.spec import parse_mix, split_name
from milr.tasks import check_task
from milr.types import Task

if TYPE_CHECKING:
    from milr.models.base import Capabilities

Need = Literal["include list", "rules", "explanation", "category"]
Runs = Literal["device", "cpu", "model", "server", "parts"]
_LONGEST = 60  # characters of a prompt that an error quotes


@dataclass(frozen=True)
class RewardEntry(Entry):
    """One line of the table of rewards."""

    images: Literal["icons", "any"] = "any"
    """Which images it reads: those of models that draw icons, or any."""
    needs: tuple[Need, ...] = ()
    """What each task must have besides its prompt: "rules" are all that GenEval's rules ask of it, "category" one of
    T2I-CompBench's."""
    runs: Runs = "device"
    """Where it computes: on the run's device, on the CPU whatever the run's device is, in the model that draws, on a
    server, or where its parts do."""
    advised: bool = True
    """Whether errors name it as one that can be optimised instead of another."""


def split_parts(name: str, table: Mapping[str, RewardEntry]) -> list[tuple[str, RewardEntry]]:
    """Return a reward's names with their entries: the parts of a mix, else its own."""
    base, argument = split_name(name)
    if base == "mix":
        return [part for one in parse_mix(argument) for part in split_parts(one.name, table)]
    if base not in table:
        raise unknown_name("reward", base, table)
    return [(name, table[base])]


def name_object(reward: object, table: Mapping[str, RewardEntry]) -> list[str]:
    """Return the names of a loaded reward: of a mix, those of its parts; none for rewards that the table lacks."""
    target = f"{type(reward).__module__}:{type(reward).__qualname__}"
    if target == table["mix"].target:
        return [*getattr(reward, "parts")]  # noqa: B009 - the class is not imported for a look
    return [name for name, entry in table.items() if entry.target == target]


def find_fault(entry: RewardEntry, tasks: Sequence[Task], capabilities: Capabilities | None) -> str | None:
    """Return why a reward cannot score images of these tasks; None if it can.

    Args:
        entry: The reward's.
        tasks: All that must be scored.
        capabilities: Of the model that draws; None if nobody knows which model drew.
    """
    needs = entry.needs
    if capabilities is not None:
        if entry.images == "icons" and capabilities.image_language != "icons":
            return "reads icons only, and the model's images show scenes of any kind"
        if entry.runs == "model":
            if not capabilities.reads_images:
                return "asks the model about its images, and this model cannot read images"
            # Such a model has learned questions about single conditions only.
            needs = ("include list",) if capabilities.image_language == "icons" else needs
    return next((fault for task in tasks for need in needs if (fault := _find_lack(task, need))), None)


def find_place(name: str, entry: RewardEntry, placement: Placement) -> str:
    """Return where a reward computes: a device, or "server"."""
    if entry.runs == "server":
        # A VLM judge in a folder is run by this process.
        return placement.device if split_name(name)[0] == "unified-reward" and ":" in name else "server"
    return "cpu" if entry.runs == "cpu" else placement.device


def _find_lack(task: Task, need: Need) -> str | None:
    """Return what a task lacks of what a reward needs; None if it has it."""
    shown = task.shown if len(task.shown) <= _LONGEST else f"{task.shown[: _LONGEST - 3]}..."
    if need == "include list" and not task.include:
        return f"needs an include list, which the task {shown!r} lacks"
    if need == "rules":
        try:
            check_task(task)
        except UsageError as error:
            return f"needs what GenEval's rules can decide: {error}"
    if need == "explanation" and not task.explanation:
        return f"needs an explanation, which the task {shown!r} lacks"
    if need == "category":
        from milr.rewards.compbench.prompts import CATEGORIES, find_listing

        if task.tag not in CATEGORIES and find_listing(task.prompt) is None:
            return f"needs a category of T2I-CompBench as tag, which the task {shown!r} lacks"
    return None
