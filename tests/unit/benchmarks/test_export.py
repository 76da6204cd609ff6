"""Exports, checked by readers that follow the official scorers' rules and share no code with ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milr.benchmarks import load_benchmark
from milr.benchmarks.export import export
from milr.benchmarks.layouts import load_layout
from milr.cli.main import main
from milr.errors import UsageError
from milr.runs import RunWriter, read_run
from milr.settings import Settings
from milr.testing import fake_records
from milr.types import Task

FOLDERS = {"geneval": "geneval", "t2i-compbench": "t2i_compbench", "wise-legacy": "wise/legacy", "icons": None}


def make_run(
    folder: Path, benchmark: str, chosen: Sequence[tuple[int, Task]], images: int = 1, finish: bool = True
) -> Path:
    """Return a benchmark's run with fake images: three steps per task, the second one the best."""
    tasks = [task for _, task in chosen]
    with RunWriter(
        folder,
        tasks=tasks,
        settings=Settings(),
        model="fake",
        reward="fake@1",
        benchmark=benchmark,
        places=tuple(place for place, _ in chosen),
        images_per_prompt=images,
    ) as run:
        for image in range(images):
            for record in fake_records(tasks, [[0.1, 0.8, 0.3]] * len(tasks)):
                if finish or record.index:
                    run.write(record, image)
    return folder


def choose(benchmark: str, shared_data: Path, places: Sequence[int]) -> list[tuple[int, Task]]:
    """Return some tasks of a benchmark with their positions."""
    folder = FOLDERS[benchmark]
    tasks = load_benchmark(benchmark).read(None if folder is None else shared_data / folder)
    return [(place, tasks[place]) for place in places]


def answers(run: Path) -> dict[tuple[int, int], bytes]:
    """Return (index, image) -> the answer's pixels."""
    return {(task.index, task.image): task.load_image(task.answer.image).tobytes() for task in read_run(run).tasks}


def pixels(path: Path) -> bytes:
    """Return an image's pixels; refuse files that are not PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB").tobytes()


def find_as_geneval(root: Path) -> list[tuple[Mapping[str, Any], Path]]:
    """evaluate_images.py: all-digit folders; metadata.jsonl whole as one document; names that begin with digits.png."""
    found: list[tuple[Mapping[str, Any], Path]] = []
    for name in sorted(path.name for path in root.iterdir()):
        assert name.isdigit() and (root / name).is_dir(), f"{name} would be passed over in silence"
        metadata = json.loads((root / name / "metadata.jsonl").read_text())
        for picture in sorted((root / name / "samples").iterdir()):
            assert re.match(r"\d+\.png", picture.name)
            found.append((metadata, picture))
    return found


def find_as_t2i_compbench(category: Path) -> dict[int, tuple[str, Path]]:
    """Read a category as its scorers do: images whose names begin with the prompt and end with a number."""
    assert [path.name for path in category.iterdir()] == ["samples"]
    found: dict[int, tuple[str, Path]] = {}
    for picture in (category / "samples").iterdir():
        parts = picture.name.split("_")
        number = parts[-1].split(".")[0]
        assert len(number) == 6
        assert int(number) not in found
        found[int(number)] = parts[0], picture
    return found


def find_as_wise(folder: Path, prompts: Sequence[Mapping[str, Any]]) -> dict[int, Path]:
    """Read a folder as gpt_eval.py does: <prompt_id>.png for each prompt; a prompt without image is skipped."""
    found = {row["prompt_id"]: folder / f"{row['prompt_id']}.png" for row in prompts}
    return {number: path for number, path in found.items() if path.exists()}


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 4])
def test_genevals_scorer_finds_every_answer_with_its_line_of_metadata(
    tmp_path: Path, shared_data: Path, images: int
) -> None:
    places = [0, 100, 200, 300, 400, 552]
    run = make_run(tmp_path / "run", "geneval", choose("geneval", shared_data, places), images)
    made = export([read_run(run)], "geneval", tmp_path / "out")
    lines = (shared_data / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    expected = answers(run)
    found = find_as_geneval(tmp_path / "out")
    assert len(found) == made.pictures == len(expected) == len(places) * images
    for at, (metadata, picture) in enumerate(found):
        index, image = divmod(at, images)
        assert metadata == json.loads(lines[places[index]])
        assert picture.relative_to(tmp_path / "out").as_posix() == f"{places[index]:05d}/samples/{image:04d}.png"
        assert pixels(picture) == expected[index, image]
    ours = load_layout("geneval").find(tmp_path / "out", None)
    assert [tmp_path / "out" / picture.key for picture in ours] == [picture for _, picture in found]


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 10])
def test_t2i_compbenchs_scorers_find_each_category_numbered_through(
    tmp_path: Path, shared_data: Path, images: int
) -> None:
    places = [0, 299, 300, 1500, 1799]
    chosen = choose("t2i-compbench", shared_data, places)
    run = make_run(tmp_path / "run", "t2i-compbench", chosen, images)
    export([read_run(run)], "t2i-compbench", tmp_path / "out")
    expected = answers(run)
    found = {path.name: find_as_t2i_compbench(path) for path in (tmp_path / "out").iterdir()}
    assert {name: len(pictures) for name, pictures in found.items()} == {
        "color": 2 * images,
        "shape": images,
        "complex": 2 * images,
    }
    for index, (place, task) in enumerate(chosen):
        for image in range(images):
            prompt, picture = found[str(task.tag)][place % 300 * images + image]
            assert prompt == task.prompt  # a final dot is kept, as in the official generator's names
            assert pixels(picture) == expected[index, image]
    for name in found:
        assert load_layout("t2i-compbench").find(tmp_path / "out" / name, None)


@pytest.mark.slow
def test_wises_scorer_finds_one_image_per_prompt_by_its_id(tmp_path: Path, shared_data: Path) -> None:
    places = [0, 399, 400, 999]
    run = make_run(tmp_path / "run", "wise-legacy", choose("wise-legacy", shared_data, places))
    export([read_run(run)], "wise-legacy", tmp_path / "out")
    rows = [
        row
        for name in ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
        for row in json.loads((shared_data / "wise" / "legacy" / f"{name}.json").read_text())
    ]
    found = find_as_wise(tmp_path / "out", rows)
    assert sorted(found) == [1, 400, 401, 1000]
    assert len(list((tmp_path / "out").iterdir())) == 4
    prompts = {row["prompt_id"]: row["Prompt"] for row in rows}
    for index, task in enumerate(read_run(run).tasks):
        assert prompts[places[index] + 1] == task.task.prompt
        assert pixels(found[places[index] + 1]) == answers(run)[index, 0]
    two = make_run(tmp_path / "two", "wise-legacy", choose("wise-legacy", shared_data, [0]), images=2)
    with pytest.raises(UsageError, match="one image per prompt, and these are 2"):
        export([read_run(two)], "wise-legacy", tmp_path / "more")


def test_shards_are_exported_as_one_and_only_once(tmp_path: Path, shared_data: Path) -> None:
    runs = [read_run(make_run(tmp_path / str(i), "icons", choose("icons", shared_data, [i, i + 2]))) for i in range(2)]
    export(runs, "geneval", tmp_path / "out")
    assert [path.parts[-3] for _, path in find_as_geneval(tmp_path / "out")] == ["00000", "00001", "00002", "00003"]
    with pytest.raises(UsageError, match="prompt 0, which is there already"):
        export([runs[0], runs[0]], "geneval", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_folders_that_would_give_wrong_scores_are_refused(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = make_run(tmp_path / "half", "icons", choose("icons", shared_data, [0, 1]), finish=False)
    command = ["export", str(half), "--layout", "geneval"]
    assert main(command) == 2
    assert "has 1 tasks that have not finished, and official scorers do not notice" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    said = capsys.readouterr().out
    assert "1 image of 1 prompt" in said and "icons has 553 prompts" in said
    assert (tmp_path / "half-geneval" / "00001" / "samples" / "0000.png").is_file()
    assert main([*command, "--partial"]) == 2
    assert "holds files; nothing was overwritten" in capsys.readouterr().err
    assert main(["export", str(half), "--layout", "wise", "--partial"]) == 2
    assert "wise is not the layout of icons, which has --layout geneval" in capsys.readouterr().err
