"""Needs of a reward as data: task, images and machine. They are known before anything is imported."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

from milr.errors import UsageError
from milr.models.devices import Placement
from milr.registry import Entry, find, load
from milr.rewards.spec import list_parts, split_name
from milr.tasks import check_task
from milr.types import Task

if TYPE_CHECKING:
    from milr.models.base import Capabilities

Need = Literal["include list", "rules", "explanation", "category", "checklist"]
Runs = Literal["device", "cpu", "model", "server", "parts"]
_LONGEST = 60  # characters of a prompt in an error


@dataclass(frozen=True)
class RewardEntry(Entry):
    """One line of the table of rewards."""

    images: Literal["icons", "any"] = "any"
    """Images that it reads: those of models that draw icons, or any."""
    needs: tuple[Need, ...] = ()
    """Fields that each task must have besides its prompt: "rules" are those of GenEval's rules, "category" is one of
    T2I-CompBench's."""
    runs: Runs = "device"
    """Place where it computes: the run's device, the CPU in any case, the model that draws, a server, or where its
    parts do."""
    advised: bool = True
    """True if errors recommend it instead of another reward."""
    extra: str = ""
    """Extra of milr that brings the packages that it imports; empty if it imports none."""


PACKAGES: Mapping[str, Sequence[str]] = {"geneval": ("scipy",), "vlm": ("openai", "stamina", "httpx2")}
"""Extra -> packages that rewards import."""


def find_missing(name: str, entry: RewardEntry) -> str | None:
    """Return the package that a reward imports and that is not installed; None if it has all."""
    spared = {"http": ("openai",)}.get(name.partition(":")[0], ())
    in_process = name.startswith("unified-reward:")  # a VLM judge in a folder is asked without a client
    packages = () if in_process else PACKAGES.get(entry.extra, ())
    return next((one for one in packages if one not in spared and find_spec(one) is None), None)


def split_parts(name: str, table: Mapping[str, RewardEntry]) -> list[tuple[str, RewardEntry]]:
    """Return a reward's names with their entries: the parts of a mix, else its own. Code is imported."""
    return [(part, _find_entry(split_name(part, table)[0], table)) for part in list_parts(name, table)]


def name_object(reward: object, table: Mapping[str, RewardEntry]) -> list[tuple[str, RewardEntry]]:
    """Return the names of a loaded reward with their entries; for a mix, those of its parts."""
    target = f"{type(reward).__module__}:{type(reward).__qualname__}"
    if target == table["mix"].target:
        parts = [*getattr(reward, "parts")]  # noqa: B009 - the class is not imported for a look
        return [part for name in parts for part in split_parts(name, table)]
    named = [(name, entry) for name, entry in table.items() if entry.target == target]
    said: object = getattr(reward, "function", reward)  # a plain function declares its needs itself
    return named or [(str(getattr(reward, "name", target)), read_needs(Entry(target, ""), said))]


def read_needs(entry: Entry, made: Any) -> RewardEntry:
    """Return the needs of a reward from another package, from its attributes `images`, `needs` and `runs`.

    Args:
        entry: Entry of its name.
        made: Its class, its object, or a plain function.

    Raises:
        UsageError: It declares a value that is not allowed.
    """
    asked = inspect.signature(made).parameters if isinstance(made, type) else ()
    runs = "model" if "model" in asked else "server" if "vlm" in asked else "device" if "device" in asked else "cpu"
    declared: dict[str, Any] = {
        "images": getattr(made, "images", "any"),
        "needs": tuple(getattr(made, "needs", ())),
        "runs": getattr(made, "runs", runs),
    }
    for field, allowed in (("images", ("icons", "any")), ("needs", get_args(Need)), ("runs", get_args(Runs))):
        values = declared[field] if field == "needs" else (declared[field],)
        wrong = [value for value in values if value not in allowed]
        if wrong:
            raise UsageError(
                f"the reward {entry.target} declares {field} {wrong[0]!r}: allowed are {', '.join(allowed)}"
            )
    return RewardEntry(entry.target, entry.summary, entry.package, **declared)


def _find_entry(name: str, table: Mapping[str, RewardEntry]) -> RewardEntry:
    entry = find("reward", name, table)
    return entry if isinstance(entry, RewardEntry) else read_needs(entry, load(entry))


def find_fault(entry: RewardEntry, tasks: Sequence[Task], capabilities: Capabilities | None) -> str | None:
    """Return why a reward cannot score images of these tasks; None if it can.

    Args:
        entry: Entry of the reward.
        tasks: All tasks that must be scored.
        capabilities: Capabilities of the model that draws; None if the model is unknown.
    """
    needs = entry.needs
    if capabilities is not None:
        if entry.images == "icons" and capabilities.image_language != "icons":
            return "reads icons only, and the model's images show scenes of any kind"
        if entry.runs == "model":
            if not capabilities.reads_images:
                return "asks the model about its images, and this model cannot read images"
            # such a model has learned questions about single conditions only
            needs = needs or (("include list",) if capabilities.image_language == "icons" else ())
    return next((fault for task in tasks for need in needs if (fault := _find_lack(task, need))), None)


def find_place(name: str, entry: RewardEntry, placement: Placement) -> str:
    """Return the place where a reward computes: a device, or "server"."""
    if entry.runs == "server":
        # a VLM judge in a folder runs in this process
        return placement.device if name.startswith("unified-reward:") else "server"
    return "cpu" if entry.runs == "cpu" else placement.device


def _find_lack(task: Task, need: Need) -> str | None:
    """Return the field that a task lacks for a reward; None if it has all."""
    shown = task.shown if len(task.shown) <= _LONGEST else f"{task.shown[: _LONGEST - 3]}..."
    if need == "include list" and not task.include:
        return (
            f"needs an include list, which the task {shown!r} lacks: milr makes one from a prompt such as "
            "'two red apples left of a dog'"
        )
    if need == "rules":
        try:
            check_task(task)
        except UsageError as error:
            return f"needs what GenEval's rules can decide: {error}"
    if need == "explanation" and not task.explanation:
        return f"needs an explanation, which the task {shown!r} lacks"
    if need == "checklist" and not task.checklist:
        return f"needs a checklist of questions, which the task {shown!r} lacks"
    if need == "category":
        from milr.rewards.compbench.prompts import CATEGORIES, find_listing

        if task.tag not in CATEGORIES and find_listing(task.prompt) is None:
            return f"needs a category of T2I-CompBench as tag, which the task {shown!r} lacks"
    return None
