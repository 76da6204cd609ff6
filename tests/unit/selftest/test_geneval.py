"""`milr doctor geneval` without a required package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from milr.cli.main import main


@pytest.mark.parametrize("name", ["geneval", "geneval-hf"])
def test_doctor_without_scipy_prints_how_to_install_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)  # as if it were not installed
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    assert main(["doctor", name]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == "" and lines[0] == "WRONG scipy: is not installed"
    assert '  pip install "milr[geneval]"' in lines and lines[-1].startswith(f"{name}: ")
    assert any(line.startswith("?     self-test: not run before") for line in lines)
