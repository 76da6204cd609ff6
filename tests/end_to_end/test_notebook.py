"""The tutorial notebook, run cell by cell as a kernel does; `test_documents` checks its types."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from milr.models.janus import Janus

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, space: dict[str, Any]) -> object:
    """Run a cell; return the value of its last line, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_images(sibling: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the small sibling, which draws twice as fast as the embedded model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("milr.parts.load_model", lambda *names, **options: sibling)
    space: dict[str, Any] = {}
    shown = [run_cell(cell, space) for cell in CELLS]
    images = [value._repr_html_().count("<img ") for value in shown if hasattr(value, "_repr_html_")]
    assert images == [1, 1, 2, 1, 0]  # a result, a record, two results, a result, settings
    assert shown[-1] == 2 and len(space["results"]) == 2
    assert [one.image.tobytes() for one in space["interrupted"]] == [one.image.tobytes() for one in space["results"]]


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
