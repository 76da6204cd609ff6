"""Output files: what a command wrote is written again, and no other file is touched."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from milr.cli.main import main
from milr.report.tables import Format
from tests.support.report_runs import make_run, make_tasks

NOTES = "## Summary\n\nmy own notes\n"
THERE = "is there already with other content; nothing was overwritten: give --out another name"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the folders of two runs of the same tasks."""
    folder, tasks = tmp_path_factory.mktemp("runs"), make_tasks(2)
    made = [make_run(folder / str(seed), tasks=tasks, seed=seed, steps=0, method="best-of-n") for seed in (0, 1)]
    return [str(one) for one in made]


@pytest.mark.parametrize(
    ("command", "form"),
    [
        *(("compare", form) for form in get_args(Format)),
        *(("report", form) for form in (*get_args(Format), "html")),
        ("viewer", "html"),
    ],
)
def test_a_report_is_written_again_in_its_own_place_alone(
    command: str, form: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "html" and command == "report":
        pytest.importorskip("matplotlib", reason='the page needs pip install "milr[report]"')
    name, words = ("report", ["--viewer"]) if command == "viewer" else (command, ["--format", form])
    first, second = [name, runs[0]], [name, *(runs[1:] if command == "viewer" else runs)]
    out = tmp_path / "new" / "out"
    assert main([*first, *words, "--out", str(out)]) == 0
    before = out.read_bytes()
    assert main([*second, *words, "--out", str(out)]) == 0 and out.read_bytes() != before
    notes, other = tmp_path / "notes.md", tmp_path / "other"
    notes.write_text(NOTES)
    other.write_text("[]\n" if form != "json" else "table\n")
    for file in (notes, other):
        content = file.read_bytes()
        capsys.readouterr()
        assert main([*second, *words, "--out", str(file)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {file} {THERE}"
        assert file.read_bytes() == content


def test_a_page_is_not_written_in_the_place_of_another_page(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "index.html"
    page.write_text('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Mine</title>\n')
    assert main(["report", runs[0], "--viewer", "--out", str(page)]) == 2
    assert THERE in capsys.readouterr().err
    assert "Mine" in page.read_text()


def test_an_empty_file_is_filled_and_a_device_written_to(runs: list[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for out in (empty, Path("/dev/null")):
        assert main(["compare", *runs, "--out", str(out)]) == 0
    assert empty.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "htm"], "unknown format 'htm': did you mean 'html'?"),
        (["--viewer", "--format", "md"], "--viewer writes one run's page: leave --format and --data out"),
        (["--viewer", "--data", "."], "--viewer writes one run's page: leave --format and --data out"),
    ],
)
def test_a_report_refuses_a_form_that_it_does_not_have(
    words: list[str], said: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", runs[0], *words, "--out", str(tmp_path / "page.html")]) == 2
    assert said in capsys.readouterr().err
