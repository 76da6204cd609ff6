"""The Python code in README, CONTRIBUTING and docs runs as printed; they pass a strict type checker."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import milr
from milr.models.janus import Janus
from tests.end_to_end.test_notebook import CELLS
from tests.support.paths import GOLDEN, ROOT
from tests.support.vlm_servers import JudgeServer, say

BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
BLOCKS = {
    f"{path.relative_to(ROOT)}#{place}": text
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for place, text in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
}
SERVED = "docs/tutorials/serve.md#0"
"""Needs a server; `tests/serve/test_tutorial.py` runs it."""
SOURCE = "docs/method.md#0"
"""Not a program, but the method's source in `milr.methods.milr`."""


def test_documents_have_examples() -> None:
    assert {"README.md#0", "CONTRIBUTING.md#0", "docs/methods.md#0", SOURCE} <= set(BLOCKS)


def test_the_reference_has_all_that_is_public() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. auto\w+:: milr\.(\w+)$", page, re.M))
    assert listed == set(milr.__all__) - {"__version__"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {SOURCE, SERVED}))
def test_an_example_runs(
    name: str, sibling: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the small sibling, which draws twice as fast as the embedded model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(milr.__dict__, "load_model", lambda name="embedded": sibling)
    monkeypatch.setattr(sibling, "defaults", {**sibling.defaults, "steps": 1})
    # Names that an example may use: images of the icon world, tasks, and a server.
    space: dict[str, Any] = {
        "images": [Image.open(GOLDEN / "apple_and_clock.png").convert("RGB")],
        "tasks": milr.tasks_from_prompts("a red apple"),
        "__name__": "__main__",
    }
    with JudgeServer(say("Final Score: 4")) as server:
        exec(compile(BLOCKS[name].replace("http://localhost:8000/v1", server.url), name, "exec"), space)
    if name == "README.md#0":
        with Image.open("best.png") as best:
            assert best.width == sibling.capabilities.image_size
        assert capsys.readouterr().out.startswith("StepRecord('four orange cats', step 0, scores ")
    if name == "docs/rewards.md#0":
        assert isinstance(space["scores"][0], milr.Score)


def test_the_printed_method_equals_its_source() -> None:
    from milr.methods.milr import milr as method

    real = ast.parse(inspect.getsource(method)).body[0]
    assert isinstance(real, ast.FunctionDef)
    real.body = real.body[1:]  # its docstring
    assert ast.unparse(ast.parse(BLOCKS[SOURCE])) == ast.unparse(real)


GIVEN = """
from PIL import Image
from milr import Task
images: list[Image.Image] = []
tasks: list[Task] = []
"""
"""Names that an example of rewards takes for given."""


@pytest.mark.slow
def test_examples_and_the_notebook_pass_a_strict_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    plain = str.maketrans("/.#-", "____")
    for name in set(BLOCKS) - {SOURCE}:
        given = GIVEN if name == "docs/rewards.md#0" else ""
        (tmp_path / f"{name.translate(plain)}.py").write_text(given + BLOCKS[name])
    (tmp_path / "tutorial.py").write_text("\n".join(["# pyright: reportUnusedExpression=false", *CELLS]))
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
