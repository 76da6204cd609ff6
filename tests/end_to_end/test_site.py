"""Generated pages of the documentation site, and names in the changelog."""

from __future__ import annotations

import pkgutil
import re
import runpy
from typing import Any

import pytest

import milr
from milr.cli.main import _build_parser  # pyright: ignore[reportPrivateUsage]
from tests.support.paths import ROOT


@pytest.mark.parametrize(("writer", "cells"), [("write_commands", 2), ("write_settings", 3)])
def test_every_row_of_a_generated_table_has_all_its_cells(writer: str, cells: int) -> None:
    text: str = runpy.run_path(str(ROOT / "docs" / "conf.py"))[writer]()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert not [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != cells + 1]
    assert not [row for row in rows if r"\\[" in row]  # markup of the terminal


EXAMPLES = {"--help", "--install-completion", "--texts", "--total-"}
"""Options of every command, of a plug-in in an example, and the beginning of several."""


def list_options(command: Any) -> set[str]:
    below = getattr(command, "commands", {}).values()
    own = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return own.union(*map(list_options, below))


@pytest.mark.slow
def test_the_changelog_names_what_exists() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Renamed")[0]
    parser = _build_parser()
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= list_options(parser) | EXAMPLES
    assert set(re.findall(r"`milr ([a-z][a-z-]+)", text)) <= set(parser.commands)
    paths = re.findall(r"`((?:docs|examples|tests|training|bench|experiments)/[\w./-]+)`", text)
    assert paths and not [path for path in paths if not (ROOT / path).exists()]
    for name in set(re.findall(r"`(milr(?:\.\w+)+)", text)) - {"milr.json"}:
        pkgutil.resolve_name(name)


def test_an_attributes_description_keeps_the_text_before_its_colon() -> None:
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    lines = ["The best image so far: value first.", "Then parts."]
    runpy.run_path(str(ROOT / "docs" / "conf.py"))["keep_colon"](None, "attribute", "milr.Task", None, None, lines)
    parsed = napoleon.GoogleDocstring(lines, napoleon.Config(), what="attribute", name="milr.Task").lines()
    assert " ".join(parsed).split() == ["The", "best", "image", "so", "far:", "value", "first.", "Then", "parts."]


@pytest.mark.parametrize(
    ("written", "shown"),
    [("[CONTRIBUTING.md](../CONTRIBUTING.md)", "`CONTRIBUTING.md`"), ("[a card](../NOTICE)", "a card (`NOTICE`)")],
)
def test_a_file_outside_the_site_is_named_once(written: str, shown: str) -> None:
    source = [written]
    runpy.run_path(str(ROOT / "docs" / "conf.py"))["read_source"](None, "index", source)
    assert source == [shown]


def test_a_class_with_fields_has_no_signature() -> None:
    shorten = runpy.run_path(str(ROOT / "docs" / "conf.py"))["shorten_signature"]
    assert shorten(None, "class", "milr.RunSettings", milr.RunSettings, None, "(*, seed=0)", "") == ("", None)
    assert shorten(None, "class", "milr.StepRecord", milr.StepRecord, None, "(task)", "") == ("", None)
    assert shorten(None, "function", "milr.search", milr.search, None, "(tasks)", "") is None
