"""Docstrings begin with a verb or a noun, and the word list of `make check` finds words that are not used here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CLAUSES = {"Of", "What", "Where", "Whether", "At", "How", "Which", "Who", "Whose", "As", "That", "Those", "If"}
"""First words of clauses: a docstring names a thing, or begins with a verb."""
GIVEN = {"If true", "If false"}
PERHAPS = re.compile(rf"[\"']\s*({'|'.join(sorted(CLAUSES))})\b")
"""Text that may begin such a docstring; to parse all files would take seconds."""


def read_docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.strip()


def begins_with_clause(text: str) -> bool:
    return text.split(" ")[0] in CLAUSES and not any(text.startswith(words) for words in GIVEN)


def test_no_docstring_begins_with_a_clause() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for folder in ("src", "tests", "bench", "experiments", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ROOT / "tests" / "cases" not in path.parents  # they stay as they were reported
        for source in [path.read_text(encoding="utf-8")]
        if PERHAPS.search(source)
        for text in read_docstrings(source)
        if begins_with_clause(text)
    ]
    assert not found


def test_clause_first_words_are_found() -> None:
    source = 'class Row:\n    """\n    What the row began with.\n    """\n'
    assert PERHAPS.search(source)
    assert [text for text in read_docstrings(source) if begins_with_clause(text)] == ["What the row began with."]
    assert not begins_with_clause("If true, the step has random streams of its own.")


@pytest.mark.parametrize("word", ["behind", "anew", "whoever"])
def test_the_word_list_finds_a_word(word: str, tmp_path: Path) -> None:
    pytest.importorskip("codespell_lib")
    (tmp_path / "page.md").write_text(f"A row goes on {word} a prefix.\n")
    command = [sys.executable, "-m", "codespell_lib", "--dictionary", str(ROOT / "docs" / "words.txt"), "page.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(rf"{word} ==> \w+", done.stdout), done
