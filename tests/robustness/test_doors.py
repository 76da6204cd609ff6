"""Limits on outside input: how much is read, which formats, where files are written, which characters are printed."""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from milr import untrusted
from milr.cli.screen import Screen, echo
from milr.files import write_bytes
from milr.rewards.images.files import UnreadableImage, decode_image, read_image
from milr.untrusted import UntrustedError, one_line, printable, read_file, read_packed_lines, resolve_inside


def make_png(width: int, height: int) -> bytes:
    """Return a black PNG with one bit per pixel: a few kilobytes at any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + -(-width // 8))) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_an_image_of_too_many_pixels_is_refused_before_one_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = make_png(13_000, 13_000)  # 169 megapixels
    assert len(bomb) < 30_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(UnreadableImage, match="13000 x 13000 pixels, more than"):
        decode_image(bomb)


@pytest.mark.slow
def test_a_webp_may_have_half_as_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("L", (8000, 5000)).save(content, "WEBP", lossless=True, method=0)
    assert len(content.getvalue()) < 10_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(UnreadableImage, match="8000 x 5000 pixels, more than 33,554,432"):
        decode_image(content.getvalue())


@pytest.mark.parametrize("format", ["EPS", "PDF", "PPM", "ICO", "TGA", "SGI", "JPEG2000", "MPO"])
def test_formats_that_are_not_on_the_list_reach_no_reader(format: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, format)
    (tmp_path / "image.png").write_bytes(content.getvalue())
    if format == "MPO":  # a JPEG, read as one
        assert read_image(tmp_path / "image.png").size == (8, 8)
        return
    with pytest.raises(UnreadableImage, match="it is no PNG, JPEG, WEBP, BMP, GIF, TIFF"):
        read_image(tmp_path / "image.png")


@pytest.mark.slow
def test_a_packed_file_is_unpacked_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "MOST_LINE", 2**20)
    monkeypatch.setattr(untrusted, "MOST_UNPACKED", 2**22)
    file = tmp_path / "bomb.xz"
    file.write_bytes(lzma.compress(bytes(2**21)))
    with pytest.raises(UntrustedError, match="a line of more than 1,048,576 bytes"):
        list(read_packed_lines(file))
    file.write_bytes(lzma.compress((b"x" * 2**16 + b"\n") * 80))
    with pytest.raises(UntrustedError, match="unpacks to more than 4,194,304 bytes"):
        list(read_packed_lines(file))
    file.write_bytes(lzma.compress(b"one\n" + b"x" * 2**19 + b"\nthree"))
    assert [len(line) for line in read_packed_lines(file)] == [3, 2**19, 5]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UntrustedError, match="cut off|end-of-stream"):
        list(read_packed_lines(file))
    monkeypatch.setattr(untrusted, "_FREE", 2**17)
    file.write_bytes(lzma.compress((b"x" * 2**15 + b"\n") * 80))  # below all limits, but a thousand times its size
    with pytest.raises(UntrustedError, match="unpacks to more than 1[0-9]{2},[0-9]{3} bytes"):
        list(read_packed_lines(file))


def test_special_and_too_long_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UntrustedError, match="no regular file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(UntrustedError, match="no regular file"):
        read_file(Path("/dev/zero"))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UntrustedError, match="more than 1,000 bytes"):
        read_file(tmp_path / "sparse", 1000)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "link/x", "", ".", "a/\0", "loop/x"])
def test_a_path_that_leaves_its_root_is_refused(path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    with pytest.raises(UntrustedError, match="leads out of|leads nowhere"):
        resolve_inside(root, path)
    assert resolve_inside(root, "a/../b.png") == root.resolve() / "b.png"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("back\rward\b", "back\\x0dward\\x08"),
        ("user\u202ecod.exe", "user\\u202ecod.exe"),
        ("lone \ud800", "lone \\ud800"),
        ("naïve 猫 🐈 café\u3000!", "naïve 猫 🐈 café\u3000!"),
        ("two\nlines\there", "two\nlines\there"),
    ],
)
def test_untrusted_text_does_not_control_the_terminal(words: str, shown: str) -> None:
    assert printable(words) == shown
    assert "\n" not in one_line(words) and len(one_line(words * 900, 100)) <= 400
    shown.encode()


def test_devices_and_pipes_are_written_to_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_bytes(tmp_path / "link", b"new", asked=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"
    write_bytes(tmp_path / "link", b"own")  # of a received folder
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "own.part").symlink_to("file")
    write_bytes(tmp_path / "own", b"own")
    assert (tmp_path / "file").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", b"through", asked=True)
    reader.join(timeout=20)
    assert read == [b"through"] and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "own", "pipe"]


def test_a_closed_pipe_does_not_stop_the_work_and_output_has_no_escape_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    with kept.open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        Screen().print("\x1b]0;owned\x07", "[red]plain[/red]")
        echo("\x1b[2Jgone")
    assert kept.read_text() == "\\x1b]0;owned\\x07 [red]plain[/red]\n\\x1b[2Jgone\n"
    for write in (Screen().print, echo):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", buffering=1) as stream:
            monkeypatch.setattr("sys.stdout", stream)
            for _ in range(3):
                write("a line")


@pytest.mark.slow
def test_a_dollar_in_a_name_is_drawn_as_a_dollar_in_a_figure() -> None:
    pytest.importorskip("matplotlib")
    from milr.benchmarks.intervals import estimate_mean
    from milr.report.figures import Figure, Series
    from milr.report.plots import draw_figure

    found = estimate_mean([0.5, 0.25], 2)
    series = Series("costs $x^{ and $5_a", (found,))
    figure = Figure(key="k", title="t", across="$\\frac{", positions=("$",), series=(series,), scale="names")
    assert "costs $x^{" in draw_figure(figure)


def test_a_file_that_arrives_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from milr.benchmarks import fetch

    class Dripping:
        status_code = 200

        def __enter__(self) -> Dripping:
            return self

        def __exit__(self, *_: object) -> None: ...

        def iter_bytes(self) -> Iterator[bytes]:
            while True:
                clock[0] += 59.0
                yield b"x"

    clock = [0.0]
    monkeypatch.setattr(fetch.httpx2, "stream", lambda *_, **__: Dripping())
    monkeypatch.setattr(fetch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(OSError, match="has not ended after 600 s"):
        fetch._read_address("https://example.org")
    assert clock[0] < 700
