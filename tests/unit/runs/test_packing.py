"""Packing and unpacking gives the same run, except for evidence and strips."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from milr.cli.main import main
from milr.errors import UsageError
from milr.models import embedded_folder
from milr.runs import Run, TaskRun, pack_run, read_packed, read_run, unpack_run
from milr.runs.packing import Redraw, Which
from milr.testing import FakeModel
from milr.types import Score, Task
from tests.support.fake_benchmark import fakes


def no_tasks(manifest: object) -> Sequence[Task]:
    raise AssertionError("the tasks stand in the file")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of fakes with two images per prompt."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [
        "--limit",
        "6",
        "--steps",
        "3",
        "--images-per-prompt",
        "2",
        "--reward",
        "icons-soft",
        "--evaluator",
        "icons",
    ]
    with fakes():
        assert main(["benchmark", "icons", *words, "--out", str(folder)]) == 0
    return folder


def painter(run: Run) -> Redraw:
    """A model that draws the run's tokens again."""
    images = {tuple(one.image.tokens): task.load_image(one.image) for task in run.tasks for one in task.images}
    return lambda tasks, drawn: [images[tuple(tokens)] for tokens in drawn]


def without_evidence(task: TaskRun) -> TaskRun:
    def plain(score: object) -> object:
        return replace(score, evidence={}, regions=()) if isinstance(score, Score) else score

    steps = [
        step.model_copy(update={"scores": tuple(map(plain, step.scores)), "best_score": plain(step.best_score)})
        for step in task.steps
    ]
    evaluated = [one.model_copy(update={"score": plain(one.score)}) for one in task.evaluated]
    return replace(task, folder=Path(task.folder.name), steps=tuple(steps), evaluated=tuple(evaluated), has_images=True)


def unpack(file: Path, folder: Path, redraw: Redraw | None, which: Which) -> tuple[Run, list[bool | None]]:
    packed, digests = read_packed(file, no_tasks)
    same = [same for _, _, same in unpack_run(packed, digests, folder, redraw, which)]
    return read_run(folder), same


@pytest.mark.slow
@pytest.mark.parametrize("which", ["none", "ends", "all"])
def test_unpacking_gives_the_packed_run(run: Path, tmp_path: Path, which: Which) -> None:
    before = read_run(run)
    file = tmp_path / "a.run.xz"
    file.write_bytes(pack_run(before))
    after, same = unpack(file, tmp_path / "again", painter(before), which)
    assert after.manifest == before.manifest
    assert list(map(without_evidence, after.tasks)) == list(map(without_evidence, before.tasks))
    assert same == [None if which == "none" else True] * 12
    for old, new in zip(before.tasks, after.tasks, strict=True):
        wanted = {
            "none": [],
            "ends": [old.images[0], old.answer, old.images[-1]],
            "all": list(old.images),
        }[which]
        names = {one.image.file for one in wanted}
        assert {str(path.relative_to(new.folder)) for path in new.folder.glob("steps/*.png")} == names
        assert all(new.load_image(one.image).tobytes() == old.load_image(one.image).tobytes() for one in wanted)


@pytest.mark.slow
def test_packing_an_unpacked_run_gives_the_same_file(run: Path, tmp_path: Path) -> None:
    before = read_run(run)
    file = tmp_path / "a.run.xz"
    file.write_bytes(pack_run(before))
    after, _ = unpack(file, tmp_path / "again", painter(before), "ends")
    assert pack_run(after) == file.read_bytes() == pack_run(before)


def test_a_small_run_is_packed_for_little_memory(run: Path) -> None:
    lzma.LZMADecompressor(memlimit=2**20).decompress(pack_run(read_run(run)))


def test_an_image_that_differs_after_unpacking_is_reported(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.run.xz"
    file.write_bytes(pack_run(read_run(run)))
    _, same = unpack(file, tmp_path / "again", lambda tasks, drawn: [Image.new("RGB", (8, 8))] * len(drawn), "ends")
    assert same == [False] * 12


def test_third_party_prompts_are_not_packed(run: Path, tmp_path: Path) -> None:
    before = read_run(run)
    theirs = replace(before, manifest=before.manifest.model_copy(update={"data": "somewhere"}))
    file = tmp_path / "a.run.xz"
    file.write_bytes(pack_run(theirs))
    text = lzma.decompress(file.read_bytes()).decode()
    assert not any(task.task.prompt in text for task in before.tasks)
    packed, _ = read_packed(file, lambda manifest: before.manifest.tasks)
    assert packed.manifest == theirs.manifest
    assert list(map(without_evidence, packed.tasks)) == list(map(without_evidence, before.tasks))


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused(run: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = pack_run(read_run(run))
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(
        st.sampled_from([whole[:place], whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]])
    )
    file = tmp_path / "a.run.xz"
    file.write_bytes(damage)
    with pytest.raises(UsageError, match="is no packed run"):
        read_packed(file, no_tasks)


def test_a_file_with_inconsistent_lines_is_refused(run: Path, tmp_path: Path) -> None:
    lines = lzma.decompress(pack_run(read_run(run))).splitlines()
    task = json.loads(lines[1])
    for wrong in (
        {"index": 99},
        {"image": 99},
        {"steps": [{**task["steps"][0], "best": "steps/none.png"}]},
        {"steps": [{}]},
    ):
        file = tmp_path / "a.run.xz"
        file.write_bytes(lzma.compress(b"\n".join([lines[0], json.dumps({**task, **wrong}).encode()])))
        with pytest.raises(UsageError, match="is no packed run"):
            read_packed(file, no_tasks)


def test_the_model_of_every_run_is_checked_not_only_the_first_ones(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milr.models.load_model", lambda *names, **options: FakeModel())
    whole = read_run(run)
    other = replace(whole, manifest=whole.manifest.model_copy(update={"model": "fake of yesterday"}))
    for name, packed in (("a", whole), ("b", other)):
        (tmp_path / f"{name}.run.xz").write_bytes(pack_run(packed))
    files = [str(tmp_path / f"{name}.run.xz") for name in "ab"]
    assert main(["unpack", *files, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out' / 'a'}: 12 tasks, 12 of 12 best images as they were, to the pixel\n"
    assert "the run was drawn by fake of yesterday, and here is fake" in said.err
    assert not (tmp_path / "out" / "b").exists()


def test_the_commands_say_what_they_did_and_what_they_refuse(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(run), "--out", str(tmp_path)]) == 0
    file = tmp_path / "run.run.xz"
    assert capsys.readouterr().out == f"{file}: 12 tasks, {file.stat().st_size / 1000:,.0f} KB\n"
    assert main(["unpack", str(file), "--out", str(tmp_path / "out"), "--pictures", "none"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'run'}: 12 tasks, no images\n"
    assert main(["compare", str(tmp_path / "out" / "run"), str(run)]) == 2  # the same run twice
    assert main(["unpack", str(file), "--out", str(tmp_path / "out"), "--pictures", "none"]) == 2
    assert "holds another run; nothing was overwritten" in capsys.readouterr().err
    assert main(["unpack", str(file), "--out", str(tmp_path / "other"), "--pictures", "some"]) == 2
    assert "--pictures some: give one of none, ends, all" in capsys.readouterr().err


def test_nothing_is_overwritten_and_two_runs_of_one_name_stay_separate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(shutil.copytree(run, tmp_path / place / "run")) for place in "cb"]
    assert main(["pack", *both, "--out", str(tmp_path / "packs")]) == 2
    assert "would both be" in capsys.readouterr().err and not (tmp_path / "packs").exists()
    for place, one in zip("cb", both, strict=True):
        assert main(["pack", one, "--out", str(tmp_path / "packs" / place)]) == 0
        assert main(["pack", one, "--out", str(tmp_path / "packs" / place)]) == 0  # the same bytes again
    files = [str(tmp_path / "packs" / place / "run.run.xz") for place in "cb"]
    assert main(["unpack", *files, "--out", str(tmp_path / "out"), "--pictures", "none"]) == 2
    assert "would both be" in capsys.readouterr().err and not (tmp_path / "out").exists()
    Path(files[0]).write_text("somebody's own file")
    assert main(["pack", both[0], "--out", str(tmp_path / "packs" / "c")]) == 2
    assert "nothing was overwritten" in capsys.readouterr().err
    assert Path(files[0]).read_text() == "somebody's own file"


@pytest.mark.parametrize("name", ["../../x.png", "/tmp/x.png", "steps/../../x-0.png", "steps/00-0.txt"])
def test_an_image_name_that_leads_out_of_the_folder_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    lines = [json.loads(line) for line in lzma.decompress(pack_run(read_run(run))).splitlines()]
    lines[1]["steps"][0]["images"][0]["file"] = name
    file = tmp_path / "a.run.xz"
    file.write_bytes(lzma.compress(b"\n".join(json.dumps(line).encode() for line in lines)))
    with pytest.raises(UsageError, match="is no packed run"):
        read_packed(file, no_tasks)


@pytest.mark.slow
def test_unpacking_restores_every_pixel_of_the_embedded_models_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not embedded_folder().is_dir():
        pytest.skip(f"no embedded model in {embedded_folder()}: `make train` makes one")
    folder = tmp_path / "run"
    words = ["icons-hard", "--limit", "1", "--steps", "1", "--evaluator", "icons-judge"]
    assert main(["benchmark", *words, "--out", str(folder)]) == 0
    assert main(["pack", str(folder)]) == 0
    capsys.readouterr()
    file = tmp_path / "run.run.xz"
    assert main(["unpack", str(file), "--out", str(tmp_path / "again"), "--pictures", "all"]) == 0
    assert capsys.readouterr().out.endswith("1 task, 1 of 1 best images as they were, to the pixel\n")
    for old, new in zip(read_run(folder).tasks, read_run(tmp_path / "again" / "run").tasks, strict=True):
        for one in old.images:
            assert new.load_image(one.image).tobytes() == old.load_image(one.image).tobytes()
