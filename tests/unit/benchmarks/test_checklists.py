"""GenEval 2 and T2I-CoReBench end to end, on made-up files of the official form, with a real VLM server."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from milr.benchmarks import load_benchmark
from milr.benchmarks.layouts import load_layout
from milr.benchmarks.runner import BenchmarkSettings, check_names
from milr.cli.main import main
from milr.errors import UsageError
from milr.models import embedded_folder
from milr.rewards.vlm.checklist import FORMS
from milr.runs import read_run
from milr.selftest.doctor import examine
from milr.sources import SOURCES, DataFile, Source
from milr.testing import FakeModel
from milr.types import Score, Task, Unscored

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')

from tests.support.vlm_servers import JudgeServer, completion, say, send  # noqa: E402
from tests.support.wise_words import use_made_up_words  # noqa: E402


def write_geneval2() -> Mapping[str, str]:
    """Write 800 rows of 3 to 10 atoms, 100 each."""
    rows = [
        {
            "prompt": f"made-up prompt {number} of {atoms} atoms",
            "atom_count": atoms,
            "vqa_list": [["Are there any owls?", "Yes"], ["How many owls are there?", "two"]],
            "skills": ["object", "count"],
        }
        for atoms in range(3, 11)
        for number in range(100)
    ]
    return {"geneval2_data.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)}


def write_corebench() -> Mapping[str, str]:
    """Write 12 dimensions of 90 entries."""
    return {
        f"{name}.json": json.dumps(
            {
                f"{name}-{number:03d}": {
                    "Main Class": "x",
                    "Prompt": f"{name} prompt {number}",
                    "Checklist": [{"question": "Is it there?", "tags": []}, {"question": "Is it red?", "tags": ["a"]}],
                }
                for number in range(1, 91)
            }
        )
        for name in load_benchmark("t2i-corebench").columns
    }


@pytest.fixture(autouse=True)
def official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put files where a mirror has them, under the official hashes; the prompts of the judges are there already."""
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    use_made_up_words(monkeypatch, tmp_path / "data")
    mirror = tmp_path / "mirror"
    for name, files in (("geneval2", write_geneval2()), ("t2i-corebench", write_corebench())):
        source = SOURCES[name]
        known: list[DataFile] = []
        for file in source.files:
            path = mirror / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[file.name], encoding="utf-8")
            known.append(replace(file, sha256=sha256(files[file.name].encode()).hexdigest()))
        assert source.judge is not None
        (mirror / source.judge.path).write_bytes((tmp_path / "data" / name / source.judge.name).read_bytes())
        monkeypatch.setitem(SOURCES, name, replace(source, files=tuple(known)))  # type: ignore[misc]
    return mirror


@pytest.fixture
def mirror_url(official_files: Path) -> Iterator[str]:
    """Serve the files on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(official_files))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined,method-assign]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def free_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the folder of a model that reads any prompt, as its config says; a fake one draws."""
    free = tmp_path / "free"
    shutil.copytree(embedded_folder("embedded-small"), free, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((free / "milr.json").read_text())
    (free / "milr.json").write_text(json.dumps({**settings, "grammar": "free"}))
    monkeypatch.setattr("milr.parts.load_model", lambda *names, **options: FakeModel())
    return str(free)


@pytest.mark.parametrize("name", ["geneval2", "t2i-corebench"])
def test_prompts_are_fetched_by_data_get_and_read_completely(
    name: str, mirror_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = load_benchmark(name)
    with pytest.raises(UsageError, match=f"do not come with milr; type milr data get {name}"):
        benchmark.read(None)
    assert main(["data", "get", name, "--accept-licence", "--from", mirror_url]) == 0
    said = capsys.readouterr().out
    assert f"licence: {SOURCES[name].licence}" in said and said.endswith(f"type: milr benchmark {name}\n")
    tasks = benchmark.read(None)
    assert Counter(task.tag for task in tasks) == benchmark.columns
    assert len({task.key for task in tasks}) == benchmark.prompts and all(task.checklist for task in tasks)
    (SOURCES[name].folder / SOURCES[name].files[0].name).write_text("{}")
    with pytest.raises(UsageError, match="its SHA-256 differs"):
        benchmark.read(None)


@pytest.mark.slow
def test_a_run_resumes_and_has_a_table_by_atoms_and_by_skill(
    mirror_url: str, tmp_path: Path, free_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "get", "geneval2", "--accept-licence", "--from", mirror_url]) == 0
    run = tmp_path / "run"
    with JudgeServer(say("Yes", first=[("Yes", math.log(0.5)), ("two", math.log(0.25))])) as server:
        asks = ["--vlm-url", server.url]
        command = [
            "benchmark",
            "geneval2",
            "--model",
            free_model,
            "--reward",
            "checklist-self",
            "--evaluator",
            "geneval2",
        ]
        command += ["--tags", "3 atoms,10 atoms", "--limit", "4", "--method", "best-of-n", "--steps", "1"]
        capsys.readouterr()
        assert main([*command, *asks, "--batch-size", "1", "--total-drawings", "3", "--out", str(run)]) == 0
        assert "6 calls at most" in capsys.readouterr().err  # two questions about each of three drawings
        assert 0 < len(read_run(run).tasks) < 4
        assert main(["benchmark", "--resume", str(run), *asks]) == 0
        while len(read_run(run).tasks) < 4:
            assert main(["benchmark", "--resume", str(run), *asks]) == 0
    table = capsys.readouterr().out
    assert [line.split()[:3] for line in table.splitlines() if " of 100 prompts" in line][-2:] == [
        ["3", "atoms", "0.3536"],
        ["10", "atoms", "0.3536"],
    ]
    assert "by question (arithmetic means):\nobject           0.5000 [" in table
    assert "\ncount            0.2500 [" in table and "\nmean of prompts  0.3750 [" in table
    finished = read_run(run)
    assert finished.manifest.evaluator == "geneval2@1/Qwen/Qwen3-VL-8B-Instruct"
    assert finished.manifest.reward == "checklist-self@1/fake"
    score = finished.tasks[0].answer.evaluator
    assert isinstance(score, Score) and set(score.parts) == {"Are there any owls?", "How many owls are there?"}
    assert main(["report", str(run), "--format", "json"]) == 0
    questions = next(one for one in json.loads(capsys.readouterr().out) if one["key"] == "questions")
    assert questions["columns"] == ["object", "count", "mean of prompts"]
    (row,) = questions["rows"]
    assert [(cell["value"], cell["prompts"]) for cell in row["cells"]] == [(0.5, 4), (0.25, 4), (0.375, 4)]


@pytest.mark.slow
def test_corebench_runs_through_to_a_table_by_dimension(
    mirror_url: str, tmp_path: Path, free_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        words = json.dumps(body["messages"])
        send(handler, completion("Yes." if "C-MI prompt" in words or "Is it there?" in words else "No."))

    assert main(["data", "get", "t2i-corebench", "--accept-licence", "--from", mirror_url]) == 0
    run = tmp_path / "run"
    with JudgeServer(answer) as server:
        command = ["benchmark", "t2i-corebench", "--model", free_model, "--vlm-url", server.url, "--out", str(run)]
        command += ["--tags", "C-MI,R-RR", "--limit", "4", "--method", "one-shot"]
        capsys.readouterr()
        assert main(command) == 0
        assert len(server.asked) == 8  # two questions about each of four images
        for words in map(json.dumps, server.asked):
            assert "You tick boxes" in words and ("C-MI prompt" in words) != ("R-RR prompt" in words)
    table = capsys.readouterr().out
    shown = {line.split()[0]: line for line in table.splitlines() if " prompts" in line}
    assert {name: float(line.split()[1]) for name, line in shown.items()} == {"C-MI": 1.0, "R-RR": 0.5, "Overall": 0.75}
    assert shown["C-MI"].endswith("2 of 90 prompts") and shown["Overall"].endswith("4 of 1080 prompts")
    finished = read_run(run)
    assert finished.manifest.reward.startswith("t2i-corebench@")
    scores = {task.task.tag: task.answer.reward for task in finished.tasks}
    found = scores["R-RR"]
    assert isinstance(found, Score) and dict(found.parts) == {"Is it there?": 1.0, "Is it red?": 0.0}


def mark(task: Task, values: Sequence[float], mean: float, reward: str) -> Score:
    """Return a score with a value for each question."""
    return Score(mean, reward, 0.9, dict(zip([item.question for item in task.checklist], values, strict=True)))


def test_geneval2s_scorer_finds_each_prompts_image_and_gets_its_score_lists(
    official_files: Path, tmp_path: Path
) -> None:
    layout, tasks = load_layout("geneval2"), load_benchmark("geneval2").read(official_files)
    data, out = official_files / "geneval2_data.jsonl", tmp_path / "out"
    named = {layout.name_picture(task, place, 0, 1): (task, place) for place, task in enumerate(tasks)}
    (files,) = layout.describe(named).items()
    out.mkdir()
    (out / files[0]).write_text(files[1])
    # the official rule: each prompt of the data, in the order of the file, has a path in the object
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    paths = json.loads((out / "image_paths.json").read_text())
    assert [named[paths[row["prompt"]]][1] for row in rows] == list(range(800))
    with pytest.raises(UsageError, match="one image per prompt, and these are 2"):
        layout.name_picture(tasks[0], 0, 0, 2)
    found = layout.find(out, data)
    assert [picture.task for picture in found] == tasks and found[799].key == "images/00799.png"
    scored = [
        (one, mark(one.task, [place % 2, 0.5], place % 2 * 0.5**0.5, "geneval2@1/q")) for place, one in enumerate(found)
    ]
    told = layout.write(out, out, scored, "geneval2@1/q")
    assert json.loads((out / "score_lists.json").read_text()) == [[place % 2, 0.5] for place in range(800)]
    assert "3 atoms          = 35.36 (100)" in told and "Score            = 35.36" in told
    assert "object           = 50.00 (800)" in told and "count            = 50.00 (800)" in told
    layout.write(out, out, [*scored[1:], (found[0], Unscored("down", "geneval2@1/q"))], "geneval2@1/q")
    assert not (out / "score_lists.json").exists()  # the official analysis would pair its lists with wrong prompts


@pytest.mark.parametrize(
    ("paths", "prompts", "said"),
    [
        (None, None, "no .*image_paths.json"),
        ([], None, "names no images"),
        ({"made-up prompt 0 of 3 atoms": "../x.png"}, None, "leads out of .*; give paths from that folder"),
        ({"another": "x.png"}, None, "has no prompt 'another'"),
        ({"made-up prompt 0 of 3 atoms": "x.png"}, "given", "names no image of 'made-up prompt 1 of 3 atoms'"),
        ({"made-up prompt 0 of 3 atoms": "x.png"}, "other", "none of the benchmark's data files: it has no atom_count"),
        ({"made-up prompt 0 of 3 atoms": "x.png"}, None, ""),
    ],
)
def test_folders_that_geneval2s_scorer_would_fail_on_are_refused(
    paths: object, prompts: str | None, said: str, official_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = official_files / "geneval2_data.jsonl"
    monkeypatch.setattr(Source, "find", lambda source, folder: data.parent)
    (tmp_path / "other.jsonl").write_text('{"prompt": "a cat"}\n')
    if paths is not None:
        (tmp_path / "image_paths.json").write_text(json.dumps(paths))
    with pytest.raises(UsageError, match=said) if said else nullcontext():
        where = {None: None, "given": data, "other": tmp_path / "other.jsonl"}[prompts]
        assert len(load_layout("geneval2").find(tmp_path, where)) == 1


def test_corebenchs_scorer_finds_each_entrys_images_and_its_own_result_files(
    official_files: Path, tmp_path: Path
) -> None:
    layout, tasks = load_layout("t2i-corebench"), load_benchmark("t2i-corebench").read(official_files / "data")
    for place in (0, 89, 90, 1079):
        for image in range(2):
            path = tmp_path / layout.name_picture(tasks[place], place, image, 2)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            key = "-".join(path.name.split("-")[:3])  # the official rule
            entry = json.loads((official_files / "data" / f"{path.parent.name}.json").read_text())[key]
            assert entry["Prompt"] == tasks[place].prompt
    found = layout.find(tmp_path, official_files / "data")
    assert [picture.key for picture in found[:4]] == [
        f"C-MI/C-MI-{key}.png" for key in ("001-0", "001-1", "090-0", "090-1")
    ]
    scored = [
        (one, mark(one.task, [1, place % 2], (1 + place % 2) / 2, "t2i-corebench@1/q"))
        for place, one in enumerate(found)
    ]
    told = layout.write(tmp_path, tmp_path, scored, "t2i-corebench@1/q")
    written = json.loads((tmp_path / "C-MI.json").read_text())
    assert list(written) == ["C-MI-001-0", "C-MI-001-1", "C-MI-090-0", "C-MI-090-1", "mean_score"]
    first = written["C-MI-001-0"]
    assert [item["score"] for item in first["Checklist"]] == [1, 0] and first["image_score"] == 0.5
    assert first["Main Class"] == "x" and written["mean_score"] == 0.75
    assert "C-MI             = 75.00 (4)" in told and "Overall          = 75.00" in told
    (tmp_path / "C-MA" / "C-MA-001.png").touch()
    with pytest.raises(UsageError, match="name it C-MA-001-0.png"):
        layout.find(tmp_path, official_files / "data")


@pytest.mark.parametrize(("benchmark", "scorer"), [("wise", "wise-legacy"), ("wise-legacy", "wise")])
def test_a_benchmark_refuses_the_scorer_of_its_other_edition(benchmark: str, scorer: str) -> None:
    for named in ({"evaluator": scorer}, {"reward": scorer}):
        with pytest.raises(UsageError, match=f"another edition .* give --{next(iter(named))} {benchmark}"):
            check_names(BenchmarkSettings(benchmark=benchmark, **named))


@pytest.mark.parametrize("name", ["checklist", "geneval2", "t2i-corebench"])
def test_the_doctor_reads_known_answers_and_looks_for_the_words(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", name]) == 0
    assert f"{name}'s reader: reads 'Yes'" in capsys.readouterr().out
    monkeypatch.setenv("MILR_DATA", str(tmp_path / "nothing"))
    assert main(["doctor", name]) == (0 if name == "checklist" else 1)
    said = capsys.readouterr().out
    assert (f"WRONG {name}'s words" in said and f"milr data get {name}" in said) or name == "checklist"
    form = FORMS[name]
    monkeypatch.setitem(FORMS, name, replace(form, reading="word" if form.reading != "word" else "probability"))  # type: ignore[misc]
    examined = [finding.fine for finding in examine(name) if "reader" in finding.subject]
    assert examined == [True, True]  # each form is checked by answers of its own kind


def test_scores_of_other_rewards_have_no_table_by_question() -> None:
    from milr.benchmarks.base import Answer
    from milr.benchmarks.tables import summarise
    from milr.types import ChecklistItem, Task

    benchmark = load_benchmark("geneval2")
    task = Task(prompt="x", tag="3 atoms", checklist=(ChecklistItem(question="Q?", tags=("verb",)),))
    score = Score(0.5, "gpt-4o@2", 0.9)
    assert summarise(benchmark, [Answer(task, 0, 0, score.value, score.parts)]).items == ()
    (verb, whole) = summarise(benchmark, [Answer(task, 0, 0, 0.5, {"Q?": 0.5}), Answer(task, 1, 0, None)]).items
    assert (verb.name, verb.mean, verb.prompts, verb.of) == ("verb", 0.5, 1, 82)
    assert (whole.mean, whole.prompts, whole.of) == (0.5, 1, 800)
