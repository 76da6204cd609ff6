"""Layout and result file of WISE."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from milr.benchmarks.layouts import load_layout
from milr.benchmarks.layouts.wise import LEGACY, VERIFIED, find_edition, summarise
from milr.benchmarks.score_folder import FolderJob
from milr.cli.main import main
from milr.errors import UsageError
from milr.sources import SOURCES
from milr.types import Score, Unscored
from tests.support.vlm_servers import JudgeServer, say
from tests.support.wise_words import use_made_up_words


def prompt(number: int) -> dict[str, object]:
    return {
        "Prompt": f"prompt {number}",
        "Explanation": f"what {number} means",
        "Category": "x",
        "Subcategory": "Optics",
        "prompt_id": number,
    }


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    # a byte order mark and a padded id are both accepted
    listed = [prompt(801), {**prompt(802), "prompt_id": "0802"}, prompt(10)]
    (folder / "natural_science.json").write_text("\ufeff" + json.dumps(listed))
    (folder / "natural_science_rewrite.json").write_text(json.dumps([{**prompt(801), "Prompt": "resolved"}]))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("802.png", "801.png", "10.png", "0801.png", "801.jpg", "grid.png"):
        (folder / name).write_bytes(b"")
    return folder


def test_images_are_found_by_their_ids(folder: Path, prompts: Path) -> None:
    found = load_layout("wise").find(folder, prompts)
    assert [picture.key for picture in found] == ["10.png", "801.png", "802.png"]
    assert found[1].task.prompt == "prompt 801"
    assert found[1].task.explanation == "what 801 means"
    (folder / "801.png").unlink()  # padded names are used if the plain ones are missing
    assert [picture.key for picture in load_layout("wise").find(folder, prompts)] == ["10.png", "0801.png", "802.png"]
    (folder / "801.png").touch()
    one_file = load_layout("wise").find(folder, prompts / "natural_science.json")
    assert one_file == found


def test_rows_have_the_three_scores(folder: Path, prompts: Path, tmp_path: Path) -> None:
    layout = load_layout("wise")
    found = layout.find(folder, prompts)
    parts = {"consistency": 1.0, "realism": 0.5, "aesthetic quality": 0.0}
    scores = [Score(0.8, "wise-legacy@1", 0.5, parts), Unscored("down", "wise-legacy@1"), Score(0.4, "other@1", 0.5)]
    summary = layout.write(tmp_path, folder, list(zip(found, scores, strict=True)), "wise-legacy@1")
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert rows == [
        {"prompt_id": 10, "Subcategory": "Optics", "consistency": 2, "realism": 1, "aesthetic_quality": 0},
        {"prompt_id": 802, "Subcategory": "Optics", "value": 0.4},
    ]
    assert "Cultural         = 0.8000 (1 / 400)" in summary
    assert "Physics          = 0.4000 (1 / 100)" in summary
    assert "Time             = none (0 / 167)" in summary
    assert summary.endswith("Overall score: none, 998 of 1000 are missing\n")


def test_the_overall_score_weighs_the_groups() -> None:
    values = {number: 0.5 if number <= 400 else 0.2 if number <= 567 else 0.0 for number in range(1, 1001)}
    assert summarise(values, LEGACY).endswith("Overall score: 0.2334\n")
    for edition in (LEGACY, VERIFIED):
        assert [number for numbers in edition.groups.values() for number in numbers] == list(range(1, 1001))
        assert edition.groups.keys() == edition.weights.keys()
        assert sum(edition.weights.values()) == pytest.approx(1)
    culture = {number: float(number <= 400 or number == 521) for number in range(1, 1001)}
    told = summarise(culture, VERIFIED)
    assert "Space            = 0.0083 (120 / 120)" in told and told.endswith("Overall score: 0.4010\n")


@pytest.mark.parametrize(
    ("reward", "category", "group"),
    [
        ("wise@3/q", "x", "Space            = 1.0000 (1 / 120)"),  # the prompts do not show which edition it is
        ("wise@3/q", "Space", "Space            = 1.0000 (1 / 120)"),
        ("wise-legacy@3/g", "x", "Time             = 1.0000 (1 / 167)"),
        ("gpt-4o@2/g", "Space", "Space            = 1.0000 (1 / 120)"),
        ("gpt-4o@2/g", "time", "Time             = 1.0000 (1 / 167)"),
    ],
)
def test_groups_depend_on_the_edition_of_the_prompts(reward: str, category: str, group: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{**prompt(530), "Category": category}]))
    (tmp_path / "530.png").touch()
    layout = load_layout("wise")
    found = layout.find(tmp_path, tmp_path / "p.json")
    assert group in layout.write(tmp_path, tmp_path, [(found[0], Score(1.0, reward, 0.9))], reward)
    row = json.loads((tmp_path / "scores.jsonl").read_text())
    name = "score" if reward.startswith("wise@") else "value"
    assert row == {"prompt_id": 530, "Subcategory": "Optics", name: 1.0}


@pytest.mark.parametrize(
    ("benchmark", "reward", "category", "asked"),
    [
        ("wise", None, "time", "wise-legacy"),  # prompt 530 belongs to time in 2025, to Space in 2026
        ("wise", "wise", "time", "wise-legacy"),
        ("wise-legacy", None, "Space", "wise"),
        ("wise", "wise-legacy", "Space", "wise"),
        ("wise", None, "official", "wise-legacy"),  # the category does not show the edition, the file does
        ("wise-legacy", None, "time", None),
        ("wise", "wise-legacy", "time", None),
        ("wise", None, "Space", None),
        ("wise", "gpt-4o", "time", None),
    ],
)
def test_the_protocol_of_another_edition_is_refused_before_it_costs(
    benchmark: str,
    reward: str | None,
    category: str,
    asked: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps([{**prompt(530), "Category": category}]))
    if category == "official":
        source = SOURCES["wise-legacy"]
        known = (replace(source.files[0], sha256=sha256(file.read_bytes()).hexdigest()),)
        monkeypatch.setitem(SOURCES, "wise-legacy", replace(source, files=known))  # type: ignore[misc]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "530.png").touch()
    refused = pytest.raises(UsageError, match=f"type --reward {asked}$") if asked else nullcontext()
    with refused:
        FolderJob(pictures, benchmark, reward=reward, prompts=file)


def test_a_folder_of_both_editions_is_refused(folder: Path, prompts: Path) -> None:
    (prompts / "natural_science_verified.json").write_text(json.dumps([{**prompt(801), "Prompt": "another"}]))
    with pytest.raises(UsageError, match="two prompts 801, so it holds both editions"):
        load_layout("wise").find(folder, prompts)


def test_unreadable_prompts_are_refused(folder: Path, prompts: Path, tmp_path: Path) -> None:
    layout = load_layout("wise")
    with pytest.raises(UsageError, match="give --prompts"):
        layout.find(folder, None)
    with pytest.raises(UsageError, match="no images"):
        layout.find(tmp_path, prompts)
    with pytest.raises(UsageError, match="no folder"):
        layout.find(tmp_path / "no", prompts)
    (folder / "7.png").write_bytes(b"")
    with pytest.raises(UsageError, match="no prompt 7 for 7.png"):
        layout.find(folder, prompts)
    for content in ("{", "[1]", '[{"prompt_id": 1}]', "3"):
        (prompts / "natural_science.json").write_text(content)
        with pytest.raises(UsageError, match="none of WISE's prompt files"):
            layout.find(folder, prompts)


@pytest.mark.parametrize(
    ("given", "reward", "reply", "marks", "said"),
    [
        ([], "wise", "Score: 1", {"score": 1}, "1.0000 (2 / 120)"),  # the set of 2026 is the default
        (
            ["--reward", "wise-legacy"],
            "wise-legacy",
            "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
            {"consistency": 2, "realism": 1, "aesthetic_quality": 0},
            "0.8000 (2 / 100)",
        ),
    ],
)
def test_a_users_own_vlm_judge_scores_the_folder(
    given: list[str],
    reward: str,
    reply: str,
    marks: dict[str, int],
    said: str,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    use_made_up_words(monkeypatch, tmp_path / "words")
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number in (10, 801, 802):
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(folder / f"{number}.png")
    command = ["score-folder", str(folder), "--benchmark", "wise", "--prompts", str(prompts), *given]
    assert main(command) == 2
    assert "give --vlm-url" in capsys.readouterr().err
    # The budget ends before the second image; the next command asks only about the second and the third.
    with JudgeServer(say(reply)) as server:
        to = ["--vlm-url", server.url, "--vlm-model", "eye"]
        assert main([*command, *to, "--vlm-budget", "1"]) == 3
        assert "Unscored, left out above: 2 of 3 pictures" in capsys.readouterr().out
        assert main([*command, *to]) == 0
        assert len(server.asked) == 3
    shown = capsys.readouterr()
    assert "1 of 3 images are scored already" in shown.err
    assert shown.out.startswith(f"Scored by {reward}@3/eye, milr ")
    assert f"Physics          = {said}" in shown.out
    rows = [json.loads(line) for line in (tmp_path / f"drawn-{reward}" / "scores.jsonl").read_text().splitlines()]
    assert rows == [{"prompt_id": number, "Subcategory": "Optics", **marks} for number in (10, 801, 802)]


@pytest.mark.slow
def test_the_official_prompts_are_read(shared_data: Path, tmp_path: Path) -> None:
    for number in range(1, 1001):
        (tmp_path / f"{number}.png").write_bytes(b"")
    layout = load_layout("wise")
    for folder, edition, other in (("legacy", LEGACY, VERIFIED), ("verified", VERIFIED, LEGACY)):
        found = layout.find(tmp_path, shared_data / "wise" / folder)
        assert len({picture.task.key for picture in found}) == layout.prompts
        assert find_edition([picture.metadata for picture in found], other) is edition
