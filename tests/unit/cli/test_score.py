"""`milr score`, `milr serve-judge`, and VLM options and panels of `milr generate` on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from milr.cli.main import main
from milr.runs import read_run
from tests.support.paths import GOLDEN

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')

from milr.rewards.icons.reward import Icons, IconsSoft  # noqa: E402
from milr.rewards.vlm.gpt4o import BINARY  # noqa: E402
from milr.rewards.vlm.wise import LEGACY  # noqa: E402
from milr.serve.judge import BadRequest, Judge, recognise  # noqa: E402
from milr.testing import FakeReward  # noqa: E402
from milr.types import Score, Task, Unscored  # noqa: E402
from tests.support.judges import judging  # noqa: E402
from tests.support.placed_reward import add_placed  # noqa: E402
from tests.support.wise_words import use_made_up_words  # noqa: E402

CATS, APPLE = str(GOLDEN / "three_cats.png"), str(GOLDEN / "apple_and_clock.png")
Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    use_made_up_words(monkeypatch, tmp_path / "data")


@pytest.fixture
def judge() -> Iterator[list[str]]:
    """Return the options of commands that ask a judge."""
    with judging(Icons()) as url:
        yield ["--vlm-url", url, "--vlm-model", Judge(Icons()).name]


def scored(*argv: str, capsys: Out) -> list[dict[str, object]]:
    assert main(["score", *argv, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_images_are_scored_for_one_prompt(capsys: Out) -> None:
    assert main(["score", CATS, APPLE, "--prompt", "three cats", "--model", "embedded"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1.000  {CATS}  (correct)"
    assert lines[1].startswith(f"0.000  {APPLE}  (")
    assert lines[2] == f"{Icons().name}: 0.500 on average of 2"


def test_each_image_may_have_a_task_of_its_own(capsys: Out) -> None:
    Path("tasks.txt").write_text("three cats\na red apple left of a blue clock\n")
    rows = scored(CATS, APPLE, "--tasks", "tasks.txt", "--reward", "icons", capsys=capsys)
    assert [(row["value"], row["reward"]) for row in rows] == [(1.0, Icons().name)] * 2
    assert rows[1]["prompt"] == "a red apple left of a blue clock" and rows[1]["regions"][0].keys() == {
        "name",
        "box",
        "confidence",
        "color",
    }


def test_unscorable_images_are_reported(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = FakeReward(unscored_calls=[0])
    monkeypatch.setattr("milr.cli.score.load_reward", lambda name, **options: lost)
    assert main(["score", CATS, "--prompt", "a fine day", "--reward", "gpt-4o", "--json"]) == 3
    row = json.loads(capsys.readouterr().out)
    assert row["value"] is None and row["reason"] and row["reward"] == lost.name


@pytest.mark.parametrize(("limit", "code"), [("0.5", 0), ("0.51", 1), ("1", 1)])
def test_a_mean_below_a_limit_fails(limit: str, code: int, capsys: Out) -> None:
    argv = ["score", CATS, APPLE, "--prompt", "three cats", "--reward", "icons", "--fail-under", limit]
    assert main(argv) == code
    assert "0.500 on average of 2" in capsys.readouterr().out


def broken_images() -> dict[str, bytes]:
    whole = Path(CATS).read_bytes()
    return {
        "text.png": b"no image",
        "cut.png": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "chunk.png": whole[:30] + bytes(40) + whole[70:],
    }


def test_one_bad_image_does_not_stop_the_others(capsys: Out) -> None:
    bad = broken_images()
    for name, content in bad.items():
        Path(name).write_bytes(content)
    assert main(["score", CATS, *bad, CATS, "--prompt", "three cats", "--reward", "icons"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[-2]] == [f"1.000  {CATS}  (correct)"] * 2
    assert [line.split(":")[0] for line in lines[1:-2]] == [f"unscored  {name}" for name in bad]
    assert all("the image cannot be read" in line for line in lines[1:-2])
    assert lines[-1] == f"{Icons().name}: 1.000 on average of 6, 4 unscored"


def test_a_link_that_leads_nowhere_is_counted(capsys: Out, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").symlink_to(CATS)
    (tmp_path / "images" / "b.png").symlink_to("gone.png")
    main(["score", "images", "--prompt", "three cats", "--reward", "icons"])
    assert "1 unscored" in " ".join(capsys.readouterr())


def test_folders_are_scored_in_the_order_of_their_numbers_a_few_images_at_a_time(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("drawn")
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    for hidden in (".DS_Store", "._3.png", ".hidden.png", "Thumbs.db", "notes.txt"):
        (folder / hidden).write_bytes(b"\0")
    calls: list[int] = []

    class Counting(FakeReward):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            calls.append(len(images))
            return super().__call__(images, tasks)

    monkeypatch.setattr("milr.cli.score.load_reward", lambda name, **options: Counting())
    rows = scored("drawn", CATS, "--prompt", "fog", "--reward", "gpt-4o", capsys=capsys)
    assert [row["picture"] for row in rows] == [*(f"drawn/{number}.png" for number in range(20)), CATS]
    assert calls == [16, 5]


def test_tasks_come_from_any_file_of_prompts(capsys: Out) -> None:
    Path("tasks.csv").write_text('id,prompt\n1,three cats\n2,"a red apple left of a blue clock"\n')
    assert main(["score", CATS, APPLE, "--tasks", "tasks.csv", "--reward", "icons"]) == 0
    said = capsys.readouterr()
    assert "1.000 on average of 2" in said.out
    assert said.err == "milr: 'tasks.csv' says more than a task holds; passed over: id\n"


@pytest.mark.parametrize(("argv", "expected"), [([], "icons@1/"), (["--reward", "placed"], "placed@1/meta/float16")])
def test_a_judge_server_loads_the_models_reward_on_the_given_device(
    argv: list[str], expected: str, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_placed(monkeypatch)
    monkeypatch.setattr("milr.serve.listen.wait_for_end", lambda listener: None)
    assert main(["serve-judge", "--port", "0", "--device", "meta", "--dtype", "float16", *argv]) == 0
    assert f"judging by milr:{expected}" in capsys.readouterr().out


def test_networks_are_loaded_on_the_given_device(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    add_placed(monkeypatch)
    argv = ["--prompt", "fog", "--reward", "placed", "--device", "meta", "--dtype", "float16"]
    (row,) = scored(CATS, *argv, capsys=capsys)
    assert row["reward"] == "placed@1/meta/float16"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([CATS], "give either --prompt"),
        ([CATS, "--prompt", "a cat", "--tasks", "x"], "give either --prompt"),
        (["none.png", "--prompt", "a cat", "--reward", "icons"], "no image 'none.png'"),
        (["x" * 300, "--prompt", "a cat", "--reward", "icons"], "no image 'xxx"),
        (
            ["empty", "--prompt", "a cat", "--reward", "icons"],
            "no images in 'empty': give files, or a folder with .png",
        ),
        (["run", "--prompt", "a cat", "--reward", "icons"], "'run' is a run's folder: type milr evaluate run"),
        ([CATS, "--prompt", "a cat"], "nothing says what kind of images these are: give --reward icons for images of"),
        ([CATS, "--prompt", "a cat", "--reward", "self"], "'self' asks a model: give --model, the model that drew"),
        ([CATS, "--prompt", "a fine day", "--reward", "icons"], "give --reward one of these: self, gpt-4o, unified-re"),
        ([CATS, "--prompt", "a fine day", "--model", "embedded"], "'icons' needs an include list, which the task 'a f"),
        ([CATS, "--prompt", "a cat", "--reward", "wise"], "'wise' needs an explanation, which the task 'a cat' lacks"),
        ([CATS, "--prompt", "a cat", "--reward", "icons", "--dtype", "fp16"], "unknown dtype 'fp16'"),
        ([CATS, CATS, "--tasks", "one.txt"], "holds 1 task for 2 images"),
        ([CATS, "--prompt", "a cat", "--reward", "icon"], "did you mean 'icons'"),
        ([CATS, "--prompt", "a cat", "--reward", "mix:icons*x"], "has the weight 'x'"),
        ([CATS, "--prompt", "a cat", "--reward", "gpt-4o"], "set OPENAI_API_KEY"),
        ([CATS, "--prompt", "a cat", "--reward", "unified-reward"], "needs a server"),
        pytest.param(
            [CATS, "--prompt", "a cat", "--reward", "http://127.0.0.1:9/x"], "start its server", marks=pytest.mark.slow
        ),  # four requests, with growing pauses
        ([CATS, "--prompt", "a cat", "--vlm-budget", "lots"], "give calls or tokens"),
        ([CATS, "--prompt", "a cat", "--vlm-url", "there"], "is no URL"),
        (
            [CATS, "--prompt", "a cat", "--reward", "icons", "--vlm-url", "http://localhost:1/v1"],
            "--vlm-url: no reward here asks a VLM: add --reward gpt-4o",
        ),
        ([CATS, "--prompt", "a cat", "--reward", "icons", "--vlm-budget", "5"], "--vlm-budget: no reward here"),
        (
            [CATS, "--prompt", "a cat", "--reward", "icons", "--fail-under", "90"],
            "'--fail-under': '90' must be less than or equal to 1",
        ),
        ([CATS, "--prompt", "a cat", "--vlm-price", "2.5"], "give two prices per million tokens"),
        ([CATS, "--prompt", "a cat", "--vlm-price=-1,2"], "give two prices per million tokens"),
    ],
)
def test_errors_are_one_line(argv: list[str], said: str, capsys: Out) -> None:
    Path("empty").mkdir()
    Path("run").mkdir()
    Path("run/run.json").touch()
    Path("one.txt").write_text("a cat\n")
    assert main(["score", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["gpt-4o", "gpt-4o:p-yes", "wise", "unified-reward", "mix:gpt-4o+icons"])
def test_vlm_judges_are_asked_over_http(reward: str, judge: list[str], capsys: Out) -> None:
    Path("tasks.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "explanation": p}) + "\n" for p in ("three cats", "three cats"))
    )
    argv = [CATS, APPLE, "--tasks", "tasks.jsonl", "--reward", reward, *judge]
    right, wrong = scored(*argv, capsys=capsys)
    assert float(str(right["value"])) == pytest.approx(1.0, abs=1e-5)
    assert float(str(wrong["value"])) == pytest.approx(0.0, abs=1e-5)


def test_a_price_makes_a_cost(judge: list[str], capsys: Out) -> None:
    argv = [CATS, "--prompt", "three cats", "--reward", "gpt-4o", *judge, "--vlm-price", "1000000,0"]
    (first,) = scored(*argv, capsys=capsys)
    assert float(str(first["cost"])) >= 1  # a dollar per token
    (again,) = scored(*argv, capsys=capsys)
    assert "cost" not in again  # from the cache


def test_a_judge_answers_under_its_own_name_alone(judge: list[str], capsys: Out) -> None:
    """A run must not say that GPT-4o judged it, and the cache must not take one judge's answers for another's."""
    argv = ["score", CATS, "--prompt", "three cats", "--reward", "gpt-4o", "--vlm-url", judge[1]]
    assert main(argv) == 3
    said = capsys.readouterr()
    assert "no model 'gpt-4o-2024-11-20' is here" in said.out + said.err
    assert f"type --vlm-model {judge[-1]}" in said.out + said.err
    assert main([*argv, *judge]) == 0
    capsys.readouterr()
    with judging(Icons(), flip=1.0) as url:
        flipped = ["--vlm-url", url, "--vlm-model", Judge(Icons(), flip=1.0).name]
        (row,) = scored(*argv[1:6], *flipped, capsys=capsys)
    assert row["value"] == 0.0 and flipped[-1] in str(row["reward"])


def test_an_icon_judge_gives_wise_middle_marks_for_realism_and_beauty(judge: list[str], capsys: Out) -> None:
    Path("tasks.jsonl").write_text('{"prompt": "three cats", "explanation": "cats"}\n')
    (row,) = scored(CATS, "--tasks", "tasks.jsonl", "--reward", "wise-legacy", *judge, capsys=capsys)
    assert row["value"] == pytest.approx(0.85)


def test_a_judge_server_recognises_the_protocol_of_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(prompt='a "b"\n{x}', explanation="(.*)")
    for known in (LEGACY.with_words(), BINARY):
        protocol, found = recognise(known.fill(task))
        assert (protocol.name, found.prompt) == (known.name, 'a "b"\n{x}')
    monkeypatch.setenv("MILR_DATA", str(tmp_path / "empty"))
    with pytest.raises(
        BadRequest, match="reads the questions of gpt-4o, .*; wise-legacy is not among them here: .*get wise-legacy; "
    ):
        recognise("What is this?")


def test_a_share_of_verdicts_can_be_reversed() -> None:
    pictures = [Image.new("RGB", (16, 16), (i, i // 2, 255 - i)) for i in range(200)]

    def flips(share: float) -> list[bool]:
        judge = Judge(Icons(), flip=share)
        return [judge.flips(picture, Task(prompt="a cat")) for picture in pictures]

    tenth = flips(0.1)
    assert tenth == flips(0.1)
    assert 8 <= sum(tenth) <= 36
    assert sum(flips(0.0)) == 0 and sum(flips(1.0)) == 200


@pytest.mark.slow
def test_generate_with_a_vlm_judge_a_panel_and_a_budget(judge: list[str], capsys: Out) -> None:
    argv = ["generate", "a photo of four red dogs", "--reward", "gpt-4o"]
    argv += [*judge, "--vlm-budget", "2"]
    # No reward is above the stop value, and no answer is cached, so only the budget ends the search.
    argv += ["--stop-at", "1", "--method", "best-of-n-sampled"]
    assert main([*argv, "--panel", "icons-soft,gpt-4o:p-yes", "--steps", "4", "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"milr: VLM judge: {re.escape(judge[-1])} at 127.0.0.1:\d+: 5 calls at most", out)
    assert "unscored" in out and "the VLM budget of 2 calls is spent" in out
    assert "panel icons-soft: " in out and "VLM judges: 2 calls" in out
    run = read_run("run")
    assert run.manifest.vlm_usage is not None and run.manifest.vlm_usage["calls"] == 2
    assert run.manifest.panel[0] == IconsSoft().name
    last = run.tasks[0].last
    assert last.finished == "unscored" and set(last.panel_best) == {"icons-soft", "gpt-4o:p-yes"}
