"""`milr data get` with a server on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from milr.benchmarks import fetch as fetching
from milr.benchmarks.fetch import FetchError, fetch
from milr.cli.main import main
from milr.errors import UsageError
from milr.sources import SOURCES, DataFile, Source

CONTENT = b"a green bench\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Return the address of a server with two files."""
    for name in ("first.txt", "second.txt"):
        (tmp_path / "there" / "folder").mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / "folder" / name).write_bytes(CONTENT)
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "there")))
    thread = Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Register a benchmark with one file of prompts and an evaluator, named "toy"."""
    known = hashlib.sha256(CONTENT).hexdigest()
    files = tuple(DataFile(name, f"folder/{name}", known) for name in ("first.txt", "second.txt"))
    made = Source("toy", "somebody/toy", "0" * 40, "MIT, (c) somebody", files[:1], files[1])
    monkeypatch.setitem(SOURCES, "toy", made)  # type: ignore[arg-type]
    return made


def test_files_are_fetched_once_and_only_under_a_licence_that_was_shown(
    server: str, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["data", "get", "toy", "--out", str(out), "--from", server]
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "licence: MIT, (c) somebody" in captured.out
    assert captured.err == "error: nothing was fetched: the licence was not accepted\n"
    assert not out.exists()
    monkeypatch.setattr("typer.confirm", lambda text: True)
    assert main(command) == 0
    assert capsys.readouterr().out.count("fetched: ") == 2
    assert sorted(path.name for path in out.iterdir()) == ["first.txt", "second.txt"]
    assert source.find(out) == out
    monkeypatch.setenv("MILR_DATA", str(tmp_path / "data"))
    with pytest.raises(UsageError, match="words in which the judge of toy is asked do not come with milr"):
        source.find_judge()
    assert main(["data", "get", "toy", "--from", server, "--accept-licence"]) == 0
    assert source.find_judge() == tmp_path / "data" / "toy" / "second.txt"
    capsys.readouterr()
    (out / "first.txt").write_text("changed")
    assert main([*command, "--accept-licence"]) == 0
    said = capsys.readouterr().out
    assert said.count("there already") == 1 and (out / "first.txt").read_bytes() == CONTENT


def test_a_file_that_is_not_the_known_one_is_not_kept(server: str, source: Source, tmp_path: Path) -> None:
    (tmp_path / "there" / "folder" / "second.txt").write_text("another file")
    with pytest.raises(FetchError, match="12 bytes that are not the known file .* nothing was kept"):
        list(fetch(source, tmp_path / "out", server))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first.txt"]
    (tmp_path / "there" / "folder" / "second.txt").unlink()
    with pytest.raises(FetchError, match="cannot fetch .*second.txt .404 File not found.*: try again later"):
        list(fetch(source, tmp_path / "out", server))


def test_a_failed_download_is_exit_code_1_and_an_interrupt_prints_the_next_command(
    server: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "get", "toy", "--out", str(tmp_path / "out"), "--accept-licence", "--from"]
    assert main([*command, f"{server}/nowhere"]) == 1
    assert "(404 File not found): try again later" in capsys.readouterr().err
    assert main([*command, "http://127.0.0.1:9"]) == 1
    assert "try again later, or fetch it by hand" in capsys.readouterr().err
    read = fetching.__dict__["_read_address"]

    def interrupt(address: str) -> bytes:
        if "second" in address:
            raise KeyboardInterrupt
        return read(address)

    monkeypatch.setattr(fetching, "_read_address", interrupt)
    assert main([*command, server]) == 130
    assert "interrupted; 1 of 2 files are there: type the same command to go on" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setitem(SOURCES, "toy", source)  # type: ignore[arg-type]
    assert main([*command, server]) == 0
    assert "there already" in capsys.readouterr().out


def test_only_https_leaves_this_machine(source: Source, tmp_path: Path) -> None:
    for address in ("http://example.org", "ftp://127.0.0.1", "file:///etc"):
        with pytest.raises(UsageError, match="begins with https://"):
            list(fetch(source, tmp_path / "out", address))
    assert not (tmp_path / "out").exists()
    assert all(known.address.startswith("https://") for known in SOURCES.values())


def test_the_known_hashes_are_those_of_the_published_files(shared_data: Path) -> None:
    folders = {"geneval": "geneval", "t2i-compbench": "t2i_compbench", "wise-legacy": "wise/legacy"}
    for name, folder in {**folders, "wise": "wise/verified"}.items():
        assert SOURCES[name].find(shared_data / folder) == shared_data / folder
