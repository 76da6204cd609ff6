"""A hundred damaged or hostile model folders: no code runs, and each is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milr.errors import MilrError, UsageError
from milr.models import embedded_folder, received
from milr.models.received import check_config, drop_unsafe, read_index, read_json, read_tokenizer
from tests.robustness.rounds import ROUNDS

Damage = Callable[[Path], object]
WEIGHTS = "model.safetensors"


def copy_model(folder: Path) -> Path:
    """Return a copy of the embedded model; its weights are a link until a test changes them."""
    folder.mkdir()
    for path in embedded_folder().iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder / path.name)
    return folder


def replace(name: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).write_bytes(content)

    return damage


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the object in a JSON file."""

    def damage(folder: Path) -> None:
        described = json.loads((folder / name).read_text())
        change(described)
        replace(name, json.dumps(described).encode())(folder)

    return damage


def set_at(name: str, place: list[str], value: object) -> Damage:
    def change(described: dict[str, Any]) -> None:
        for key in place[:-1]:
            described = described[key]
        described[place[-1]] = value

    return edit(name, change)


def edit_weights(change: Callable[[bytes, bytes], bytes]) -> Damage:
    """Change the bytes of header and tensors."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        replace(WEIGHTS, change(content[8 : 8 + length], content[8 + length :]))(folder)

    return damage


def join(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + tensors


def change_header(change: Callable[[dict[str, Any]], object]) -> Damage:
    def rewrite(header: bytes, tensors: bytes) -> bytes:
        described = json.loads(header)
        change(described)
        return join(json.dumps(described).encode(), tensors)

    return edit_weights(rewrite)


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


def lay_traps(folder: Path) -> None:
    """Put code into every place from which any version of transformers has run code."""
    mark = folder.parent / "ran"
    for name in (
        "modeling_evil.py",
        "configuration_evil.py",
        "tokenization_evil.py",
        "conftest.py",
        "sitecustomize.py",
    ):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    for name in ("pytorch_model.bin", "model.pth", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap(str(mark))))
    kinds = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
    autos = {"auto_map": {kind: "modeling_evil.Evil" for kind in kinds}, "trust_remote_code": True}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            edit(name, lambda described: described.update(autos))(folder)


def set_kernel(folder: Path) -> None:
    """Name a kernel of the hub as the attention implementation, at every level of the config."""

    def change(described: dict[str, Any]) -> None:
        kernel = {"_attn_implementation": "kernels-community/evil", "attn_implementation": "evil/evil"}
        for part in (described, *(value for value in described.values() if isinstance(value, dict))):
            part.update({**kernel, "_attn_implementation_internal": "evil/evil", "experts_implementation": "evil/evil"})

    edit("config.json", change)(folder)


def _of_json(name: str) -> dict[str, Damage]:
    there = embedded_folder() / name
    content = there.read_bytes() if there.is_file() else b"{}"
    made = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "a list": b"[1]",
        "a number": b"7",
        "noise": b"\xff\xfe\x00" * 99,
    }
    made |= {"deep": b"[" * 200_000, "deep objects": b'{"a":' * 50_000, "null": b"null", "NULs": bytes(len(content))}
    return {f"{name}: {kind}": replace(name, bad) for kind, bad in made.items()}


def _of_config() -> dict[str, Damage]:
    """Return every fifth pair of a config key and an invalid value."""
    described = json.loads((embedded_folder() / "config.json").read_text())
    places = [[key] for key in described] + [
        [key, inner] for key, value in described.items() if isinstance(value, dict) for inner in value
    ]
    values: list[object] = [None, "x", -1, 0, 10**12, 1e300, [], {}, [[[]]], True, "\x1b[2J"]
    pairs = [(place, value) for place in places for value in values]
    chosen = random.Random(29).sample(pairs, min(len(pairs), 60 * ROUNDS))
    return {f"config: {'.'.join(place)} = {value!r}": set_at("config.json", place, value) for place, value in chosen}


BAD: dict[str, Damage] = {
    **_of_json("config.json"),
    **_of_json("tokenizer.json"),
    **_of_json("processor_config.json"),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "an index of numbers": lambda folder: (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": 1}}'),
    "an index without files": lambda folder: (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {}}'),
    "an index that leads out": lambda folder: (folder / f"{WEIGHTS}.index.json").write_text(
        '{"weight_map": {"a": "../../etc/passwd", "b": "/etc/passwd.safetensors"}}'
    ),
    "weights: empty": replace(WEIGHTS, b""),
    "weights: a pipe": lambda folder: ((folder / "config.json").unlink(), os.mkfifo(folder / "config.json")),
    "weights: cut": edit_weights(lambda header, tensors: join(header, tensors[: len(tensors) // 2])),
    "weights: a header of terabytes": edit_weights(lambda header, tensors: join(header, tensors, 2**42)),
    "weights: no header": edit_weights(lambda header, tensors: join(b"\xff" * len(header), tensors)),
    "weights: a deep header": edit_weights(lambda header, tensors: join(b"[" * 100_000, tensors)),
    "weights: a huge shape": change_header(lambda header: _first(header).update(shape=[2**40, 2**40])),
    "weights: offsets outside": change_header(lambda header: _first(header).update(data_offsets=[0, 2**50])),
    "weights: offsets backwards": change_header(lambda header: _first(header).update(data_offsets=[9, 1])),
    "weights: another type": change_header(lambda header: _first(header).update(dtype="X99")),
    "weights: one more": change_header(
        lambda header: header.update({"evil.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    ),
    "weights: NaN": edit_weights(lambda header, tensors: join(header, b"\xff" * len(tensors))),
    "milr.json: another grammar": set_at("milr.json", ["grammar"], "evil"),
    "milr.json: a list": replace("milr.json", b"[1]"),
    "milr.json: deep": replace("milr.json", b"[" * 200_000),
    **_of_config(),
}
HARMLESS: dict[str, Damage] = {"traps": lay_traps, "a kernel of the hub": set_kernel}


@pytest.mark.parametrize("name", ["traps", pytest.param("a kernel of the hub", marks=pytest.mark.slow)])
def test_code_beside_a_model_never_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milr.models import load_model

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody was asked"))
    folder = copy_model(tmp_path / "model")
    HARMLESS[name](folder)
    model = load_model(str(folder))
    assert not (tmp_path / "ran").exists()
    assert "evil" not in str(vars(model.network.config)) if hasattr(model, "network") else True


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 29])
def test_a_bad_folder_is_refused_in_one_line(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some config values do not affect the network; such a folder may load."""
    from milr.models import load_model

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody was asked"))
    faults: list[str] = []
    loaded = 0
    for name in list(BAD)[::step]:
        folder = copy_model(tmp_path / "model")
        BAD[name](folder)
        try:
            load_model(str(folder))
            loaded += 1
            if not name.startswith(("config: ", "milr.json: ")):
                faults.append(f"{name}: loads")
        except MilrError as error:
            if "\n" in str(error) or "\x1b" in str(error) or len(str(error)) > 1500:
                faults.append(f"{name}: {str(error)[:200]!r}")
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        shutil.rmtree(folder)
    print(f"{len(list(BAD)[::step])} bad folders, {loaded} of which load")
    assert not faults, "\n".join(faults)


BOUNDS = (
    # file, most bytes, and the function that reads it
    ("config.json", received.MOST_CONFIG, read_json),
    ("model.safetensors.index.json", received.MOST_INDEX, read_index),
    ("tokenizer.json", received.MOST_TOKENIZER, read_tokenizer),
)


@pytest.mark.parametrize(("name", "most", "read"), BOUNDS)
def test_each_kind_of_file_has_a_size_limit(
    name: str, most: int, read: Callable[[Path], object], tmp_path: Path
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(most + 1)
    for reader, path in ((read, tmp_path / name), (check_config, tmp_path)):
        with pytest.raises(UsageError, match=f"it has more than {most:,} bytes"):
            reader(path)


def test_small_lists_and_pipes_are_refused_before_a_library_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b'{"added_tokens":[' + b'{"":0},' * (received.MOST_LISTS + 1) + b"0]}")
    for reader, path in ((read_tokenizer, file), (check_config, tmp_path)):
        with pytest.raises(UsageError, match="it has more than 2,097,152 lists and objects"):
            reader(path)
    file.unlink()
    os.mkfifo(tmp_path / "merges.txt")
    with pytest.raises(UsageError, match="no regular file"):
        check_config(tmp_path)


def test_unsafe_keys_are_dropped_at_any_depth() -> None:
    config = {
        "a": 1,
        "auto_map": {"x": "y"},
        "b": [{"_attn_implementation": "x/y", "c": 2}],
        "_attn_implementation_internal": 3,
    }
    assert drop_unsafe(config) == {"a": 1, "b": [{"c": 2}]}
