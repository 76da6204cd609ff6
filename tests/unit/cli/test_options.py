"""Options of settings: derived from the models, and refused if the method does not read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from milr.cli.help import EXAMPLES, GROUPS, walk
from milr.cli.main import _build_parser, main  # pyright: ignore[reportPrivateUsage]
from milr.runs import read_run
from milr.settings import METHOD_SETTINGS, STRATEGIES, OneOf, all_fields


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a terminal so wide that help is not wrapped."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1000)


def read_help(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main([command, "--help"]) == 0
    return join_rows(capsys.readouterr().out)


def join_rows(shown: str) -> dict[str, str]:
    """Return each option's row, of all its lines, by its first name."""
    rows: list[list[str]] = []
    for words in (line.strip("│ ").split() for line in shown.splitlines() if line.startswith("│")):
        if words and words[0].startswith("--"):
            rows.append(words)
        elif rows:
            rows[-1] += words
    return {row[0].split(",")[0]: " ".join(row) for row in rows}


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("command", ["generate", "benchmark"])
def test_help_is_derived_from_the_settings(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps = read_help(command, capsys)
    for name, field in all_fields().items():
        line = helps[f"--{name.replace('_', '-')}"]
        assert field.description and " ".join(field.description.split()) in line
        for choice in field.metadata:
            assert not isinstance(choice, OneOf) or all(entry.summary in line for entry in choice.table.values())
        readers = [method for method, settings in METHOD_SETTINGS.items() if name in settings.model_fields]
        assert line.endswith(f"[read by {', '.join(readers)}]") == bool(readers), name
    assert "--lr" in helps["--learning-rate"]


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (
            "generate cat --method best-of-n --strategy alt",
            "the method 'best-of-n' does not read --strategy; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --method best-of-n-sampled --lr 0.1",
            "the method 'best-of-n-sampled' does not read --lr; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --method one-shot --steps 3",
            "the method 'one-shot' does not read --steps; best-of-n, best-of-n-sampled, best-of-n-greedy-first, parm, "
            "reflection, milr, consensus, keep-right, grid-prune do: leave it out, or choose another method",
        ),
        (
            "generate cat --method text-reasoning --text-ratio 0",
            "the method 'text-reasoning' does not read --text-ratio; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --method parm --gradient zero",
            "the method 'parm' does not read --gradient; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --method reflection --noise fixed",
            "the method 'reflection' does not read --noise; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --method consensus --l2 0.1",
            "the method 'consensus' does not read --l2; milr does: leave it out, or choose another method",
        ),
        (
            "benchmark icons --method keep-right --image-ratio 0.1",
            "the method 'keep-right' does not read --image-ratio; milr does: leave it out, or choose another method",
        ),
        (
            "benchmark icons --method grid-prune --drawings-per-step 4",
            "the method 'grid-prune' does not read --drawings-per-step; milr does: leave it out, or choose another "
            "method",
        ),
        (
            "benchmark icons --pool 8 --strategy steer",
            "the method 'best-of-n' does not read --strategy; milr does: leave it out, or choose another method",
        ),
        (
            "generate cat --strategy steer --image-ratio 0.1",
            "the strategy 'steer' has no image latents, so it does not read --image-ratio: leave it out, or choose "
            "joint or alt or t2v or no-text or steer-both",
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_at_once(
    argv: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {answer}\n")  # no line says that something is being loaded


def list_commands() -> list[tuple[str, Any]]:
    parser = _build_parser()
    context = parser.context_class(parser, **parser.context_settings)
    return [(name, command) for name, command, _ in walk(parser, context, "") if not hasattr(command, "commands")]


@pytest.mark.slow
def test_every_command_shows_an_example_and_no_type_of_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, _ in list_commands()]
    assert set(names) == set(EXAMPLES) and len(names) > 15
    for name in names:
        assert EXAMPLES[name].startswith(f"milr {name} ")
        assert main([*name.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"Example: milr {name} " in shown and "bool" not in shown


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("command", ["generate", "benchmark", "evaluate"])
def test_options_are_in_groups_with_their_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    titles = [line.strip("╭─╮ ") for line in shown.splitlines() if line.startswith("╭")]
    groups = [group for group in GROUPS if group in titles]
    assert titles == ["Arguments", *groups] and {"Model", "Reward", "Output"} <= set(groups)
    settings = {*(f"--{name.replace('_', '-')}" for name in all_fields()), "--dtype"}
    described = [row for option, row in join_rows(shown).items() if option in settings]
    assert described and all("default" in row.lower() for row in described)


@pytest.mark.usefixtures("wide")
def test_each_choice_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--help"]) == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    for name, entry in STRATEGIES.items():
        assert f"{name}: {entry.summary}." in lines


def test_settings_defaults_are_those_of_their_models() -> None:
    fields = all_fields()
    options = {one.name: one for one in dict(list_commands())["generate"].params}
    said = {name: f"Default: {field.default}." for name, field in fields.items() if field.default is not None}
    assert len(said) > 12
    assert all(text in options[name].help for name, text in said.items())


MINE = """
from pydantic import Field
from milr.methods.context import Requests, TaskContext
from milr.settings import StepSettings

class MineSettings(StepSettings):
    texts: int = Field(default=3, ge=1)
    \"\"\"Number of texts.\"\"\"
    fast: bool = False
    words: tuple[str, ...] | None = None

def mine(ctx: TaskContext[MineSettings]) -> Requests:
    yield from ctx.draw()
"""


@pytest.mark.usefixtures("wide")
def test_settings_of_a_third_party_method_are_options_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    fake = ["--model", "milr.testing:FakeModel", "--reward", "milr.testing:FakeReward"]
    command = ["generate", "a cat", *fake, "--method=./mine.py:mine", "--steps", "1"]
    assert main([*command, "--texts", "2", "--fast", "--set", 'words=["a"]', "--out", "run"]) == 2
    assert 'words ["a"]: must be a list' in capsys.readouterr().err
    assert main([*command, "--texts", "2", "--fast", "--out", "run"]) == 0
    settings = read_run("run").manifest.settings
    assert (settings.get("texts"), settings.get("fast"), settings.get("words")) == (2, True, None)
    capsys.readouterr()
    for wrong, said in (
        (["--texts", "many"], "'--texts': 'many' must be an integer"),
        (["--lr", "fast"], "'--lr': 'fast' must be a number"),
        (["--fail-under", "2"], "'--fail-under': '2' must be less than or equal to 1"),
        (["--texts", "0"], "texts 0: must be at least 1"),
        (["--txts", "2"], "No such option: --txts"),
        (["--method", "./mine.py:yours", "--texts", "2"], "mine.py has no 'yours'"),
    ):
        assert main([*command, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert said in line, line
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Settings of ./mine.py:mine" in shown and "Number of texts. Default: 3." in shown
    assert main(["generate", "--help"]) == 0  # the parser of the next command has none of them
    assert "--texts" not in capsys.readouterr().out
    assert main(["generate", "a cat", *fake, "--texts", "2"]) == 2
    assert "No such option: --texts" in capsys.readouterr().err
