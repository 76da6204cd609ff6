"""Seeded damage to every file and reply that milr reads: it is read, or refused in one line of the right kind."""

from __future__ import annotations

import io
import json
import lzma
import random
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from milr.errors import MilrError, UsageError
from milr.rewards.http import RemoteScore
from milr.rewards.images.files import UnreadableImage, decode_image
from milr.rewards.vlm.cache import AnswerCache
from milr.rewards.vlm.messages import LastingFault, PassingFault, read_completion, read_object
from milr.rewards.vlm.official_words import read_words
from milr.rewards.vlm.parsers import Unreadable
from milr.runs import RunWriter, compact_runs, pack_run, read_compact, read_packed, read_run
from milr.runs.page import write_page
from milr.serve.judge import BadRequest, ChatRequest, Judge
from milr.settings import make_settings
from milr.tasks import read_prompt_file
from milr.testing import FakeReward, brightness, fake_records
from milr.types import Task
from tests.robustness.rounds import ROUNDS

TASKS = [Task(prompt="a cat", tag="x"), Task(prompt="two dogs")]
PIECES = [
    b"",
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b"\n",
    b"\x00",
    b"\xff",
]
PIECES += [b"../", b"\x1b[2J", b"\\ud800", b"9" * 5000, b"[" * 3000, b"\xe2\x80\xae", b"true", b"\r\n", b"%n", b"$("]


def damage(content: bytes, dice: random.Random) -> bytes:
    """Return bytes with a few changes: pieces inserted, removed, doubled, or with flipped bits."""
    for _ in range(dice.choice((1, 1, 2, 5))):
        start = dice.randrange(len(content) + 1)
        end = min(len(content), start + dice.choice((0, 1, 4, 60)))
        kind = dice.randrange(5)
        if kind == 0:
            content = content[:start] + dice.choice(PIECES) + content[end:]
        elif kind == 1:
            content = content[:start] + content[end:]
        elif kind == 2:
            content = content[:end] + content[start:end] * dice.choice((1, 50)) + content[end:]
        elif kind == 3 and start < len(content):
            content = content[:start] + bytes([content[start] ^ (1 << dice.randrange(8))]) + content[start + 1 :]
        else:
            content = content[:start]
    return content


Door = Callable[[bytes], object]
Doors = dict[str, tuple[bytes, Door, tuple[type[Exception], ...]]]


def make_run(folder: Path) -> Path:
    facts = {"tasks": TASKS, "settings": make_settings(), "model": "fake", "reward": "fake@1"}
    with RunWriter(folder, **facts, evaluator=FakeReward(brightness, name="bright@1")) as writer:  # type: ignore[arg-type]
        for record in fake_records(TASKS, [[0.25, 0.5], [0.75, 0.5]]):
            writer.write(record)
    return folder


@pytest.fixture(scope="module")
def doors(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[bytes, Door, tuple[type[Exception], ...]]]]:
    """For each kind of input: a good example, its reader, and the errors with which it refuses."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = make_run(folder / "run")
    task = sorted((run / "tasks").iterdir())[0]

    def of_run(file: Path) -> Door:
        good = file.read_bytes()

        def read(content: bytes) -> object:
            file.write_bytes(content)
            try:
                found = read_run(run)
                assert all("\n" not in note for note in found.notes)
                return write_page(run)
            finally:
                file.write_bytes(good)

        return read

    def of_file(name: str, read: Callable[[Path], object]) -> Door:
        def through(content: bytes) -> object:
            (folder / name).write_bytes(content)
            return read(folder / name)

        return through

    def read_scores(content: bytes) -> object:
        found = read_object(content, "host").get("scores")
        return [RemoteScore.model_validate(one) for one in found] if isinstance(found, list) else None

    def read_prompts(file: Path) -> object:
        return read_prompt_file(file, free=True)

    def through_xz(read: Door) -> Door:
        return lambda content: read(lzma.compress(content, preset=0))

    packed = of_file("x.run.xz", lambda file: read_packed(file, lambda _: TASKS))
    compact = of_file("x.results.xz", lambda file: read_compact(file, lambda *_: TASKS))
    whole = read_run(run)
    image = io.BytesIO()
    Image.new("RGB", (24, 16), "red").save(image, "PNG")
    score = {
        "value": 0.5,
        "parts": {"a": 1.0},
        "explanation": "so",
        "evidence": {"a": [1, {"b": "c"}]},
        "unscored": None,
    }
    chat = {
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"message": {"content": "0"}}],
    }
    words = 'messages = [{"role": "system", "content": [{"type": "text", "text": "s"}]}]\n' * 2
    kept = {"text": "0", "model": "m", "cut": False, "first_tokens": [["0", -0.1]], "tokens_in": 1, "tokens_out": 2}
    prompts = json.dumps([{"prompt": "a cat", "tag": "x"}, {"prompt": "two dogs", "explanation": "dogs"}]).encode()
    judge = Judge(FakeReward(lambda image, task: 1.0))

    def judged(content: bytes) -> object:
        return judge.answer(ChatRequest.model_validate_json(content))

    cache = AnswerCache(folder)
    (folder / "ab").mkdir()
    asked = {"messages": [{"content": [{"type": "text", "text": "x"}]}]}
    said, refused = (UsageError,), (Unreadable, LastingFault, PassingFault)
    yield {
        "run.json": ((run / "run.json").read_bytes(), of_run(run / "run.json"), said),
        "records": ((task / "records.jsonl").read_bytes(), of_run(task / "records.jsonl"), said),
        "verdicts": ((task / "evaluated.jsonl").read_bytes(), of_run(task / "evaluated.jsonl"), said),
        "image of a run": ((task / "steps" / "00-0.png").read_bytes(), of_run(task / "steps" / "00-0.png"), said),
        "packed file": (pack_run(whole), packed, said),
        "packed lines": (lzma.decompress(pack_run(whole)), through_xz(packed), said),
        "compact lines": (lzma.decompress(compact_runs([("a", whole), ("b", whole)])), through_xz(compact), said),
        "image": (image.getvalue(), decode_image, (UnreadableImage,)),
        "prompts.json": (prompts, of_file("p.json", read_prompts), said),
        "prompts.csv": (b"prompt,tag\na cat,x\n", of_file("p.csv", read_prompts), said),
        "chat reply": (json.dumps(chat).encode(), lambda content: read_completion(content, "host", True), refused),
        "scores": (json.dumps({"scores": [score]}).encode(), read_scores, (*refused, ValidationError)),
        "cache": (json.dumps(kept).encode(), of_file("ab/abc.json", lambda file: cache.get("abc")), ()),
        "official words": (words.encode(), of_file("w.py", read_words), said),
        "judge request": (
            json.dumps(asked).encode(),
            lambda content: judge.answer(ChatRequest.model_validate_json(content)),
            (BadRequest, ValidationError),
        ),
    }
    shutil.rmtree(folder)


NAMES = (
    *("run.json", "records", "verdicts", "image of a run", "packed file", "packed lines", "compact lines", "image"),
    *("prompts.json", "prompts.csv", "chat reply", "scores", "cache", "official words", "judge request"),
)


@pytest.mark.filterwarnings("ignore")  # Python's own warning about odd escapes in parsed code
@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused_in_one_line(name: str, doors: Doors) -> None:
    good, read, allowed = doors[name]
    read(good) if name not in ("official words", "judge request") else None
    dice = random.Random(name)
    for number in range((12 if name in SLOW else 60) * ROUNDS):
        content = damage(good, dice)
        try:
            read(content)
        except allowed as error:
            if isinstance(error, MilrError | BadRequest):
                assert "\n" not in str(error) and len(str(error)) < 2000, (number, content[:200])


SLOW = ("run.json", "records", "verdicts", "image of a run")
"""Kinds of input whose reader also writes the run's page."""


@pytest.mark.slow
def test_decompression_bombs_take_little_memory(tmp_path: Path) -> None:
    """One small file per kind that would unpack to far more than its bound here."""
    from tests.robustness.test_doors import make_png

    bombs: dict[str, Callable[[], object]] = {}
    bounds: dict[str, int] = {}
    for name, content in (("zeros", bytes(100 * 2**20)), ("lists", b"[" + b"[]," * (33 * 2**20))):
        file = tmp_path / f"{name}.run.xz"
        file.write_bytes(lzma.compress(content, preset=0))
        assert file.stat().st_size < 200_000
        bombs[f"packed {name}"] = lambda file=file: read_packed(file, lambda _: TASKS)
        bombs[f"compact {name}"] = lambda file=file: read_compact(file, lambda *_: TASKS)
        bounds |= {f"packed {name}": 2**25, f"compact {name}": 2**25}
        del content
    first, last = lzma.decompress(pack_run(read_run(make_run(tmp_path / "run")))).split(b"\n")[:2]
    line = re.sub(rb'"tokens":\[', b'"tokens":[' + b"1," * 2**20, last, count=1)
    file = tmp_path / "tokens.run.xz"
    first = first.replace(b'"images_per_prompt":1,', b'"images_per_prompt":60,')
    lines = [line.replace(b'"image":0', b'"image":%d' % number) for number in range(60)]
    assert len({first, *lines}) == 61
    file.write_bytes(lzma.compress(b"\n".join([first, *lines]), preset=0))
    del lines
    bombs["packed tokens"] = lambda: read_packed(file, lambda _: TASKS)
    png = make_png(30_000, 30_000)
    bombs["image"] = lambda: decode_image(png)
    for name, open_it in bombs.items():
        tracemalloc.start()
        with pytest.raises((UsageError, UnreadableImage)):
            open_it()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (bounds.get(name) or 2**28), f"{name}: {peak:,} bytes"
