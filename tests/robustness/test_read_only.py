"""Runs on a read-only disk, or in folders without permission: reading works, and writing fails in one line."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.files import LOCK
from milr.runs import read_run
from tests.support.fake_benchmark import fakes
from tests.support.read_only import WAYS, run_apart

READ: Sequence[Sequence[str]] = (
    # run: the run; away: a folder to write to
    ("show", "{run}/tasks/{first}/best.png"),
    ("compare", "{run}", "{run}"),
    ("report", "{run}", "--out", "{away}/report.html"),
    ("doctor", "{run}"),
    ("pack", "{run}", "--out", "{away}"),
    ("unpack", "{packed}", "--pictures", "none", "--out", "{away}/unpacked"),
    ("export", "{run}", "--layout", "geneval", "--partial", "--out", "{away}/official"),
)
WRITE: Sequence[Sequence[str]] = (
    ("benchmark", "--resume", "{run}"),
    ("benchmark", "icons", "--limit", "1", "--out", "{root}/new"),
    ("benchmark", "icons", "--limit", "1", "--out", "{root}/empty"),
    ("generate", "a red apple", "--method", "one-shot", "--out", "{root}/new"),
    ("evaluate", "{run}", "--evaluator", "icons"),
    ("report", "{run}", "--out", "{root}/report.html"),
    ("pack", "{run}", "--out", "{root}/empty"),
    ("unpack", "{packed}", "--pictures", "none", "--out", "{root}/unpacked"),
    ("export", "{run}", "--layout", "geneval", "--partial", "--out", "{root}/official"),
    ("score-folder", "{away}/pictures", "--benchmark", "geneval", "--reward", "icons", "--out", "{root}/scores"),
    ("score-folder", "{away}/pictures", "--benchmark", "geneval", "--reward", "icons", "--out", "{root}/empty"),
)


def call(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command on fakes; return its exit code and what it printed."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err, fakes():
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def is_told(code: int, err: str, root: Path) -> bool:
    """Return true if one line says what could not be written, and nothing else does."""
    last = err.splitlines()[-1]
    said = "Read-only" in last or "Permission denied" in last
    once = err.count("error: ") == 1 and "Traceback" not in err
    return code in (1, 2) and last.startswith("error: ") and str(root) in last and said and once


@pytest.mark.slow
@pytest.mark.parametrize("lock", [True, False], ids=["with a lock file", "without"])
@pytest.mark.parametrize("way", WAYS)
def test_readers_of_a_run_need_no_write_permission_and_writers_say_so_in_one_line(
    way: str, lock: bool, tmp_path: Path
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    run = root / "run"
    options = ["--limit", "2", "--steps", "1", "--evaluator", "icons"]
    assert call(["benchmark", "icons", *options, "--out", str(run)])[0] == 0
    shutil.copytree(run, away / "run")
    assert call(["export", str(run), "--layout", "geneval", "--out", str(away / "pictures")])[0] == 0
    assert call(["pack", str(run), "--out", str(root)])[0] == 0
    (packed,) = root.glob("*.xz")
    first, second = sorted(path.name for path in (run / "tasks").iterdir())
    shutil.rmtree(run / "tasks" / second)  # so that there is something to go on with
    (root / "empty").mkdir()
    if lock:
        (run / LOCK).touch()
    else:
        (run / LOCK).unlink(missing_ok=True)
    places = {"run": run, "root": root, "away": away, "first": first, "packed": packed}

    def work() -> list[tuple[Sequence[str], int, str, str]]:
        WAYS[way](root)
        filled = [[word.format(**places) for word in words] for words in (*READ, *WRITE)]
        return [(words, *call(words)) for words in filled]

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    found = run_apart(work)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    for words, code, _, err in found[: len(READ)]:
        assert code == (words[0] == "doctor") and not err.count("error: "), (words, err)  # it says that a task is gone
    wrong = [(words, code, err) for words, code, _, err in found[len(READ) :] if not is_told(code, err, root)]
    assert not wrong
    assert len(read_run(run).tasks) == 1
