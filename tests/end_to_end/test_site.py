"""Generated pages of the documentation site."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(("writer", "cells"), [("write_commands", 2), ("write_settings", 3)])
def test_every_row_of_a_generated_table_has_all_its_cells(writer: str, cells: int) -> None:
    text: str = runpy.run_path(str(ROOT / "docs" / "conf.py"))[writer]()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert not [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != cells + 1]
    assert not [row for row in rows if r"\\[" in row]  # markup of the terminal
