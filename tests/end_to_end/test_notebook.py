"""The tutorial notebook, run cell by cell as a kernel does, and checked as a script in pyright's strict mode."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, space: dict[str, Any]) -> object:
    """Run a cell; return the value of its last line, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    shown = [run_cell(cell, space) for cell in CELLS]
    images = [value._repr_html_().count("<img ") for value in shown if hasattr(value, "_repr_html_")]
    assert images == [1, 1, 2, 1, 0]  # a result, a record, two results, a result, settings
    assert shown[-1] == 2 and len(space["results"]) == 2
    assert [one.image.tobytes() for one in space["interrupted"]] == [one.image.tobytes() for one in space["results"]]


@pytest.mark.slow
def test_the_notebook_passes_pyright(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    (tmp_path / "tutorial.py").write_text("\n".join(CELLS))
    settings = {"typeCheckingMode": "strict", "reportUnusedExpression": "none", "extraPaths": [str(ROOT / "src")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
