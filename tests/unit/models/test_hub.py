"""Checkpoints by hub name, with a hub on this machine: sizes, consent, cache, offline use."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

from milr.errors import UsageError
from milr.models.hub import LORA, PIPELINES, Download, NotConfirmed, find_at_hub, parse_hub_name

NAME = "someone/Janus-Tiny"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "modeling.py": b"raise SystemExit",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
    "model-1.safetensors": b"a" * 700,
    "model-2.safetensors": b"b" * 300,
}
COMMIT = "1234567890123456789012345678901234567890"


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's API that finding and fetching a model needs."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    gated: ClassVar[bool] = False
    """True if files are for keys alone."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        revision = next((part for part in ("main", "v2", COMMIT) if f"/{part}" in path), None)
        if not path.startswith(("/api/models/" + NAME, "/" + NAME)):
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/revision/" in path and revision is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            described = {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self.send(200, json.dumps(tree if "/tree/" in path else described).encode(), {})
        elif self.gated and not self.headers.get("Authorization"):
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            data = self.files[path.split("/resolve/")[1].split("/", 1)[1]]
            etag = hashlib.sha1(data).hexdigest()
            self.send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """Return the hub, with an empty cache."""
    Hub.files, Hub.asked, Hub.gated = dict(FILES), [], False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def name(text: str = NAME):
    parsed = parse_hub_name(text)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize("text", ["embedded", "/a/b", "./a", "../a", "a/b/c", "a b/c", "a/", ""])
def test_names_that_are_not_hub_names(text: str) -> None:
    assert parse_hub_name(text) is None


def test_a_name_has_a_repository_and_a_revision() -> None:
    assert (name("org/x-1.5").repository, name("org/x-1.5").revision) == ("org/x-1.5", None)
    assert (name("org/x@refs/pr/3").repository, name("org/x@refs/pr/3").revision) == ("org/x", "refs/pr/3")
    assert str(name("org/x@v2")) == "org/x@v2"


def test_a_checkpoint_is_fetched_once_agreed_and_then_read_from_the_cache(hub: type[Hub]) -> None:
    shown: list[Download] = []

    def agree(download: Download) -> bool:
        shown.append(download)
        return True

    folder = find_at_hub(name(), confirm=agree)
    fetched = set(FILES) - {"modeling.py"}  # code is not fetched
    assert {path.name for path in folder.iterdir()} == fetched
    assert (folder / "model-1.safetensors").read_bytes() == FILES["model-1.safetensors"]
    (download,) = shown
    assert download.size == sum(len(FILES[file]) for file in fetched)
    assert download.said == f"{NAME}: 5 files, 0.00 GB"
    hub.asked.clear()
    assert find_at_hub(name()) == folder
    assert find_at_hub(name(), offline=True) == folder
    assert hub.asked == []


def test_nothing_is_fetched_before_the_user_agrees(hub: type[Hub]) -> None:
    with pytest.raises(NotConfirmed, match=r"someone/Janus-Tiny: 5 files.* type milr fetch someone/Janus-Tiny --yes"):
        find_at_hub(name())
    assert not any(line.startswith("GET") and "/resolve/" in line for line in hub.asked)


def test_a_partly_fetched_checkpoint_is_not_used_and_only_the_rest_is_counted(hub: type[Hub]) -> None:
    small = find_at_hub(name(), weights=())
    assert {path.name for path in small.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    shown: list[Download] = []

    def see(download: Download) -> bool:
        shown.append(download)
        return False

    with pytest.raises(NotConfirmed):
        find_at_hub(name(), confirm=see)
    assert shown[0].size == 1000  # the two shards


def test_a_revision_is_fetched_by_its_name(hub: type[Hub]) -> None:
    folder = find_at_hub(name(f"{NAME}@v2"), confirm=lambda download: True)
    assert folder.name == COMMIT
    assert any("/revision/v2" in line for line in hub.asked)
    with pytest.raises(UsageError, match="has no revision 'v9'"):
        find_at_hub(name(f"{NAME}@v9"), confirm=lambda download: True)


def test_an_unknown_name_is_refused(hub: type[Hub]) -> None:
    with pytest.raises(UsageError, match="the hub has no model of that name"):
        find_at_hub(name("someone/other"))


@pytest.mark.parametrize("switch", ["flag", "environment"])
def test_offline_mode_sends_no_request(hub: type[Hub], monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    if switch == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="offline mode is on"):
        find_at_hub(name(), offline=switch == "flag")
    assert hub.asked == []


def test_pickles_are_refused_with_the_command_that_converts_them(hub: type[Hub]) -> None:
    hub.files = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(UsageError, match=r"type milr convert janus someone/Janus-Tiny NEW_FOLDER"):
        find_at_hub(name(), confirm=lambda download: True)
    folder = find_at_hub(name(), weights=(".safetensors", ".bin"), confirm=lambda download: True)
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"


def test_a_hub_that_cannot_be_reached_is_one_line(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="the hub could not be asked") as caught:
        find_at_hub(name(), confirm=lambda download: True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b"[]", b"{}", b'{"siblings": 7, "id": 7}', b"\xff", b"[" * 90_000]
)
def test_a_hub_that_answers_something_else_is_one_line(
    body: bytes, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "do_GET", lambda self: self.send(200, body, {}))
    with pytest.raises(UsageError) as caught:
        find_at_hub(name(), confirm=lambda download: True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


PIPELINE = {
    "model_index.json": b"{}",
    "README.md": b"",
    "pipeline.py": b"raise SystemExit",
    "one_file.safetensors": b"c" * 900,
    "vae/config.json": b"{}",
    "vae/model.safetensors": b"a" * 50,
    "vae/model.fp16.safetensors": b"a" * 25,
    "tokenizer/merges.txt": b"",
    "transformer/config.json": b"{}",
    "transformer/model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
    "transformer/model-1.safetensors": b"a" * 70,
    "transformer/model-2.safetensors": b"b" * 30,
}


def test_a_pipeline_is_its_components_without_other_copies_and_code(hub: type[Hub]) -> None:
    hub.files = dict(PIPELINE)
    small = find_at_hub(name(), weights=(), layout=PIPELINES)
    assert not any(path.suffix == ".safetensors" for path in small.rglob("*"))
    with pytest.raises(NotConfirmed, match=r"8 files, 0.00 GB .* type milr fetch diffusers:someone/Janus-Tiny --yes"):
        find_at_hub(name(), layout=PIPELINES)
    folder = find_at_hub(name(), layout=PIPELINES, confirm=lambda download: download.size == 150)
    left_out = {"README.md", "pipeline.py", "one_file.safetensors", "vae/model.fp16.safetensors"}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == set(PIPELINE) - left_out
    assert find_at_hub(name(), layout=PIPELINES, offline=True) == folder
    (folder / "vae" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="nor whole in the hub's cache"):
        find_at_hub(name(), layout=PIPELINES, offline=True)


def test_another_kind_of_checkpoint_is_named_before_it_is_fetched(hub: type[Hub]) -> None:
    with pytest.raises(UsageError, match=r"has no model_index.json at the hub: it is another kind of checkpoint"):
        find_at_hub(name(), layout=PIPELINES)
    with pytest.raises(UsageError, match=r"has no adapter_config.json at the hub"):
        find_at_hub(name(), layout=LORA)


@pytest.mark.parametrize("files", [FILES, PIPELINE])
def test_a_gated_name_needs_a_key_before_gigabytes_are_asked_for(hub: type[Hub], files: dict[str, bytes]) -> None:
    hub.files, hub.gated = dict(files), True
    layout = PIPELINES if "model_index.json" in files else None
    for weights in ((), (".safetensors",)):
        with pytest.raises(UsageError, match="asks for an agreement at the hub: give it there, then set HF_TOKEN"):
            options = {} if layout is None else {"layout": layout}
            find_at_hub(name(), weights=weights, confirm=lambda download: True, **options)  # pyright: ignore
    assert not any("GET" in line and "safetensors" in line and "/resolve/" in line for line in hub.asked)
