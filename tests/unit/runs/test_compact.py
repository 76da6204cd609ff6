"""Compact results give every number of their run, and no image."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.errors import UsageError
from milr.report.failures import KINDS, diagnose_all
from milr.report.gallery import show_failures
from milr.report.inputs import find_runs, open_run
from milr.report.page import report_tables
from milr.report.sections import make_sections
from milr.report.tables import as_data
from milr.runs import COMPACT_SUFFIX, Run, compact_runs, pack_run, read_compact, read_manifest, read_run
from milr.types import Score, Unscored
from tests.support.report_runs import make_run, make_tasks


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a search, its control and another method."""
    root = tmp_path_factory.mktemp("runs")
    settings: dict[str, dict[str, object]] = {
        "joint": {},
        "zero": {"gradient": "zero"},
        "pool": {"method": "consensus"},
    }
    return [make_run(root / name, **{"tasks": make_tasks(6), "steps": 2, **one}) for name, one in settings.items()]  # type: ignore[arg-type]


def tables_of(runs: list[Run], *left: str) -> dict[str, object]:
    """Return all tables of the report that need no images, with the runs' own names."""
    named = [replace(run, folder=Path(run.folder.name.removesuffix(COMPACT_SUFFIX))) for run in runs]
    return {table.title: as_data(table) for table in report_tables(named) if table.key not in left}


@pytest.mark.slow
def test_every_table_comes_out_of_compact_results_as_out_of_the_run(folders: list[Path], tmp_path: Path) -> None:
    whole = [read_run(folder) for folder in folders]
    for run in whole:
        (tmp_path / f"{run.folder.name}{COMPACT_SUFFIX}").write_bytes(compact_runs([("", run)]))
    found = {run.folder.name.removesuffix(COMPACT_SUFFIX): run for run in find_runs([tmp_path]).runs}
    again = [found[folder.name] for folder in folders]
    assert len(tables_of(whole)) > 8
    assert tables_of(again, "failures") == tables_of(whole, "failures")
    failures = next(table for table in report_tables(again) if table.key == "failures")
    assert [row.cells[2].value for row in failures.rows] == [None] * 3  # visual collapse: unknown is not "none"
    assert any("have no images" in note for note in failures.notes)
    for section in make_sections(again):
        kinds = dict(show_failures(section, diagnose_all(section)))
        assert KINDS[1] not in kinds and not any(kinds.values())  # neither shown nor reported as missing
        hacked = any(KINDS[2] in one.failures for _, own in diagnose_all(section) for one in own)
        assert (KINDS[2] in kinds) != hacked


def test_steps_texts_and_scores_are_kept(folders: list[Path], tmp_path: Path) -> None:
    run = read_run(folders[0])
    file = tmp_path / f"a{COMPACT_SUFFIX}"
    file.write_bytes(compact_runs([("", run)]))
    again = read_compact(file, lambda manifest, tags: [])[0]
    assert again.manifest == run.manifest
    for old, new in zip(run.tasks, again.tasks, strict=True):
        for one, other in zip(old.steps, new.steps, strict=True):
            assert other.reasoning.text == one.reasoning.text and other.best.file == one.best.file
            for name in (
                "step",
                "best_step",
                "drawings_spent",
                "tokens_spent",
                "reward_calls",
                "cost",
                "finished",
                "notes",
            ):
                assert getattr(other, name) == getattr(one, name), name
        for one, other in zip(old.images, new.images, strict=True):
            for a, b in ((one.reward, other.reward), (one.evaluator, other.evaluator)):
                assert isinstance(a, Score) and isinstance(b, Score)
                assert (a.value, a.reward, a.stop_at, a.explanation) == (b.value, b.reward, b.stop_at, b.explanation)
                assert {name: round(part, 2) for name, part in a.parts.items()} == b.parts
        with pytest.raises(UsageError, match="has no images"):
            new.load_image(new.answer.image)
    assert compact_runs([("", again)]) == file.read_bytes()


def test_unscored_images_stay_unscored(folders: list[Path], tmp_path: Path) -> None:
    run = read_run(folders[0])
    task = run.tasks[0]
    step = task.steps[0].model_copy(update={"scores": (Unscored("the server is down", "far@1", True, 0.25),)})
    lost = replace(run, tasks=(replace(task, steps=(step, *task.steps[1:])),))
    file = tmp_path / f"a{COMPACT_SUFFIX}"
    file.write_bytes(compact_runs([("", lost)]))
    found = read_compact(file, lambda manifest, tags: [])[0].tasks[0]
    assert found.steps[0].scores == step.scores


def test_third_party_prompts_are_left_out_and_named_by_position(folders: list[Path], tmp_path: Path) -> None:
    run = read_run(folders[0])
    theirs = {"data": "nowhere", "benchmark": "geneval", "places": tuple(range(10, 10 + len(run.manifest.tasks)))}
    file = tmp_path / f"a{COMPACT_SUFFIX}"
    file.write_bytes(compact_runs([("", replace(run, manifest=run.manifest.model_copy(update=theirs)))]))
    text = lzma.decompress(file.read_bytes()).decode()
    assert not any(f'"{task.task.prompt}"' in text for task in run.tasks)
    found = find_runs([file])
    assert any("milr data get geneval" in note for note in found.notes)
    assert [task.task.prompt for task in found.runs[0].tasks] == [f"geneval #{10 + task.index}" for task in run.tasks]
    assert [task.task.tag for task in found.runs[0].tasks] == [task.task.tag for task in run.tasks]


def test_a_file_of_another_kind_is_refused(folders: list[Path], tmp_path: Path) -> None:
    whole = compact_runs([("", read_run(folders[0]))])
    lines = lzma.decompress(whole).splitlines()
    task = json.loads(lines[1])
    wrong = [whole[:40], b"no", lzma.compress(lines[0] + b"\n" + json.dumps({**task, "index": 99}).encode())]
    wrong += [
        lzma.compress(lines[0] + b"\n" + json.dumps({**task, "best": [99]}).encode()),
        pack_run(read_run(folders[0])),
    ]
    for content in wrong:
        file = tmp_path / f"a{COMPACT_SUFFIX}"
        file.write_bytes(content)
        with pytest.raises(UsageError, match="holds no compact results"):
            read_compact(file, lambda manifest, tags: [])


def test_the_commands_make_read_and_redraw_compact_results(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    assert main(["pack", "--compact", *map(str, folders), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {f"{folder.name}{COMPACT_SUFFIX}" for folder in folders}
    capsys.readouterr()
    assert main(["compare", str(out)]) == 0
    again = capsys.readouterr().out
    assert (
        main(["compare", *(str(folders[0].parent / path.name.partition(".")[0]) for path in sorted(out.iterdir()))])
        == 0
    )
    assert again == capsys.readouterr().out
    assert main(["unpack", str(out / f"joint{COMPACT_SUFFIX}"), "--out", str(tmp_path / "anew")]) == 0
    assert "milr benchmark --resume" in capsys.readouterr().out
    begun, before = read_manifest(tmp_path / "anew" / "joint"), read_manifest(folders[0])
    assert (begun.settings, begun.tasks, begun.model, begun.reward) == (
        before.settings,
        before.tasks,
        before.model,
        before.reward,
    )
    assert (begun.status, begun.tasks_finished, begun.drawings, begun.sessions) == ("stopped", 0, 0, ())


def test_compact_results_do_not_tell_where_this_machine_has_its_folders(folders: list[Path]) -> None:
    run = read_run(folders[0])
    model, data = "/home/somebody/lib/milr/assets/embedded", "/home/somebody/geneval"
    run = replace(run, manifest=run.manifest.model_copy(update={"model_folder": model, "data": data}))
    first = json.loads(lzma.decompress(compact_runs([("", run)])).splitlines()[0])
    assert first["manifest"]["model_folder"] == "milr/assets/embedded"
    assert first["manifest"]["data"] == "geneval"
    assert "somebody" not in json.dumps(first)


@pytest.fixture(scope="module")
def joined(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one file of all runs."""
    file = tmp_path_factory.mktemp("joined") / f"all{COMPACT_SUFFIX}"
    assert main(["pack", "--compact", *map(str, folders), "--out", str(file)]) == 0
    return file


def test_a_file_of_several_runs_reads_as_a_file_for_each(folders: list[Path], joined: Path, tmp_path: Path) -> None:
    found = find_runs([joined]).runs
    assert [run.folder for run in found] == [joined / folder.name for folder in folders]
    for folder, run in zip(folders, found, strict=True):
        alone = tmp_path / f"{folder.name}{COMPACT_SUFFIX}"
        alone.write_bytes(compact_runs([("", read_run(folder))]))
        by_name, by_file = open_run(run.folder), open_run(alone)
        assert by_name == run and by_name.manifest == by_file.manifest
        for one, other in zip(by_name.tasks, by_file.tasks, strict=True):
            assert one.steps == other.steps and one.evaluated == other.evaluated
    assert joined.stat().st_size < sum(file.stat().st_size for file in tmp_path.iterdir())


def test_one_run_of_several_is_named_by_file_and_name(
    folders: list[Path], joined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="holds 3 runs: give the path of one, such as .*joint"):
        open_run(joined)
    assert main(["compare", str(joined / "zeros")]) == 2
    assert "did you mean 'zero'?" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["compare", str(joined), "--baseline", "zero"]) == 0
    assert capsys.readouterr().out
    assert main(["compare", str(tmp_path / "none.results.xz" / "zero")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert len(find_runs([joined, joined / "zero"]).runs) == 3
    assert main(["compare", str(joined / "joint"), str(joined / "zero"), str(joined / "nope")]) == 2
    assert "unknown run of" in capsys.readouterr().err


def test_runs_are_added_to_a_file_and_taken_out_of_it(folders: list[Path], joined: Path, tmp_path: Path) -> None:
    two, all_runs = tmp_path / f"two{COMPACT_SUFFIX}", tmp_path / f"all{COMPACT_SUFFIX}"
    assert main(["pack", "--compact", *map(str, folders[:2]), "--out", str(two)]) == 0
    assert main(["pack", "--compact", str(two), str(folders[2]), "--out", str(all_runs)]) == 0
    assert all_runs.read_bytes() == joined.read_bytes()
    assert main(["pack", "--compact", str(two), str(two), "--out", str(tmp_path / f"b{COMPACT_SUFFIX}")]) == 2
    assert main(["pack", str(folders[0]), "--out", str(tmp_path / f"c{COMPACT_SUFFIX}")]) == 2
    assert main(["pack", "--compact", *map(str, folders), "--out", str(tmp_path / "d.xz")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [all_runs.name, two.name]
    assert main(["pack", "--compact", str(two / "zero")]) == 0
    assert open_run(tmp_path / f"zero{COMPACT_SUFFIX}").tasks[0].steps == open_run(two / "zero").tasks[0].steps
    assert main(["unpack", str(two), "--out", str(tmp_path / "anew")]) == 0
    assert main(["unpack", str(two / "zero"), "--out", str(tmp_path / "one")]) == 0
    assert [path.name for path in sorted((tmp_path / "anew").iterdir())] == ["joint", "zero"]
    assert read_manifest(tmp_path / "one" / "zero") == read_manifest(tmp_path / "anew" / "zero")


@pytest.mark.parametrize("names", [("a", "a"), ("", "a"), ("a", "../b"), ("a", "b/c"), ("..",)])
def test_names_of_runs_are_file_names_each_once(names: tuple[str, ...], folders: list[Path], tmp_path: Path) -> None:
    lines: list[bytes] = []
    for name in names:
        first, *rest = lzma.decompress(compact_runs([("", read_run(folders[0]))])).splitlines()
        lines += [json.dumps({**json.loads(first), "name": name}, separators=(",", ":")).encode(), *rest]
    file = tmp_path / f"a{COMPACT_SUFFIX}"
    file.write_bytes(lzma.compress(b"\n".join(lines)))
    with pytest.raises(UsageError, match="holds no compact results"):
        read_compact(file, lambda manifest, tags: [])


def test_the_command_that_draws_a_run_again_can_be_typed_as_it_is(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_run(folders[0])
    made = {"benchmarked": run, "generated": replace(run, manifest=run.manifest.model_copy(update={"benchmark": None}))}
    file = tmp_path / f"all{COMPACT_SUFFIX}"
    file.write_bytes(compact_runs(made.items()))
    assert main(["unpack", str(file), "--out", str(tmp_path / "a folder")]) == 0
    said = capsys.readouterr().out
    assert f"milr benchmark --resume '{tmp_path}/a folder/benchmarked' draws it again" in said
    assert f"milr generate --resume '{tmp_path}/a folder/generated' draws it again" in said
