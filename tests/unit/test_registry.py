"""Names from installed packages, modules and files: their errors, and code that is never loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import milr
from milr.benchmarks import load_benchmark
from milr.benchmarks.runner import BenchmarkJob, BenchmarkSettings
from milr.cli.main import main
from milr.errors import UsageError
from milr.methods import METHODS
from milr.models import describe_model, load_model, read_best_method, read_capabilities
from milr.models import find_source as find_model_source
from milr.registry import GROUPS, find, is_code
from milr.report.ablation import Recipe, plan_runs
from milr.rewards import load_reward
from milr.settings import make_settings

CODE = '''
"""One of each kind."""
from pathlib import Path
from milr.benchmarks.base import Benchmark
from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings
from milr.testing import FakeModel, FakeReward, brightness
from milr.types import Task

(Path(__file__).parent / "was_run").touch()


class Grey(FakeModel):
    name = "grey"

    def __init__(self, device="cpu", argument=None):
        super().__init__()
        self.device, self.argument = device, argument


def bright(images, tasks):
    return [brightness(image) for image in images]


class Waits:
    name, stop_at, needs = "waits@1", 0.9, ("explanation",)

    def __init__(self, model, argument=None, device="cpu"):
        self.model, self.argument, self.device = model, argument, device

    def __call__(self, images, tasks):
        return bright(images, tasks)


class TwiceSettings(StepSettings):
    texts: int = 2


def twice(ctx: TaskContext[TwiceSettings]) -> Requests:
    for _ in range(ctx.own.texts):
        yield from ctx.reason(sampled=True)
    yield from ctx.draw()


SHAPES = Benchmark("shapes", "Shapes", {"a": 2}, {"a": 1.0}, lambda folder: [
    Task(prompt="one", tag="a", explanation="1"), Task(prompt="two", tag="a", explanation="2")], reward="icons")
'''
NAMES = {"model": "Grey", "reward": "bright", "method": "twice", "benchmark": "SHAPES"}
LOADERS: dict[str, Callable[[str], object]] = {
    "model": load_model,
    "reward": load_reward,
    "method": milr.load_method,
    "benchmark": load_benchmark,
}
KINDS = pytest.mark.parametrize("kind", GROUPS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a module, a package's metadata with an entry point of each kind, and a file."""
    (tmp_path / "site").mkdir()
    for place in ("mine.py", "site/outside_module.py"):
        (tmp_path / place).write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offer(site: Path, package: str, points: dict[str, dict[str, str]]) -> None:
    """Install a package's metadata."""
    folder = site / f"{package}-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\nSummary: What {package} is\n"
    )
    groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(groups))


def offer_all(site: Path) -> None:
    offer(site, "greys", {GROUPS[kind]: {f"my-{kind}": f"outside_module:{name}"} for kind, name in NAMES.items()})


@KINDS
@pytest.mark.parametrize("form", ["file", "module", "entry point"])
def test_plug_ins_are_found_by_file_by_module_and_by_entry_point(here: Path, kind: str, form: str) -> None:
    offer_all(here / "site")
    name = {"file": "./mine.py:", "module": "outside_module:"}.get(form, "")
    found = LOADERS[kind](f"{name}{NAMES[kind]}" if name else f"my-{kind}")
    if kind == "model":
        assert isinstance(found, object) and getattr(found, "name", None) == "grey"
    elif kind == "reward":
        assert isinstance(found, object) and getattr(found, "name", None) == "bright"
    elif kind == "method":
        assert getattr(found, "settings", None).__name__ == "TwiceSettings"
    else:
        assert getattr(found, "title", None) == "Shapes"


@KINDS
def test_a_wrong_name_gets_the_nearest_one_on_one_line(here: Path, kind: str) -> None:
    offer_all(here / "site")
    load = LOADERS[kind]
    near = {
        f"mi-{kind}": f"did you mean 'my-{kind}'?",
        f"./mine.py:{NAMES[kind][:-1]}": f"./mine.py has no '{NAMES[kind][:-1]}': did you mean '{NAMES[kind]}'?",
        f"./mien.py:{NAMES[kind]}": "no file ./mien.py: did you mean 'mine.py'?",
        "./mine.py": "names no attribute: type ./mine.py:Grey",
        f"outside_modul:{NAMES[kind]}": "no module 'outside_modul' is installed here",
    }
    for wrong, told in near.items():
        with pytest.raises(UsageError) as error:
            load(wrong)
        assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere_at_all\nx = 1", "no module 'nowhere_at_all' is installed here"),
        ("\n\nx = 1 / 0", "ZeroDivisionError: division by zero (line 3)"),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 3", "3 (int) is no reward"),
        ("def x(images, tasks, more): return 1", None),
    ],
)
def test_code_that_cannot_be_loaded_says_why_on_one_line(tmp_path: Path, code: str, told: str | None) -> None:
    (tmp_path / "bad.py").write_text(code)
    if told is None:
        assert load_reward(f"{tmp_path}/bad.py:x").name == "x"  # wrong only when it is called
        return
    with pytest.raises(UsageError) as error:
        load_reward(f"{tmp_path}/bad.py:x")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_finding_and_checking_a_name_runs_no_file(here: Path) -> None:
    find("reward", "./mine.py:bright", {})
    assert not (here / "was_run").exists()
    load_reward("./mine.py:bright")
    assert (here / "was_run").exists()


def test_a_name_from_two_packages_is_distinguished_and_does_not_hide_milrs_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("greys", "blues"):
        offer(here / "site", package, {"milr.rewards": {"b": f"outside_module.{package}:bright", "icons": "x:y"}})
    with pytest.raises(UsageError, match="greys 1.2 both have a reward 'b': type outside_module.blues:bright or out"):
        load_reward("b")
    assert find("reward", "icons", {"icons": METHODS["milr"]}) is METHODS["milr"]
    assert main(["info"]) == 0
    assert "x:y" in capsys.readouterr().out


def test_info_lists_what_packages_offer_with_the_package(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offer_all(here / "site")
    main(["info"])
    lines = capsys.readouterr().out
    for kind in GROUPS:
        line = next(line for line in lines.splitlines() if f" my-{kind} " in line)
        assert line.startswith(f"{kind}s ") and line.endswith("What greys is (from greys 1.2)")
    main(["info", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["rewards"]["my-reward"] == "What greys is"
    assert listed["from_packages"]["rewards"][0]["package"] == "greys 1.2"
    assert not (here / "site" / "was_run").exists()


def test_a_class_gets_the_arguments_that_its_parameters_name(here: Path) -> None:
    offer(here / "site", "greys", {"milr.rewards": {"waits": "outside_module:Waits"}})
    model = load_model("./mine.py:Grey", device="meta")
    assert getattr(model, "device", None) == "meta"
    reward = load_reward("waits:loud", model=model)
    assert (getattr(reward, "model", None), getattr(reward, "argument", None)) == (model, "loud")
    (here / "asks.py").write_text("class Asks:\n    def __init__(self, fuel): ...\n    def __call__(self, a, b): ...")
    with pytest.raises(UsageError, match="Asks asks for 'fuel' when it is made, and is offered argument, model, "):
        load_reward("./asks.py:Asks")


@pytest.mark.parametrize("form", ["./mine.py:", "outside_module:", "entry point"])
def test_code_takes_an_argument_as_names_do(here: Path, form: str) -> None:
    offer(
        here / "site",
        "greys",
        {"milr.rewards": {"waits": "outside_module:Waits"}, "milr.models": {"gray": "outside_module:Grey"}},
    )
    grey, waits = ("gray", "waits") if form == "entry point" else (f"{form}Grey", f"{form}Waits")
    for given, argument in (("", None), (":", ""), (":loud", "loud"), (":a/b.py:c,d=1", "a/b.py:c,d=1")):
        model = load_model(f"{grey}{given}")
        assert getattr(model, "argument", 0) == argument
        reward = load_reward(f"{waits}{given}", model=model)
        assert getattr(reward, "argument", 0) == argument
    mixed = load_reward(f"mix:{waits}:loud*0.5+{waits}:low*0.5", model=load_model(grey))
    assert [getattr(one, "argument", 0) for one in getattr(mixed, "parts", {}).values()] == ["loud", "low"]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (
            "reward",
            "./mine.py:bright:loud",
            "'./mine.py:bright' takes no argument, and './mine.py:bright:loud' gives it",
        ),
        ("model", "./bare.py:Bare:big", "'./bare.py:Bare' takes no argument, and is given 'big': type ./bare.py:Bare"),
        ("model", "embedded:big", "'embedded' takes no argument, and is given 'big': type embedded"),
        (
            "method",
            "./mine.py:twice:3",
            "a method takes no argument, and './mine.py:twice:3' has one: type ./mine.py:tw",
        ),
        ("benchmark", "mine:SHAPES:x", "a benchmark takes no argument, and 'mine:SHAPES:x' has one: type mine:SHAPES"),
    ],
)
def test_an_argument_that_code_does_not_take_is_refused(here: Path, kind: str, name: str, said: str) -> None:
    (here / "bare.py").write_text("from milr.testing import FakeModel\nclass Bare(FakeModel):\n    pass\n")
    with pytest.raises(UsageError) as error:
        LOADERS[kind](name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_models_capabilities_are_known_before_it_is_loaded(here: Path) -> None:
    (here / "big.py").write_text(
        "from milr.testing import FakeModel\n"
        "class Big(FakeModel):\n    def __init__(self): raise AssertionError('made')\n"
        "class Bare:\n    pass\n"
        "class Half:\n    capabilities = FakeModel.capabilities\n"
    )
    assert read_capabilities(find_model_source("./big.py:Big")).image_tokens == 25
    with pytest.raises(UsageError, match="declares no capabilities: give its class the attribute"):
        load_model("./big.py:Bare")
    with pytest.raises(UsageError, match="lacks name, folder, "):
        load_model("./big.py:Half")


def test_a_model_may_describe_itself_by_its_argument(here: Path) -> None:
    (here / "sized.py").write_text(
        "from dataclasses import replace\n"
        "from milr.models.base import Description\n"
        "from milr.testing import FakeModel\n"
        "class Sized(FakeModel):\n"
        "    best = {'method': 'parm'}\n"
        "    @staticmethod\n"
        "    def describe(argument, *, offline):\n"
        "        size = int(argument or 20)\n"
        "        able = replace(FakeModel.capabilities, image_size=size, family=f'offline {offline}')\n"
        "        return Description(able, {'guidance': 3.0}, 'mine', 'a profile', None)\n"
    )
    described = describe_model(find_model_source("./sized.py:Sized", offline=True))
    assert (described.capabilities.image_size, described.capabilities.family) == (20, "offline True")
    assert (described.defaults, described.profile) == ({"guidance": 3.0}, "mine")
    assert read_best_method(find_model_source("./sized.py:Sized")) == {"method": "parm"}
    assert main(["info", "--model", "./sized.py:Sized", "--json"]) == 0


def test_a_third_party_reward_is_refused_for_tasks_that_lack_what_it_declares(here: Path) -> None:
    asked = {"model": "./mine.py:Grey", "method": "./mine.py:twice", "benchmark": "./mine.py:SHAPES"}
    job = BenchmarkJob.begin(BenchmarkSettings(**asked, reward="./mine.py:Waits"), here / "run")
    assert job.parts.reward.name == "waits@1"
    with pytest.raises(UsageError, match="'waits@1' needs an explanation, which the task 'a cat' lacks"):
        milr.search("a cat", load_model("./mine.py:Grey"), "./mine.py:Waits")


def test_settings_of_a_third_party_method_are_checked(here: Path) -> None:
    assert make_settings("./mine.py:twice", {"texts": "3"}).get("texts") == 3
    with pytest.raises(UsageError, match="unknown setting 'texs': did you mean 'texts'"):
        make_settings("./mine.py:twice", {"texs": 3})
    with pytest.raises(UsageError, match="declares no settings: annotate its parameter as ctx: TaskContext"):
        (here / "bare.py").write_text("def bare(ctx):\n    yield from ctx.draw()\n")
        milr.load_method("./bare.py:bare")
    with pytest.raises(UsageError, match="not a generator function"):
        milr.load_method("./mine.py:bright")


def test_a_run_with_user_code_resumes_only_if_the_code_is_named_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"--model": "./mine.py:Grey:big", "--reward": "./mine.py:Waits:loud", "--method": "./mine.py:twice"}
    typed = [word for pair in names.items() for word in pair]
    begun = ["benchmark", "./mine.py:SHAPES", *typed, "--evaluator", names["--reward"], "--set", "texts=1"]
    assert main([*begun, "--out", "run"]) == 0
    shutil.rmtree(next((here / "run" / "tasks").iterdir()))
    capsys.readouterr()
    assert main(["benchmark", "--resume", "run"]) == 2
    said = capsys.readouterr().err
    assert "run names the model './mine.py:Grey:big', and code is loaded only when you type it" in said
    assert main(["benchmark", "./mine.py:SHAPES", "--resume", "run", *typed]) == 0
    assert "2 of 2 prompts" in capsys.readouterr().out
    assert main(["report", "run", "--format", "md"]) == 0


def test_a_recipe_names_no_code_unless_it_was_typed(here: Path) -> None:
    recipe = Recipe(title="t", hardware="h", runs=({"reward": "./mine.py:bright"},))
    with pytest.raises(
        UsageError, match="t names the reward './mine.py:bright', and code is loaded only when you type"
    ):
        plan_runs(recipe)
    assert not (here / "was_run").exists()
    assert plan_runs(recipe, {"reward": "./mine.py:bright"})


@pytest.mark.parametrize(
    "name", ["icons", "gpt-4o:p-yes", "unified-reward:/a/b", "a/b@c", "C:\\models\\x", "http://h/x"]
)
def test_names_without_code_are_not_treated_as_code(name: str) -> None:
    assert not is_code(name)
