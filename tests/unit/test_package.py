"""The package as users see it: names, help, `python -m milr`, URLs."""

from __future__ import annotations

import pydoc
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest

import milr
from milr.methods.context import Method
from tests.support.paths import ROOT


def test_dir_lists_the_public_names_and_all_of_them_exist() -> None:
    assert dir(milr) == sorted(milr.__all__)
    assert all(getattr(milr, name) is not None for name in milr.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        milr.serach  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            lambda: milr.MilrSettings,
            [
                "steps (int, default 20): K: a task",
                "strategy (str, default 'joint'): Schedule that says which latents",
            ],
        ),
        (lambda: milr.StepRecord, ["best_score (Score | Unscored): Its score.", "trace (LatentTrace | None, default"]),
        (lambda: milr.Task, ["prompt (str): The prompt", "explanation (str | None, default None): Meaning of the"]),
        (lambda: milr.Reward, ["name (str): Name and versions", "stop_at (float): The paper's stop value"]),
    ],
)
def test_help_says_what_each_field_is(kind: Callable[[], type], lines: list[str]) -> None:
    text = pydoc.plain(pydoc.render_doc(kind()))
    assert all(line in text for line in lines), text
    assert text.count("Attributes:") == 1


def test_every_public_field_says_what_it_is() -> None:
    kinds = [kind for name in milr.__all__ if isinstance(kind := getattr(milr, name), type)]
    listed = [line for kind in kinds for line in (kind.__doc__ or "").partition("Attributes:\n")[2].splitlines()]
    assert len(listed) > 60
    assert not [line for line in listed if line.strip() and "): " not in line]


def test_a_method_is_loaded_by_name() -> None:
    assert isinstance(milr.load_method("parm"), Method)


@pytest.mark.slow
def test_milr_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "milr", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"milr {milr.__version__}\n")


def test_the_project_names_its_paper() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Paper"] == "https://arxiv.org/abs/2509.22761"
