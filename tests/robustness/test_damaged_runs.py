"""Forty kinds of damage to a run, for every command that reads one: one line each, no traceback, no silent change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from milr.cli.main import main
from tests.robustness.rounds import ROUNDS
from tests.support.fake_benchmark import fakes

Damage = Callable[[Path], object]
"""A kind of damage; it receives the run's folder."""


def task(run: Path) -> Path:
    """Return the run's first task."""
    return next(path for path in sorted((run / "tasks").iterdir()) if path.name.startswith("0000-"))


FILES: dict[str, Callable[[Path], Path]] = {
    "run.json": lambda run: run / "run.json",
    "records": lambda run: task(run) / "records.jsonl",
    "verdicts": lambda run: task(run) / "evaluated.jsonl",
    "best image": lambda run: _best(run),
    "strip": lambda run: task(run) / "strip.png",
}


def _best(run: Path) -> Path:
    """Return the image that is the first task's answer."""
    records = (task(run) / "records.jsonl").read_text().splitlines()
    return task(run) / json.loads(records[-2])["best"]["file"]


def _replace(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def _link_out(path: Path) -> None:
    """Move a file out of the run and replace it by a link."""
    outside = next(parent for parent in path.parents if parent.name == "r").parent / f"outside-{path.name}"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


OF_ANY_FILE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: _replace(path, None),
    "empty": lambda path: _replace(path, b""),
    "NULs": lambda path: _replace(path, bytes(path.stat().st_size)),
    "cut in half": lambda path: _replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: _replace(path, bytes(range(256)) * 8),
    "a folder": _folder,
    "a pipe": _pipe,
    "a link out": _link_out,
}


def _edit(file: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(run: Path) -> None:
        path = FILES[file](run)
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before

    return damage


def _line(file: str, place: int) -> Damage:
    """Remove a line; the last one is the end mark."""

    def change(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        del lines[place]
        return b"".join(lines)

    return _edit(file, change)


def _set(**values: object) -> Damage:
    """Change values of run.json."""
    return _edit("run.json", lambda content: json.dumps({**json.loads(content), **values}).encode())


DAMAGE: dict[str, Damage] = {
    **{
        f"{file}: {kind}": lambda run, file=file, change=change: change(FILES[file](run))
        for file in FILES
        for kind, change in OF_ANY_FILE.items()
    },
    "records: first line lost": _line("records", 0),
    "records: last step lost": _line("records", -2),
    "records: last step and mark lost": lambda run: (_line("records", -1)(run), _line("records", -1)(run)),
    "records: a line twice": _edit("records", lambda content: content.splitlines(keepends=True)[0] + content),
    "records: a digit of a value": _edit("records", lambda content: content.replace(b'"value":', b'"value":0.0', 1)),
    "records: a digit of a token": _edit("records", lambda content: content.replace(b"1", b"2", 1)),
    "records: deep": lambda run: FILES["records"](run).write_bytes(b"[" * 100_000),
    "records: a long number": lambda run: FILES["records"](run).write_bytes(b'{"step": ' + b"9" * 10_000 + b"}\n"),
    "records: another task's": lambda run: shutil.copy(
        sorted((run / "tasks").iterdir())[-1] / "records.jsonl", FILES["records"](run)
    ),
    "verdicts: a line lost": _line("verdicts", 0),
    "verdicts: a line and the mark lost": lambda run: (_line("verdicts", -1)(run), _line("verdicts", 0)(run)),
    "verdicts: another evaluator's": _edit("verdicts", lambda content: content.replace(b"icons@1", b"icons@9")),
    "run.json: no tasks": _set(tasks=[]),
    "run.json: other places": _set(places=[0, 0, 0]),
    "run.json: a benchmark that is none": _set(benchmark="\x1b[2Jnone"),
    "run.json: a method that is none": _set(settings={"method": "none"}),
    "run.json: a million images a prompt": _set(images_per_prompt=10**9),
    "run.json: of a later version": _set(format=3),
    "run.json: numbers that are none": _set(drawings=-1, seconds="NaN"),
    "run.json: a list": lambda run: (run / "run.json").write_text("[1]"),
    "images gone": lambda run: shutil.rmtree(task(run) / "steps"),
    "task empty": lambda run: (shutil.rmtree(task(run)), (run / "tasks" / "0000-0123456789abcdef").mkdir()),
    "task of another name": lambda run: task(run).rename(run / "tasks" / "0001-0123456789abcdef"),
    "tasks is a file": lambda run: (shutil.rmtree(run / "tasks"), (run / "tasks").write_text("")),
    "a task gone": lambda run: shutil.rmtree(task(run)),
    "tasks a link out": lambda run: (
        shutil.move(run / "tasks", run.parent / "outside-tasks"),
        (run / "tasks").symlink_to(run.parent / "outside-tasks"),
    ),
    "tasks gone": lambda run: shutil.rmtree(run / "tasks"),
    "a stray folder and file": lambda run: (
        shutil.copytree(task(run), run / "tasks" / "0000-copy"),
        (run / "tasks" / "notes.txt").write_text("mine"),
    ),
    "the lock is a folder": lambda run: ((run / "lock").unlink(missing_ok=True), (run / "lock").mkdir()),
    "the page is a folder": lambda run: ((run / "index.html").unlink(), (run / "index.html").mkdir()),
}
HARMLESS = (
    *(f"strip: {kind}" for kind in OF_ANY_FILE),
    "run.json: other places",
    "a stray folder and file",
    "the lock is a folder",
    "the page is a folder",
)
"""Damage to parts from which no number, image or verdict is read."""
COMMANDS: dict[str, list[str]] = {
    "compare": ["compare", "r", "--format", "json"],
    "report": ["report", "r", "--format", "json"],
    "page": ["report", "r", "--out", "page.html"],
    "export": ["export", "r", "--layout", "geneval", "--partial", "--out", "exported"],
    "pack": ["pack", "r", "--out", "packed"],
    "compact": ["pack", "r", "--compact", "--out", "packed"],
    "evaluate": ["evaluate", "r", "--evaluator", "icons"],
    "doctor": ["doctor", "r"],
    "status": ["status", "r", "--verbose"],
    "index": ["index", "."],
    "show": ["show", "{best}"],
    "resume": ["benchmark", "--resume", "r"],
}
NAMES = ("run.json: a benchmark that is none", "run.json: a method that is none")
"""Damage that changes a run's description and no number."""
TABLES = ("compare", "report")
SAID = ("set aside: ", "left out: ", "are missing", "error: ")
"""Messages which say that numbers are not from the whole run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run `r`: three tasks and an evaluator."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["--limit", "3", "--steps", "1", "--reward", "icons-soft", "--evaluator", "icons", "--stop-at", "1"]
    with fakes():
        assert main(["benchmark", "icons", *words, "--out", str(folder / "r")]) == 0
    return folder


REPORTED = ("records: empty", "records: NULs", "records: gone", "images gone", "a stray folder and file")
"""Damage that once made commands fail, and that a user met: every command sees it, and the run can be resumed."""
QUICK = ("compare", "export", "resume")
"""Commands that the fast tests try, with a few kinds of damage."""
CASES = [
    # Each kind for two commands, those that were reported for all. `make fuzz` tries all kinds for all.
    *(pytest.param(command, 1 if ROUNDS > 1 else len(COMMANDS) // 2, marks=pytest.mark.slow) for command in COMMANDS),
    *((command, 14) for command in QUICK),
]


@pytest.mark.parametrize(("command", "step"), CASES)
def test_every_command_says_in_a_line_what_is_damaged(
    command: str,
    step: int,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults: list[str] = []
    kinds = list(DAMAGE)[list(COMMANDS).index(command) % step :: step]
    if step < 14:
        kinds = list(dict.fromkeys((*REPORTED, *kinds)))
    capsys.readouterr()
    usual = ""
    for kind in ["nothing", *kinds]:
        folder = tmp_path / "case"
        shutil.copytree(whole, folder, symlinks=True)
        monkeypatch.chdir(folder)
        words = [word.format(best=_best(folder / "r")) for word in COMMANDS[command]]
        DAMAGE.get(kind, lambda run: None)(folder / "r")
        kept = {path: path.stat().st_ino for path in tmp_path.rglob("outside*")}
        try:
            with fakes():
                code = main(words)
        except Exception as error:
            faults.append(f"{kind}: {type(error).__name__}: {error}")
            code = 2
        said = capsys.readouterr()
        if command == "doctor" and code == 0 and kind not in (*HARMLESS, *NAMES, "nothing"):
            faults.append(f"{kind}: the doctor finds nothing")
        if kind == "nothing":
            assert code == 0, said.err
            usual = said.out
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        if command == "resume" and kind in REPORTED and code != 0:
            faults.append(f"{kind}: resuming does not go on: {said.err[-300:]!r}")
        if command in ("evaluate", "export", "pack") and kind in REPORTED and "cannot write" in said.err:
            faults.append(f"{kind}: says that it cannot write")
        if code == 2 and not errors:
            faults.append(f"{kind}: exit code 2, and nothing said")
        if (
            command in TABLES
            and kind not in NAMES
            and said.out != usual
            and not any(words in said.err for words in SAID)
        ):
            faults.append(f"{kind}: other numbers, and nothing said")
        if "\x1b" in said.out + said.err or len(errors) > 1 or any(len(line) > 1500 for line in errors):
            faults.append(f"{kind}: said too much: {said.err[-300:]!r}")
        if kept != {path: path.stat().st_ino for path in tmp_path.rglob("outside*")}:
            faults.append(f"{kind}: something outside was changed")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    print(f"{command}: {len(kinds)} kinds of damage")
    assert not faults, "\n".join(faults)
