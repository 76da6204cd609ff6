"""The command line as a whole: commands, renamed words, errors, and imports that must not happen."""

from __future__ import annotations

import subprocess
import sys

import pytest

import milr
from milr.cli.main import RENAMED, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"milr {milr.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import milr.cli.main",
        "import milr.cli.main; assert milr.cli.main.main(['--help']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['info']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['generate', '--help']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['generate', 'x', '--text-ratio', '2']) == 2",
        "import milr; milr.Task, milr.read_run, milr.tasks_from_prompts",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    check = "import sys; heavy = {'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_resolve_to_what_they_say() -> None:
    assert sorted(milr.__all__) == milr.__all__
    for name in milr.__all__:
        assert getattr(milr, name) is not None
    assert set(milr.__all__) <= set(dir(milr))
    with pytest.raises(AttributeError, match="nothing"):
        _ = milr.nothing  # pyright: ignore


def refuse(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("flag", [old for old in RENAMED if old.startswith("--")])
def test_an_old_flag_is_refused_with_its_new_name(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    new = RENAMED[flag]
    assert refuse(capsys, "generate", "a cat", flag, "x") == f"error: {flag} is now {new}: type {new} x\n"
    assert refuse(capsys, "generate", f"{flag}=x", "a cat") == f"error: {flag} is now {new}: type {new} x\n"
    assert refuse(capsys, "generate", "a cat", flag) == f"error: {flag} is now {new}: type {new}\n"


def test_old_commands_are_refused_with_their_new_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(capsys, "judge", "runs/x") == "error: milr judge is now milr evaluate: see milr evaluate --help\n"


@pytest.mark.slow
def test_every_new_name_exists(capsys: pytest.CaptureFixture[str]) -> None:
    helps = ""
    for command in ("generate", "benchmark", "ablate", "evaluate"):
        assert main([command, "--help"]) == 0
        helps += capsys.readouterr().out
    for new in RENAMED.values():
        assert not new.startswith("--") or new in helps, new


def test_words_that_only_look_like_old_ones_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is now" not in refuse(capsys, "compare", "judge", "judge")  # a folder of that name
    assert "is now" not in refuse(capsys, "compare", "--", "--judge")
