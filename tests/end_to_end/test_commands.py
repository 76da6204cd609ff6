"""Commands as users type them: every line of the documents, prompts of newcomers, ten wrong uses of each command.

All run in this process with fake models and rewards; output and exit codes are real.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image

from bench.random_weights import JANUS_SIZES, write_janus
from milr.cli.help import EXAMPLES, walk
from milr.cli.main import COMMANDS, _build_parser, main  # pyright: ignore[reportPrivateUsage]
from milr.models import FAMILIES
from milr.registry import Entry, load
from milr.rewards import REWARDS, Reward
from milr.runs import read_run
from milr.testing import FakeModel, FakeReward
from milr.types import Score, Task, Unscored
from tests.support.commands import PROMPTS, WRONG_USES
from tests.support.paths import ROOT

Out = pytest.CaptureFixture[str]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def load_fake_model(entry: Entry) -> Callable[..., Any]:
    if entry not in FAMILIES.values():  # models without a checkpoint's folder say themselves what they lack
        return load(entry)

    def make(folder: Path, **options: object) -> FakeModel:
        model = FakeModel()
        model.reads_free_prompts = False  # like the embedded model, which it replaces
        return model

    return make


def load_fake_reward(entry: Entry) -> Any:
    if entry not in REWARDS.values():  # one of the reader's own
        return load(entry)
    name = next(name for name, one in REWARDS.items() if one is entry)

    class Fake(FakeReward):
        def __init__(self, argument: str | None = None) -> None:
            super().__init__(name=f"{name}@1")

    return Fake


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use fake models and rewards, no hub, no keys and no files of the user."""
    monkeypatch.setattr("milr.models.load", load_fake_model)
    monkeypatch.setattr("milr.rewards.load", load_fake_reward)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for name in ("CACHE", "DATA", "WEIGHTS"):
        monkeypatch.setenv(f"MILR_{name}", str(Path("none").resolve()))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("none").resolve()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a working folder with all files that the documents' commands name."""
    where = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr("milr.models.load", load_fake_model)
        patch.setattr("milr.rewards.load", load_fake_reward)
        made = {"A": [], "B": ["--seed", "1"], "zero": ["--gradient", "zero"], "best-of-n": ["--method", "best-of-n"]}
        for name, options in made.items():
            command = ["benchmark", "icons", "--limit", "2", "--steps", "1", *options]
            assert main([*command, "--evaluator", "icons-judge", "--out", f"runs/{name}"]) == 0
        shutil.copytree("runs/A", "runs/milr")
        for name in ("20261124-120000-icons-milr", "ablate-gradients-icons-hard/gradient-zero"):
            shutil.copytree("runs/B", f"runs/{name}")
        assert main(["pack", "runs/A", "--out", "."]) == 0
        Path("experiments/runs").mkdir(parents=True)
        shutil.copy(ROOT / "experiments/runs/icons-hard.results.xz", "experiments/runs")
        for name in ("picture.png", "best.png", "a.png", "b.png"):
            Image.new("RGB", (20, 20), "white").save(name)
        Path("prompts.txt").write_text("two dogs\na red apple\n")
        Path("tasks.jsonl").write_text('{"prompt": "two dogs"}\n' * 4)
        said = {"class": "dog", "count": 2}
        line = {
            "tag": "counting",
            "include": [said],
            "exclude": [{**said, "count": 3}],
            "prompt": "a photo of two dogs",
        }
        for place in ("00000", "00001"):
            samples = Path("images", place, "samples")
            samples.mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(samples / "0000.png")
            (samples.parent / "metadata.jsonl").write_text(json.dumps(line))
        yield where


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, fakes: None) -> None:
    monkeypatch.chdir(folder)


# --- every line of the documents ---


def read_documents() -> list[tuple[str, str]]:
    """Return each command in a document's code blocks, with its place and without its comment."""
    found: list[tuple[str, str]] = []
    for path in DOCUMENTS:
        inside = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            inside ^= line.lstrip().startswith("```")
            if inside and re.match(r" *milr ", line):
                for command in re.split(r"  +#|&&|  +today", line)[0:1] if "&&" not in line else line.split("&&"):
                    found.append((f"{path.relative_to(ROOT)}:{number}", command.split("   #")[0].strip()))
    return found


BLOCKS = read_documents()
SPANS = [(f"milr {name} --help", example) for name, example in EXAMPLES.items()] + [
    (str(path.relative_to(ROOT)), span)
    for path in [*DOCUMENTS, *sorted((ROOT / "src" / "milr" / "assets").glob("*/README.md"))]
    for span in re.findall(r"`(milr [^`\n]+)`", path.read_text(encoding="utf-8"))
]


def write_out(command: str) -> list[str]:
    """Return a command's words after "milr", with a document's placeholders filled in or left out."""
    text = re.sub(r"\[[^\]]*\]|\.\.\.|\\$|;.*", "", command)
    text = re.sub(r"\bI/N\b", "1/2", re.sub(r"(?<=--pool )N\b|(?<=--limit )N\b", "3", text))
    return [word.split("|")[0] for word in shlex.split(text, comments=True)][1:]


def test_there_are_documents_to_read() -> None:
    assert len(BLOCKS) > 45 and len(SPANS) > 40
    assert any(where.startswith("README.md") for where, _ in BLOCKS)


def find_fault(command: str) -> str | None:
    """Parse a command without running it; return the error."""
    words = write_out(command)
    parser, name = _build_parser(), "milr"
    while words and not words[0].startswith("-") and hasattr(parser, "commands"):
        name = words.pop(0)
        if name not in parser.commands:
            return f"no command {name}"
        parser = parser.commands[name]
    try:
        parser.make_context(name, words)
    except Exception as error:
        # A command inside a sentence may omit arguments, but must not name an unknown option.
        unsaid = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError", "Exit")
        return None if unsaid or "requires an argument" in str(error) else str(error)
    return None


def test_every_documented_command_has_its_options() -> None:
    faults = {(where, command): find_fault(command) for where, command in {*BLOCKS, *SPANS}}
    assert len(faults) > 100
    assert not {key: fault for key, fault in faults.items() if fault is not None}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("milr generat x", "no command generat"),
        ("milr generate x --stepz 3", "No such option: --stepz"),
        ("milr benchmark icons --limit FEW", "valid integer"),
    ],
)
def test_an_outdated_document_is_found(command: str, fault: str) -> None:
    assert fault in str(find_fault(command))


NOT_HERE = {
    "milr generate --model ./Janus-Pro-1B": "no model folder 'Janus-Pro-1B'",
    "milr generate --model deepseek-community/": "is neither a folder nor whole in the hub's cache",
    "milr generate --model diffusers:": "is neither a folder nor whole in the hub's cache",
    "milr info --model": "is neither a folder nor whole in the hub's cache",
    "milr plan --model": "is neither a folder nor whole in the hub's cache",
    "milr fetch": "is neither a folder nor whole in the hub's cache",
    "milr convert llamagen": "has no decoder t2i_*.pt",
    "milr generate --reward checklist": "needs a checklist of questions",  # the file here has plain prompts
    "milr --model ./llamagen-256": "no model folder 'llamagen-256'",
    "milr --model ./llamagen-256 --reward ./mine.py:reward": "no file ./mine.py",
    "milr convert janus": "is neither a folder nor whole in the hub's cache",
    "milr benchmark geneval": "type milr data get geneval",
    "milr export": "holds no run",
    "milr generate --resume": "holds no run",
}
"""Commands that need the hub, the benchmarks' data or a missing run -> their message, with exit code 2."""
LEFT_OUT = re.compile(
    r"milr (doctor|ablate|data|serve-judge) |milr (serve|index)\b|\b(FOLDER|DIR|PICTURES|OUT|NAME|PROMPT)\b"
    r"|\.\.\.|\\$|ablate-matrix|--workers|--reward-workers"
)
"""Commands that have their own tests, or contain placeholders."""
FAST = re.compile("README.md|docs/index.md|docs/tutorials/own-reward.md")
"""Documents whose commands the fast tests run."""
RUN = [(where, command) for where, command in BLOCKS if not LEFT_OUT.search(command)]


def shorten(words: list[str]) -> list[str]:
    """Return a command at tiny size."""
    if words[0] in ("generate", "benchmark") and not {"--resume", "--pool"} & set(words):
        words = [*words, "--steps", "1"]
    if words[0] == "benchmark" and "--resume" not in words:
        words = [*words, "--limit", "2"]
    return words


@pytest.mark.parametrize(
    ("where", "command"),
    [pytest.param(*one, marks=[] if FAST.match(one[0]) else [pytest.mark.slow]) for one in RUN],
)
def test_every_documented_command_does_what_it_is_for(
    where: str, command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    unused = () if re.search(r"runs|resume|compare|report|status|show|doctor", command) else ("runs",)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=lambda place, names: unused)  # some change a run
    monkeypatch.chdir(tmp_path)
    if "./random-janus" in command:
        write_janus(Path("random-janus"), JANUS_SIZES["janus-tiny"])
    if "./milr_paper.py" in command:
        shutil.copy(ROOT / "examples" / "plugins" / "milr-paper" / "milr_paper.py", ".")
    if "./mine.py:blueness" in command:
        page = (ROOT / "docs" / "tutorials" / "own-reward.md").read_text(encoding="utf-8")
        Path("mine.py").write_text(page.split("```python\n")[1].partition("```")[0], encoding="utf-8")
    words = [path for word in shorten(write_out(command)) for path in sorted(map(str, Path().glob(word))) or [word]]
    if words[0] == "benchmark" and "--out" in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    code = main(words)
    said = capsys.readouterr()
    absent = [
        text
        for known, text in NOT_HERE.items()
        if all(part in command for part in known.split(" ")) and text in said.err
    ]
    if absent:
        assert code == 2 and said.err.splitlines()[-1].startswith("error: ")
    else:
        assert code == 0, said.err
        assert said.out or said.err


def test_most_documented_commands_run_here() -> None:
    assert len(RUN) > 30


# --- newcomers ---


@pytest.mark.parametrize(("typed", "prompt", "said"), PROMPTS)
def test_a_newcomers_prompt_is_drawn_or_refused_with_advice(
    typed: str, prompt: str | None, said: str, tmp_path: Path, capsys: Out
) -> None:
    out = tmp_path / "run"
    code = main(["generate", typed, "--steps", "1", "--out", str(out)])
    printed = capsys.readouterr()
    if prompt is None:
        assert (code, printed.err.count("\n"), out.exists()) == (2, 1, False)
        assert said in printed.err
    else:
        assert code == 0 and said in printed.out
        assert read_run(out).manifest.tasks[0].prompt == prompt


# --- wrong uses ---


def test_every_command_has_ten_wrong_uses() -> None:
    commands = {*(command.__name__.replace("_", "-") for command in COMMANDS), "data"}
    assert commands == {name for name in WRONG_USES if name}
    assert not [name for name in commands if len(WRONG_USES[name]) < 10]
    assert sum(map(len, WRONG_USES.values())) + len(PROMPTS) + len(BLOCKS) > 200


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(*use, marks=[pytest.mark.slow] if place > 3 else [])
        for uses in WRONG_USES.values()
        for place, use in enumerate(uses)
    ],
    ids=lambda value: value,
)
def test_a_wrong_use_is_one_line_that_says_what_is_wrong(command: str, said: str, folder: Path, capsys: Out) -> None:
    before = list_files(folder)
    assert main(shlex.split(command)) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[-1].startswith("error: ") and said.lower() in lines[-1].lower(), printed
    assert all(line.startswith("milr: ") for line in [*lines[:-1], *printed.out.splitlines()])
    assert list_files(folder) == before


def list_files(folder: Path) -> set[str]:
    """Return the paths of all files and folders below."""
    return {os.path.join(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files)}


def test_without_a_terminal_a_licence_needs_an_option(capsys: Out) -> None:
    assert main(["data", "get", "geneval"]) == 2
    printed = capsys.readouterr()
    assert "MIT" in printed.out and "type milr data get geneval --accept-licence" in printed.err


@pytest.mark.slow
def test_quiet_prints_the_result_alone_and_not_with_verbose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "two dogs", "--steps", "1", "--out", "a", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and [line.split(":")[0] for line in said.out.splitlines()] == [
        "first image",
        "best image",
        "ended",
        "all images",
        "run",
        "page",
    ]
    assert main(["generate", "two dogs", "--steps", "1", "--out", "j", "--quiet", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and json.loads(said.out)["finished"]
    words = ["benchmark", "icons", "--limit", "2", "--steps", "1", "--out"]
    assert main([*words, "b", "-q"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == "" and main([*words, "c", "-v"]) == 0
    verbose = capsys.readouterr()
    assert quiet.out.replace("b", "c").splitlines()[:3] == verbose.out.replace("b", "c").splitlines()[:3]
    assert verbose.err.count("  step 0  reward ") == 2
    assert main(["ablate", "strategies", "--plan", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    for command in (["generate", "two dogs"], ["benchmark", "icons"], ["ablate", "strategies"]):
        assert main([*command, "-q", "-v"]) == 2
        assert "leave one of the two out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("generate 'two dogs' --reward mix:self*0.5+gpt-4o*0.5", "openai", "vlm"),
        ("generate 'two dogs' --panel gpt-4o", "stamina", "vlm"),
        ("benchmark icons --limit 1 --reward mix:self*0.5+gpt-4o*0.5", "httpx2", "vlm"),
        ("benchmark icons --limit 1 --evaluator mix:self*0.5+geneval*0.5", "scipy", "geneval"),
        ("evaluate runs/A --evaluator mix:self*0.5+gpt-4o*0.5", "openai", "vlm"),
        ("score a.png --prompt 'two dogs' --model embedded --reward mix:self*0.5+gpt-4o*0.5", "openai", "vlm"),
        ("serve-judge --port 0 --reward mix:self*0.5+gpt-4o*0.5", "openai", "vlm"),
    ],
)
def test_a_missing_package_is_named_before_a_model_is_loaded(
    command: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("milr.models.load", loaded.append)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"needs the package '{package}'" in said and f'pip install "milr[{extra}]"' in said
    assert not loaded


def find_advice() -> list[tuple[str, bool, str, str]]:
    """Return each command named in the package's texts: file, whether the text says to type it, command, the rest."""
    found: list[tuple[str, bool, str, str]] = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        # a value that is filled in later counts as one word
        text = re.sub(r"\{[^{}\n]*\}", "X", path.read_text(encoding="utf-8"))
        text = re.sub(r"[\"']\n\s*f?[\"']", "", text)
        for said, name, rest in re.findall(r"(type:? )?\bmilr ((?:data )?[a-z][a-z-]+)((?: [^;,\n]*)?)", text):
            found.append((str(path.relative_to(ROOT)), bool(said), name, rest))
    return found


def test_every_command_that_the_package_advises_exists() -> None:
    parser = _build_parser()
    context = parser.context_class(parser, **parser.context_settings)
    options = {
        name: {flag for one in command.get_params(its) for flag in (*one.opts, *one.secondary_opts)}
        for name, command, its in walk(parser, context, "")
    }
    advice = find_advice()
    assert sum(said for _, said, _, _ in advice) > 20
    unknown = [(where, name) for where, said, name, _ in advice if said and name not in options]
    wrong = [
        (where, name, flag)
        for where, _, name, rest in advice
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest if name in options else "")
        if flag not in options[name]
    ]
    assert (unknown, wrong) == ([], [])


def test_documents_name_only_folders_that_a_sweep_makes(capsys: Out) -> None:
    """Return true for `runs/ablate-RECIPE-BENCHMARK/RUN` as in the sweep's plan; a pattern matches any run."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    named = set(re.findall(r"runs/ablate-([a-z-]+)-(icons-hard|icons)/([a-z-]+)?", text))
    assert ("gradients", "icons-hard", "gradient-zero") in named
    for recipe, benchmark, run in named:
        assert main(["ablate", recipe, "--plan"]) == 0
        plan = capsys.readouterr()
        assert f"runs of {benchmark}\n" in plan.err
        assert not run or f"{run}: " in plan.out


# --- runs that are continued ---

SEARCH = [
    "generate",
    "two dogs",
    "a cat",
    "two dogs",
    "a red apple",
    "--steps",
    "3",
    "--batch-size",
    "2",
    "--seed",
    "5",
]


class Interrupting(FakeReward):
    """The fake's reward, interrupted at one of its calls."""

    made = 0
    at = 0

    def __init__(self, argument: str | None = None) -> None:
        super().__init__(name="icons@1")

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        type(self).made += 1
        if type(self).made == self.at:
            raise KeyboardInterrupt
        return super().__call__(images, tasks)


def list_tokens(run: str) -> list[list[tuple[int, ...]]]:
    """Return the image tokens of every step of every task."""
    return [[image.tokens for step in task.steps for image in step.images] for task in read_run(run).tasks]


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 4, 6])
def test_an_interrupted_search_is_resumed_by_the_command_that_it_prints(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SEARCH, "--out", "whole", "--json"]) == 0
    whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setattr(Interrupting, "made", 0)
    monkeypatch.setattr(Interrupting, "at", at)

    def load_interrupting(entry: Entry) -> type[Reward]:
        return Interrupting

    monkeypatch.setattr("milr.rewards.load", load_interrupting)
    assert main([*SEARCH, "--out", "a run"]) == 130
    said = capsys.readouterr().out
    for task in read_run("a run").tasks:
        assert (task.folder / "best.png").exists()
    assert {task.last.finished for task in read_run("a run").tasks} >= {"cancelled"}
    (command,) = re.findall(r"to go on, type: milr (.*)", said)
    monkeypatch.setattr(Interrupting, "at", Interrupting.made + 1)
    assert main(shlex.split(command)) == 130  # before any new image, so nothing is lost
    assert {task.last.finished for task in read_run("a run").tasks} >= {"cancelled"}
    monkeypatch.setattr(Interrupting, "at", 0)
    capsys.readouterr()
    assert main([*shlex.split(command), "--json"]) == 0
    resumed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list_tokens("a run") == list_tokens("whole")
    assert not list(Path("a run").rglob("*.part"))
    unlike = ("seconds", "picture", "run")
    assert [{k: v for k, v in one.items() if k not in unlike} for one in resumed] == [
        {k: v for k, v in one.items() if k not in unlike} for one in whole
    ]


def test_own_prompts_are_named_where_a_benchmark_is_meant(tmp_path: Path, capsys: Out) -> None:
    own = str(tmp_path / "own")
    assert main(["generate", "two dogs", "--steps", "1", "--out", own]) == 0
    for command, said in (
        (["benchmark", "--resume", own], f"holds no benchmark's run: type milr generate --resume {own}"),
        (["compare", "runs/A", own], "ran different benchmarks (own prompts: two dogs and icons)"),
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("generate --resume runs/A", "runs/A is a benchmark's run: type milr benchmark --resume runs/A"),
        ("generate --resume runs/none", "runs/none holds no run"),
        ("generate 'a dog' --resume runs/A", "leave the prompts out"),
        ("generate --resume runs/A --steps 3", "leave --steps out"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_a_one_line_error(command: str, said: str, capsys: Out) -> None:
    assert main(shlex.split(command)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_prints_its_table_in_every_form_alone(tmp_path: Path, capsys: Out) -> None:
    run = str(tmp_path / "run")
    assert main(["benchmark", "icons", "--limit", "6", "--steps", "1", "--out", run]) == 0
    said = capsys.readouterr().out
    overall = re.findall(r"^Overall +([\d.]+)", said, re.M)
    for form, is_form in (
        ("json", lambda text: json.loads(text)[0]["rows"][-1]["name"] == "Overall"),
        ("csv", lambda text: "Overall,ours,score," in text),
        ("md", lambda text: "| Overall |" in text),
        ("latex", lambda text: "\\toprule" in text),
    ):
        assert main(["benchmark", "--resume", run, "--format", form]) == 0
        printed = capsys.readouterr()
        assert is_form(printed.out), printed.out
        assert overall[0] in printed.out and f"run: {run}" in printed.err and "run: " not in printed.out
    assert main(["benchmark", "icons", "--format", "jsn"]) == 2
    assert "unknown format 'jsn': did you mean 'json'?" in capsys.readouterr().err
