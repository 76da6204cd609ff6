"""`milr score-folder`: official folders in, official files out, also after interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from bench.random_weights import write_detector
from milr.benchmarks.layouts.geneval import GenEvalLayout, summarise
from milr.benchmarks.score_folder import JOURNAL, SUMMARY, UNSCORED, FolderJob
from milr.cli.main import main
from milr.errors import UsageError
from milr.models.devices import Placement
from milr.rewards import load_reward
from milr.rewards.geneval.known_answers import tiny_config
from milr.rewards.geneval.weights import DETECTOR
from milr.tasks import parse_prompt
from tests.support.forks import ForkServer
from tests.support.placed_reward import add_placed

data = pytest.importorskip("skimage.data", reason='needs pip install "milr[dev]"')

pytestmark = pytest.mark.usefixtures("one_thread", "geneval_weights")

PROMPTS = (
    "a photo of a cat",
    "a photo of a cup and a spoon",
    "a photo of two cups",
    "a photo of a red motorcycle",
    "a photo of a cat right of a dog",
    "a photo of a white cup and a brown dining table",
)
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
DEADLINE = 600.0  # seconds, for a busy machine
COLUMNS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return seven photographs of six prompts with all tags in GenEval's layout, and two files that are not images."""
    folder = tmp_path_factory.mktemp("folders") / "pictures"
    for number, prompt in enumerate(PROMPTS):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        task = parse_prompt(prompt).model_dump(by_alias=True, exclude_none=True, exclude={"explanation"})
        (folder / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps(task) + "\n")
        photograph = Image.fromarray(getattr(data, PHOTOGRAPHS[number % 4])())
        photograph.resize((160, 120 + 8 * number)).save(samples / "0000.png")
    shutil.copy(folder / "00000/samples/0000.png", folder / "00001/samples/0001.png")
    (folder / "00002/samples/0001.png").write_bytes(b"no picture")
    whole = (folder / "00003/samples/0000.png").read_bytes()
    (folder / "00003/samples/0001.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    """Return a copy of them."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def job(folder: Path, out: Path, **more: object) -> FolderJob:
    return FolderJob(folder, "geneval", out=out, options={"self_test": False}, **more)  # type: ignore[arg-type]


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("results.jsonl", UNSCORED, SUMMARY)}


def finish(work: FolderJob) -> dict[str, bytes]:
    for _ in work.run():
        pass
    work.conclude()
    return files(work.out)


@pytest.fixture(scope="module")
def scored(pictures: Path, geneval_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of an uninterrupted program that scored the pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILR_WEIGHTS", str(geneval_root))
        return finish(job(pictures, tmp_path_factory.mktemp("scored") / "out"))


@pytest.fixture
def expected(scored: dict[str, bytes], pictures: Path, folder: Path) -> dict[str, bytes]:
    """Return those files with the names of the copy."""
    return {name: content.replace(bytes(pictures), bytes(folder)) for name, content in scored.items()}


# --- end to end ---


@pytest.mark.slow
def test_photographs_become_official_rows(folder: Path, tmp_path: Path) -> None:
    work = job(folder, tmp_path / "out")
    finish(work)
    rows = [json.loads(line) for line in (work.out / "results.jsonl").read_text().splitlines()]
    assert [Path(row["filename"]).relative_to(folder).as_posix() for row in rows] == [
        *("00000/samples/0000.png", "00001/samples/0000.png", "00001/samples/0001.png", "00002/samples/0000.png"),
        *("00003/samples/0000.png", "00004/samples/0000.png", "00005/samples/0000.png"),
    ]
    reward = load_reward("geneval", self_test=False)
    for row in rows:
        assert list(row) == COLUMNS
        task = parse_prompt(row["prompt"])
        assert row["tag"] == task.tag
        metadata = json.loads((Path(row["filename"]).parents[1] / "metadata.jsonl").read_text())
        assert json.loads(row["metadata"]) == metadata
        with Image.open(row["filename"]) as picture:
            (score,) = reward([picture], [task])
        assert row["correct"] is (score.value == 1)  # type: ignore[union-attr]
        assert bool(row["reason"]) is not row["correct"]
        boxes = json.loads(row["details"])
        limit = 0.9 if task.tag == "counting" else 0.3
        assert all(len(box) == 5 and box[4] > limit for found in boxes.values() for box in found)
    assert any(json.loads(row["details"]) for row in rows)


@pytest.mark.slow
def test_broken_images_are_unscored_and_reported(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["score-folder", str(folder), "--benchmark", "geneval", "--no-self-test"]) == 3
    said = capsys.readouterr()
    out = tmp_path / "pictures-geneval"
    assert "Unscored, left out above: 2 of 9 pictures" in said.out
    assert "unscored: 00002/samples/0001.png: the image cannot be read" in said.err
    assert "Total images: 7" in said.out
    official = dict(re.findall(r"^(\w+) += ([\d.]+)% \(", said.out, re.M))
    intervals = re.findall(r"^(\w+) += ([\d.]+) \[([\d.]+), ([\d.]+)\], n = (\d+)$", said.out, re.M)
    assert [name for name, *_ in intervals] == [*official, "Overall"]
    for name, mean, low, high, prompts in intervals:
        assert float(low) <= float(mean) <= float(high) and float(high) - float(low) > 0.2 and 1 <= int(prompts) <= 6
        assert name == "Overall" or float(official[name]) == pytest.approx(100 * float(mean), abs=0.01)
    listed = [json.loads(line)["picture"] for line in (out / UNSCORED).read_text().splitlines()]
    assert listed == ["00002/samples/0001.png", "00003/samples/0001.png"]
    assert str(folder) not in (out / UNSCORED).read_text()
    assert (out / SUMMARY).read_text() == said.out.removesuffix("\n")


@pytest.mark.slow
def test_the_summary_names_the_scorer(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["score-folder", str(folder), "--benchmark", "geneval", "--reward", "geneval-hf", "--no-self-test"]
    assert main(command) == 3
    lines = capsys.readouterr().out.splitlines()
    scorer = load_reward("geneval-hf", self_test=False).name
    assert lines[0].startswith(f"Scored by {scorer}, milr ") and scorer.startswith("geneval-hf-approximation@1/")
    assert lines[1:4] == [
        f"Not this benchmark's own scorer: compare only with numbers of {scorer}.",
        "The self-test was skipped: these numbers prove nothing.",
        "6 prompts are here; the whole benchmark has 553.",
    ]
    assert lines[4:7] == ["", "Summary", "======="]
    assert (tmp_path / "pictures-geneval-hf").is_dir()


@pytest.mark.slow
def test_nothing_is_scored_where_the_self_test_fails(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["score-folder", str(folder), "--benchmark", "geneval", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "fails its self-test, so nothing is scored" in said.err
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.slow
def test_the_scorer_is_loaded_on_the_given_device(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    add_placed(monkeypatch)
    command = [
        "score-folder",
        str(folder),
        "--benchmark",
        "geneval",
        "--reward",
        "placed",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--device", "meta", "--dtype", "float16"]) == 3
    assert capsys.readouterr().out.startswith("Scored by placed@1/meta/float16, milr ")


def test_a_scorer_with_needs_that_the_folder_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'wise' needs an explanation, .* give --reward one of these: .*geneval"):
        FolderJob(folder, "geneval", reward="wise", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- killed and resumed ---


def icons(folder: Path, out: Path) -> FolderJob:
    """Uses a fast reward, because the journal does not depend on the reward."""
    return FolderJob(folder, "geneval", reward="icons", out=out)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_files(folder: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    out = tmp_path / "killed"
    list(islice(job(folder, out).run(), 4))
    journal = out / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 4
    # The kill came while a line was written.
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    resumed = job(folder, out)
    assert resumed.done == 3
    assert finish(resumed) == expected
    assert json.loads(expected["results.jsonl"].splitlines()[0])["filename"].startswith(str(folder))


def start(milr: Path, folder: Path, out: Path, processes: int) -> subprocess.Popen[str]:
    """Run the command line as a separate program; its children keep its error stream open."""
    command = ["score-folder", str(folder), "--benchmark", "geneval", "--no-self-test"]
    command += ["--out", str(out), "--processes", str(processes)]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [milr, *command],
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(program: subprocess.Popen[str], journal: Path, pictures: int) -> int:
    """Kill the command when this many images are in the journal; return the number of complete lines."""
    deadline = time.monotonic() + DEADLINE
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 1 + pictures:
        assert time.monotonic() < deadline, "nothing was scored"
        with suppress(subprocess.TimeoutExpired):
            program.wait(0.01)
            raise AssertionError(f"it ended before it could be killed: {program.communicate()[1]}")
    program.kill()
    # Returns when the last of its processes has ended: none is left with its weights.
    program.communicate(timeout=DEADLINE)
    assert program.returncode == -signal.SIGKILL
    return journal.read_bytes().count(b"\n") - 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_program_resumes_to_the_same_files(
    folder: Path, tmp_path: Path, processes: int, forks: ForkServer, expected: dict[str, bytes]
) -> None:
    milr, out = forks.caller("milr", "milr"), tmp_path / "killed"
    kept = kill_after(start(milr, folder, out, processes), out / JOURNAL, 1)
    assert 1 <= kept < len(PROMPTS) + 3
    assert not (out / "results.jsonl").exists()
    resumed = start(milr, folder, out, processes)
    _, said = resumed.communicate(timeout=DEADLINE)
    assert resumed.returncode == 3, said  # two images are broken
    assert re.search(r"milr: [1-9]\d* of 9 images are scored already", said)
    assert files(out) == expected


def test_a_finished_folder_is_not_scored_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = finish(icons(folder, out))
    again = icons(folder, out)
    # Images that could not be scored are tried again.
    assert again.done == 7
    assert {picture.key for picture, _ in again.run()} == {"00002/samples/0001.png", "00003/samples/0001.png"}
    again.conclude()
    assert files(out) == expected


def test_a_kill_before_the_journal_leaves_a_folder_that_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "lock").write_text("")
    (out / f"{JOURNAL}.part").write_text('{"bench')
    finish(icons(folder, out))


def test_two_programs_do_not_score_into_one_folder(folder: Path, tmp_path: Path) -> None:
    first, second = icons(folder, tmp_path / "out"), icons(folder, tmp_path / "out")
    begun = first.run()
    next(begun)
    with pytest.raises(UsageError, match="another program scores into .*: wait until it ends, or give another --out"):
        next(second.run())
    list(begun)
    first.conclude()
    assert icons(folder, tmp_path / "out").done == 7


@pytest.mark.slow
def test_changed_images_are_scored_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(icons(folder, out))
    shutil.copy(folder / "00000/samples/0000.png", folder / "00002/samples/0001.png")
    shutil.copy(folder / "00005/samples/0000.png", folder / "00000/samples/0000.png")
    (folder / "00001/samples/0000.png").unlink()
    shutil.copy(folder / "00001/metadata.jsonl", folder / "00004/metadata.jsonl")
    shutil.copy(folder / "00001/samples/0001.png", folder / "00005/samples/0003.png")
    again = icons(folder, out)
    assert {picture.key for picture, _ in again.run()} == {
        *("00000/samples/0000.png", "00002/samples/0001.png", "00003/samples/0001.png"),
        *("00004/samples/0000.png", "00005/samples/0003.png"),
    }
    again.conclude()
    assert files(out) == finish(icons(folder, tmp_path / "anew"))


def test_scores_of_another_scorer_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    finish(icons(folder, tmp_path / "out"))
    with pytest.raises(UsageError, match="holds scores of icons for geneval"):
        FolderJob(folder, "geneval", reward="icons-soft", out=tmp_path / "out")
    with pytest.raises(UsageError, match="holds other files"):
        icons(folder, folder)


@pytest.mark.parametrize("left", [0, 1], ids=["all is scored", "an image is left"])
@pytest.mark.parametrize("reward", [pytest.param("geneval", marks=pytest.mark.slow), "placed"])
def test_scores_of_older_weights_of_the_same_reward_are_not_used(
    reward: str, left: int, folder: Path, tmp_path: Path, geneval_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_placed(monkeypatch)
    for number in range(1, 6):
        shutil.rmtree(folder / f"{number:05d}")  # one image is enough
    out, options = tmp_path / "out", {"self_test": False}
    finish(FolderJob(folder, "geneval", reward=reward, out=out, options=options))
    if left:
        shutil.copytree(folder / "00000", folder / "00001")
    new = Placement("cpu", "float16")  # the name of `placed` has it
    if reward == "geneval":
        shutil.copytree(geneval_root, tmp_path / "weights")
        write_detector(tmp_path / "weights" / DETECTOR.name, tiny_config(), seed=2)
        monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path / "weights"))
    before = files(out), (out / JOURNAL).read_bytes()
    again = FolderJob(folder, "geneval", reward=reward, out=out, options=options, placement=new)
    with pytest.raises(
        UsageError, match=f"holds scores of {reward}@1/.*, and here is {reward}@1/.*: give another --out"
    ):
        list(again.run())
    assert (files(out), (out / JOURNAL).read_bytes()) == before


@pytest.mark.slow
def test_several_processes_give_the_same_files(
    folder: Path, tmp_path: Path, forked_python: None, expected: dict[str, bytes]
) -> None:
    assert finish(job(folder, tmp_path / "two", processes=2)) == expected


@pytest.mark.slow
def test_a_program_without_a_main_guard_gets_one_error(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\nfrom milr.benchmarks.score_folder import FolderJob\n"
        f"list(FolderJob(Path({str(folder)!r}), 'geneval', reward='icons-soft', out=Path('out'), processes=2).run())\n"
    )
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]
    assert "bootstrapping phase" not in done.stderr and "another program scores" not in done.stderr


@pytest.mark.slow
def test_an_error_of_a_process_is_reported(folder: Path, tmp_path: Path, forked_python: None) -> None:
    with pytest.raises(Exception, match="fails its self-test"):
        finish(FolderJob(folder, "geneval", out=tmp_path / "out", processes=2))


# --- the layout ---


def test_only_files_that_the_official_scorer_finds_are_found(folder: Path) -> None:
    (folder / "notes").mkdir()
    samples = folder / "00000" / "samples"
    (folder / "00000" / "grid.png").write_bytes(b"")
    for name in ("0001.jpg", "a.png", "x0001.png"):
        (samples / name).write_bytes(b"")
    (samples / "0002.png").mkdir()
    (samples / "10.png").write_bytes(b"")
    (samples / "9.png.bak").write_bytes(b"")
    found = [picture.key for picture in GenEvalLayout().find(folder, None)]
    assert found[:4] == [f"00000/samples/{name}" for name in ("0000.png", "9.png.bak", "10.png")] + [
        "00001/samples/0000.png"
    ]
    assert len(found) == 11


def test_a_folder_that_lacks_prompts_is_refused_where_the_prompts_are_given(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [(folder / f"{number:05d}" / "metadata.jsonl").read_text() for number in range(6)]
    prompts.write_text("".join(lines))
    assert len(GenEvalLayout().find(folder, prompts)) == 9
    prompts.write_text("".join(lines) + json.dumps({"tag": "single_object", "prompt": "a photo of a bench"}) + "\n")
    with pytest.raises(UsageError, match="1 prompts of prompts.jsonl have no image .* 'a photo of a bench'"):
        GenEvalLayout().find(folder, prompts)


@pytest.mark.slow
def test_the_official_metadata_is_read(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "geneval" / "evaluation_metadata.jsonl"
    for number, line in enumerate(source.read_text().splitlines()):
        samples = tmp_path / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(line)
        (samples / "0000.png").write_bytes(b"")
    found = GenEvalLayout().find(tmp_path, source)
    assert len(found) == len({picture.task.key for picture in found}) == GenEvalLayout.prompts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "metadata.jsonl"),
        ("{", "is not GenEval's metadata"),
        ("[]", "is not GenEval's metadata"),
        ("5", "is not GenEval's metadata"),
        ('{"prompt": "a dog", "include": [{"class": "dog"}]}', "has no tag"),
        ('{"prompt": "a dog", "tag": "x", "include": [{"class": "dgo"}]}', "unknown object 'dgo'"),
        ('{"prompt": "a dog", "tag": "x"}', "does not say what is correct"),
    ],
)
def test_metadata_that_cannot_be_read_is_refused_before_anything_is_scored(
    folder: Path, metadata: str | None, said: str
) -> None:
    path = folder / "00001" / "metadata.jsonl"
    path.unlink()
    if metadata is not None:
        path.write_text(metadata)
    with pytest.raises(UsageError, match=said) as error:
        GenEvalLayout().find(folder, None)
    assert "00001" in str(error.value)


def test_a_folder_of_another_layout_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["score-folder", str(tmp_path), "--benchmark", "geneval"]) == 2
    assert "no images" in capsys.readouterr().err
    assert main(["score-folder", str(tmp_path / "no"), "--benchmark", "geneval"]) == 2
    assert main(["score-folder", str(tmp_path), "--benchmark", "genevla"]) == 2
    assert "did you mean 'geneval'" in capsys.readouterr().err


def test_a_name_of_non_decimal_digits_is_skipped(folder: Path) -> None:
    (folder / "\u00b2" / "samples").mkdir(parents=True)
    assert len(GenEvalLayout().find(folder, None)) == 9


def test_an_image_that_disappears_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = GenEvalLayout().find(folder, None)
    monkeypatch.setattr(GenEvalLayout, "find", lambda *_: found)
    (folder / "00004/samples/0000.png").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*00004/samples/0000.png \(No such file"):
        icons(folder, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["score-folder", str(folder), "--benchmark", "geneval", "--reward", "icons", "--out"]
    (tmp_path / "file").write_text("")
    assert main([*command, str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err
    finish(icons(folder, tmp_path / "out"))
    (tmp_path / "out" / "results.jsonl").unlink()
    (tmp_path / "out" / "results.jsonl").mkdir()
    assert main([*command, str(tmp_path / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_prompts_in_any_script_are_scored(folder: Path, tmp_path: Path, capsys) -> None:
    named = folder.rename(tmp_path / "Bilder \u732b")
    metadata = named / "00000" / "metadata.jsonl"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "prompt": "ein Photo: \u732b"}), "utf-8")
    command = [
        "score-folder",
        str(named),
        "--benchmark",
        "geneval",
        "--reward",
        "icons",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 3
    first = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    assert first["prompt"] == "ein Photo: \u732b"
    assert first["filename"] == str(named / "00000/samples/0000.png")


def test_a_rewards_argument_is_not_a_path(folder: Path, tmp_path: Path) -> None:
    out = FolderJob(folder, "geneval", reward="mix:icons*0.5+unified-reward:/models/x*0.5").out
    assert out == tmp_path / "pictures-mix-icons-0.5+unified-reward-models-x-0.5"


def test_the_self_reward_is_refused_for_a_folder(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["score-folder", str(folder), "--benchmark", "geneval", "--reward", "self", "--out", str(tmp_path / "o")]
    assert main(command) == 2
    assert "a folder does not say which did: type milr score PICTURE" in capsys.readouterr().err


def test_a_vlm_budget_is_refused_with_several_processes(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["score-folder", str(folder), "--benchmark", "geneval", "--reward", "gpt-4o", "--processes", "2"]
    assert main([*command, "--vlm-budget", "5"]) == 2
    assert "a VLM budget is counted in one process, not in 2" in capsys.readouterr().err


def test_zero_processes_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="0 processes"):
        FolderJob(folder, "geneval", processes=0)


# --- the summary ---


def test_the_summary_is_the_official_one() -> None:
    rows = [
        {"tag": tag, "metadata": f"{tag} {prompt}", "correct": correct}
        for tag, prompt, correct in [
            ("single_object", 1, True),
            ("single_object", 1, False),
            ("counting", 2, False),
            ("counting", 2, False),
            ("counting", 3, True),
            ("color_attr", 4, True),
        ]
    ]
    # Computed by hand from summary_scores.py: 3 of 6, 3 of 4 prompts, the mean of 1/2, 1/3 and 1.
    assert summarise(rows) == (
        "Summary\n=======\nTotal images: 6\nTotal prompts: 4\n% correct images: 50.00%\n% correct prompts: 75.00%\n\n"
        "Task breakdown\n==============\nsingle_object    = 50.00% (1 / 2)\ncounting         = 33.33% (1 / 3)\n"
        "color_attr       = 100.00% (1 / 1)\n\nOverall score (avg. over tasks): 0.61111\n"
    )


def test_a_summary_of_no_images_counts_zero() -> None:
    assert summarise([]) == "Summary\n=======\nTotal images: 0\n"
