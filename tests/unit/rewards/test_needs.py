"""Needs of rewards: a model's default reward, refusals before anything is drawn, one device for all."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest

from milr import search
from milr.errors import UsageError
from milr.models.base import Capabilities
from milr.models.devices import Placement, find_device, machine_facts
from milr.registry import load
from milr.rewards import REWARDS, check_scorable, default_reward, load_reward, locate_reward, needs_model
from milr.rewards.icons.reward import Icons
from milr.rewards.mix import Mix
from milr.rewards.vlm.gpt4o import BINARY
from milr.rewards.vlm.unified_reward import POINTWISE
from milr.rewards.vlm.wise import LEGACY, VERIFIED
from milr.tasks import parse_prompt
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import ChecklistItem, Requirement, Task
from tests.support.placed_reward import add_placed

NATURAL = Capabilities(image_size=384, image_tokens=576, width=2048, latents="both")
ICONS = replace(NATURAL, image_language="icons")
BLIND = replace(NATURAL, reads_images=False)
FREE, APPLE = Task(prompt="morning fog over a harbour"), parse_prompt("a red apple")
KNOWING = Task(prompt="fog", explanation="a street in grey light")
SHAPED = Task(prompt="a round bag", tag="shape")
ASKED = Task(prompt="a harbour", checklist=(ChecklistItem(question="Is there fog?"),))
UNKNOWN = Task(prompt="a unicorn", include=(Requirement.model_validate({"class": "unicorn"}),))


def able(task: Task, capabilities: Capabilities | None) -> set[str]:
    """Return the rewards that are not refused."""
    found: set[str] = set()
    for name in REWARDS.keys() - {"mix", "http"}:
        try:
            check_scorable(name, [task], capabilities)
        except UsageError:
            continue
        found.add(name)
    return found


OF_ANY = {"self", "gpt-4o", "unified-reward"}
OF_RULES = {"geneval", "geneval-hf", "grounding-dino", "git-vqa"}
OF_ITEMS = {"checklist", "checklist-self", "geneval2", "t2i-corebench"}
OF_ICONS = {"icons", "icons-soft", "icons-judge"}


@pytest.mark.parametrize(
    ("task", "capabilities", "expected"),
    [
        (FREE, NATURAL, OF_ANY),
        (FREE, BLIND, OF_ANY - {"self"}),
        (FREE, ICONS, OF_ANY - {"self"}),
        (FREE, None, OF_ANY),
        (APPLE, NATURAL, OF_ANY | OF_RULES),
        (APPLE, ICONS, OF_ANY | OF_RULES | OF_ICONS),
        (APPLE, None, OF_ANY | OF_RULES | OF_ICONS),
        (KNOWING, NATURAL, OF_ANY | {"wise", "wise-legacy"}),
        (SHAPED, NATURAL, OF_ANY | {"t2i-compbench"}),
        (UNKNOWN, ICONS, OF_ANY | {"git-vqa"}),
        (ASKED, NATURAL, OF_ANY | OF_ITEMS),
        (ASKED, BLIND, (OF_ANY | OF_ITEMS) - {"self", "checklist-self"}),
        (ASKED, ICONS, (OF_ANY | OF_ITEMS) - {"self"}),
    ],
)
def test_the_rewards_that_can_score_a_task_are_known(
    task: Task, capabilities: Capabilities | None, expected: set[str]
) -> None:
    assert able(task, capabilities) == expected


def test_the_default_reward_follows_the_model() -> None:
    assert (default_reward(NATURAL), default_reward(ICONS)) == ("self", "icons")
    assert load_reward(model=FakeModel()).name == "self@2/fake"
    assert load_reward().name == Icons().name


def test_a_refusal_is_one_line_that_names_alternatives() -> None:
    with pytest.raises(UsageError) as error:
        check_scorable("icons", [APPLE, FREE], NATURAL)
    assert str(error.value) == (
        "the reward 'icons' reads icons only, and the model's images show scenes of any kind; "
        "give --reward one of these: self, gpt-4o, unified-reward"
    )
    with pytest.raises(UsageError, match=r"'wise' needs an explanation, .*'morning fog .* give --evaluator one"):
        check_scorable("wise", [FREE], NATURAL, "--evaluator")
    with pytest.raises(UsageError, match=r"'self:p-yes' asks the model about its images, and this model cannot"):
        check_scorable("self:p-yes", [FREE], BLIND)


def test_every_part_of_a_mix_must_be_able_to_score() -> None:
    check_scorable("mix:icons*0.5+self*0.5", [APPLE], ICONS)
    with pytest.raises(UsageError, match="'icons-soft' reads icons only"):
        check_scorable("mix:self*0.5+icons-soft*0.5", [APPLE], NATURAL)
    loaded = Mix("icons+self", lambda name: load_reward(name, model=FakeModel()))
    with pytest.raises(UsageError, match="'icons' reads icons only"):
        check_scorable(loaded, [APPLE], NATURAL)


def test_in_python_a_search_refuses_before_it_begins() -> None:
    model = FakeModel()  # its images are not icons
    with pytest.raises(UsageError, match="'icons' reads icons only"):
        search([APPLE], model, Icons())
    with pytest.raises(UsageError, match="'icons' reads icons only"):
        search(iter([APPLE]), model, Icons())
    model.capabilities = replace(FakeModel.capabilities, image_language="icons")
    with pytest.raises(UsageError, match="'icons' needs an include list, which the task 'morning fog"):
        search([APPLE, FREE], model, Icons())
    assert not model.reasoned and not model.drawn
    next(search([FREE], model, FakeReward(brightness)))  # a user's own reward: its needs are unknown


def test_the_table_agrees_with_the_constructors() -> None:
    takes = {"device": "device", "model": "model", "server": "vlm", "parts": "load"}
    for name, entry in REWARDS.items():
        wanted = inspect.signature(load(entry)).parameters
        found = {runs for runs, parameter in takes.items() if parameter in wanted} or {"cpu"}
        assert entry.runs in found, name
        assert found == {entry.runs} or (name, found) == ("unified-reward", {"server", "device"})
    for protocol in (BINARY, LEGACY, VERIFIED, POINTWISE):
        assert protocol.asks_explanation == ("explanation" in REWARDS[protocol.name].needs)


def test_needs_are_known_without_torch() -> None:
    code = (
        "import sys; from milr.rewards import *; from milr.types import Task; "
        "needs_model('mix:icons+self') or sys.exit(1); check_scorable('gpt-4o', [Task(prompt='x')]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not needs_model("mix:icons+gpt-4o") and needs_model("mix:icons+self")


def test_rewards_get_the_runs_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    add_placed(monkeypatch)
    there = Placement("meta", "bfloat16")
    assert load_reward("placed").name == "placed@1/cpu/None"
    assert load_reward("placed", placement=there).name == "placed@1/meta/bfloat16"
    assert load_reward("placed", placement=there, device="cpu").name == "placed@1/cpu/bfloat16"
    mixed = load_reward("mix:placed+icons", placement=there)
    assert isinstance(mixed, Mix) and mixed.parts["placed"].name == "placed@1/meta/bfloat16"
    assert {name: locate_reward(name, there) for name in ("placed", "icons", "self", "gpt-4o", "http://host/x")} == {
        "placed": "meta",
        "icons": "cpu",
        "self": "meta",
        "gpt-4o": "server",
        "http://host/x": "server",
    }
    assert locate_reward("unified-reward", there) == "server" and locate_reward("unified-reward:DIR", there) == "meta"
    assert locate_reward("mix:placed+self", there) == "meta"
    assert locate_reward("mix:placed+icons", there) == "placed: meta, icons: cpu"


def test_the_facts_of_a_machine_name_the_device_of_rewards() -> None:
    facts = machine_facts(Placement("cpu"), {"reward_device": "server"})
    assert facts.keys() == {"threads", "device", "reward_device"}
    assert (facts["device"], facts["reward_device"]) == ("cpu", "server")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "xpu", "mps", "cpu:x"])
def test_an_absent_device_is_a_one_line_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: name == "cuda:7")
    with pytest.raises(UsageError, match=name) as error:
        find_device(name)
    assert "\n" not in str(error.value)
