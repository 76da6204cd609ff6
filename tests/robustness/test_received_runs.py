"""Received runs with harmful names, links and paths: no code runs, nothing is overwritten or written outside."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milr.cli.main import main
from milr.runs import pack_run, read_run
from tests.support.fake_benchmark import fakes

Change = Callable[[dict[str, Any]], object]
"""A function that changes a manifest or a packed task."""


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run `r` and its packed form."""
    folder = tmp_path_factory.mktemp("received")
    words = ["--limit", "2", "--steps", "1", "--reward", "icons-soft", "--evaluator", "icons", "--stop-at", "1"]
    with fakes():
        assert main(["benchmark", "icons", *words, "--out", str(folder / "r")]) == 0
    (folder / "r.run.xz").write_bytes(pack_run(read_run(folder / "r")))
    (folder / "victim").mkdir()
    for name in ("x.png", "run.json", "notes.txt"):
        (folder / "victim" / name).write_text("mine")
    (folder / "evil.py").write_text("open('ran', 'w')\ndef make(*a, **k): open('ran', 'w')\n")
    return folder


@pytest.fixture
def place(received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder."""
    folder = tmp_path / "here"
    shutil.copytree(received, folder)
    monkeypatch.chdir(folder)
    return folder


def set_all(code: str) -> Change:
    """Put the name of some code into every field of a run that names something loadable."""

    def change(manifest: dict[str, Any]) -> None:
        for name in ("benchmark", "model_asked", "model", "model_folder", "reward_asked", "evaluator_asked", "profile"):
            manifest[name] = code
        manifest["settings"]["method"] = code
        manifest["data"] = code

    return change


COMMANDS = (
    ["compare", "r"],
    ["report", "r", "--out", "page.html"],
    ["export", "r", "--layout", "geneval", "--partial", "--out", "exported"],
    ["evaluate", "r", "--evaluator", "icons"],
    ["benchmark", "--resume", "r"],
    ["generate", "--resume", "r"],
    ["pack", "r", "--out", "packed"],
    ["doctor", "r"],
    ["unpack", "r.run.xz", "--out", "unpacked"],
    ["unpack", "r.run.xz", "--out", "unpacked", "--pictures", "none"],
    ["compare", "r.run.xz"],
)


MORE = ("./evil.py:make", "evil:make", "mix:evil.py:make*0.5+icons*0.5")


@pytest.mark.parametrize("code", ["evil.py:make", *(pytest.param(code, marks=pytest.mark.slow) for code in MORE)])
def test_code_that_a_run_names_is_not_loaded(
    code: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(place))
    manifest = json.loads((place / "r" / "run.json").read_text())
    set_all(code)(manifest)
    (place / "r" / "run.json").write_text(json.dumps(manifest))
    first, *rest = lzma.decompress((place / "r.run.xz").read_bytes()).splitlines()
    packed = json.loads(first)
    set_all(code)(packed["manifest"])
    packed["manifest"]["data"] = None
    (place / "r.run.xz").write_bytes(lzma.compress(b"\n".join((json.dumps(packed).encode(), *rest))))
    for words in COMMANDS:
        main(words)
        assert not (place / "ran").exists(), words
    assert "Traceback" not in capsys.readouterr().err


NAMES = (
    "../victim/x.png",
    "/etc/passwd",
    "steps/../../../../victim/x.png",
    "steps/00-0.png/../../x.png",
    "steps/a.png",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_image_of_another_name_is_refused_before_anything_is_written(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, line, *rest = lzma.decompress((place / "r.run.xz").read_bytes()).splitlines()
    task = json.loads(line)
    old = task["steps"][-1]["best"]
    changed = json.dumps(task).replace(json.dumps(old), json.dumps(name)).encode()
    (place / "r.run.xz").write_bytes(lzma.compress(b"\n".join((first, changed, *rest))))
    assert main(["unpack", "r.run.xz", "--out", "unpacked"]) == 2
    assert "is no packed run" in capsys.readouterr().err and not (place / "unpacked").exists()


def test_nothing_is_overwritten_and_a_link_is_not_followed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "unpacked").mkdir()
    (place / "unpacked" / "r").symlink_to(place / "victim")
    assert main(["unpack", "r.run.xz", "--out", "unpacked", "--pictures", "none"]) == 2
    assert main(["export", "r", "--layout", "geneval", "--out", "victim"]) == 2
    (place / "r" / "lock").unlink(missing_ok=True)
    (place / "r" / "lock").symlink_to(place / "victim" / "notes.txt")
    with fakes():
        assert main(["benchmark", "--resume", "r"]) == 2
    (place / "r" / "lock").unlink()
    for name in ("run.json.part", "index.html", "index.html.part"):
        (place / "r" / name).unlink(missing_ok=True)
        (place / "r" / name).symlink_to(place / "victim" / "notes.txt")
    with fakes():
        assert main(["benchmark", "--resume", "r"]) == 0
    assert {path.name: path.read_text() for path in (place / "victim").iterdir()} == dict.fromkeys(
        ("x.png", "run.json", "notes.txt"), "mine"
    )
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("pictures", ["none", pytest.param("ends", marks=pytest.mark.slow)])
def test_an_unpacked_run_is_read_by_every_command_or_refused_in_a_line(
    pictures: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from milr.testing import FakeModel

    monkeypatch.setattr("milr.models.load_model", lambda *names, **options: FakeModel())
    assert main(["unpack", "r.run.xz", "--out", "unpacked", "--pictures", pictures]) == 0
    shutil.rmtree("r")
    shutil.move("unpacked/r", "r")
    capsys.readouterr()
    for words in COMMANDS[:8]:
        with fakes():
            code = main(words)
        said = capsys.readouterr().err
        assert "error: " in said if code == 2 else code in (0, 1, 3), (words, said)
