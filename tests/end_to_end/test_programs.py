"""Every program outside the package runs at tiny size."""

from __future__ import annotations

import itertools
import json
import lzma
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from milr.models import embedded_folder, load_model, read_capabilities
from milr.rewards import load_reward
from milr.tasks import OBJECT_NAMES, tasks_from_prompts
from milr.types import Score
from tests.serve.conftest import open_site
from tests.support.forks import ForkServer
from tests.support.paths import ROOT

FOLDERS = ("bench", "experiments", "training", "examples")
TESTED: set[str] = set()
EMBEDDED = read_capabilities(embedded_folder())


def runs(program: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the test of a program."""

    def note(test: Callable[..., None]) -> Callable[..., None]:
        TESTED.add(program)
        return test

    return note


def test_every_program_has_a_test_here() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    programs = {str(path.relative_to(ROOT)) for path in files if '__name__ == "__main__"' in path.read_text()}
    assert programs == TESTED


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the machine with a few megabytes."""
    from bench import machine

    sizes = {"_BYTES": 2**22, "_ROWS": 8, "_INPUTS": 64, "_OUTPUTS": 64}
    for name, size in sizes.items():
        monkeypatch.setattr(machine, name, size)


@pytest.mark.slow
@runs("bench/attention.py")
def test_attention_is_measured(small_machine: None, tmp_path: Path, one_thread: None) -> None:
    from bench import attention

    attention.main(["--tries", "1", "--tokens", "8", "--json", str(tmp_path / "attention.json")])
    report = json.loads((tmp_path / "attention.json").read_text())
    assert [one["tokens"] for one in report["shapes"]] == [8] * len(attention.SHAPES)
    assert all(seconds > 0 for one in report["shapes"] for seconds in one["seconds"].values())


@pytest.mark.slow
@runs("bench/gpu.py")
def test_the_gpu_measurement_runs_on_a_pretended_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    from bench import gpu

    monkeypatch.setattr(gpu, "embedded_folder", lambda: embedded_folder("embedded-small"))  # twice as fast
    pixel = gpu.torch.zeros(1, 1, 1, 3, dtype=gpu.torch.uint8)
    monkeypatch.setattr(gpu.Janus, "_decode_pixels", lambda self, tokens: pixel.repeat(len(tokens), 1, 1, 1))
    files = tmp_path / "gpu.json", tmp_path / "gpu.md"
    gpu.main(["--pretend", "--json", str(files[0]), "--page", str(files[1])])
    found = json.loads(files[0].read_text())
    failed = [name for name, value in found.items() if isinstance(value, str) and value.startswith(("failed", "left"))]
    assert not failed
    for name in ("janus-7b", "janus-1b", "embedded"):
        parts = ("plan", "batch 1", "batch 2", "update, 2 at a time, ms a task", "search, 2 drawings a step")
        assert {f"{name}: {part}" for part in parts} <= set(found)
    assert {"llamagen-xl-512: batch 2", "embedded: reward icons, ms an image", "janus-1b: plain loop"} <= set(found)
    assert found["pixels on a second stream"]["images"] == "equal"
    assert found["tokens against the CPU's"]["float32"]["equal"] == 2
    assert found["recorded against eager"]["float32"] == "equal"
    assert "## janus-7b: batch 2" in files[1].read_text()


@runs("bench/no_gpu.py")
def test_the_substitute_for_cuda_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import no_gpu

    libraries = tmp_path / "torch" / "lib"
    libraries.mkdir(parents=True)
    monkeypatch.setattr(no_gpu, "find_spec", lambda name: SimpleNamespace(origin=str(libraries.parent / "__init__.py")))
    with pytest.raises(SystemExit, match="a CUDA build of torch"):
        no_gpu.main(["--cuda", str(tmp_path)])
    (libraries / "libtorch_cuda.so").touch()
    with pytest.raises(SystemExit, match=r"no CUDA headers in .*: give --cuda"):
        no_gpu.main(["--cuda", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_drawings_are_counted_on_the_substitute_for_cuda(tmp_path: Path) -> None:
    """In a checkout with the CPU's torch this is skipped; docs/performance.md has the counts of another one."""
    from bench import no_gpu

    found = tmp_path / "found.json"
    no_gpu.main(["--memory", "24", "--models", "embedded", "--json", str(found)])
    (card,) = json.loads(found.read_text())
    drawing = card["embedded"]["a drawing, batch 1"]
    assert drawing["broken recordings"] == 0 and drawing["replays"] == 99 and drawing["waits"] <= 4


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
@runs("bench/compare.py")
def test_the_engine_is_compared_with_the_plain_loop(
    full: bool, small_machine: None, tmp_path: Path, one_thread: None
) -> None:
    from bench import compare

    options = ["--full"] if full else ["--tokens", "2"]
    compare.main(
        [
            *("--model", "janus-tiny-random", "--layers", "1", "--dtype", "float32", "--batch", "1", "2"),
            *("--repeats", "1", "--text", "6", *options, "--json", str(tmp_path / "compare.json")),
        ]
    )
    report = json.loads((tmp_path / "compare.json").read_text())
    assert [one["batch"] for one in report["batches"]] == [1, 2]
    for one in report["batches"]:
        assert one["sizes"]["image"] == 16 and one["chunk"] == (None if full else 2)
        assert one["plain"]["step"] > 0 and one["engine"]["step"] > 0


@pytest.mark.slow
def test_the_engine_is_compared_on_the_embedded_model(
    small_machine: None, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fact on its small sibling, which draws twice as fast."""
    from bench import compare

    monkeypatch.setattr(compare, "load_model", lambda **options: load_model("embedded-small", **options))
    compare.main(["--repeats", "1", "--dtype", "float32", "--profile", "--json", str(tmp_path / "compare.json")])
    (one,) = json.loads((tmp_path / "compare.json").read_text())["batches"]
    assert one["sizes"]["image"] == EMBEDDED.image_tokens and one["chunk"] is None
    assert sum(one["profile"].values()) <= 1.01


@pytest.mark.slow
def test_a_llamagen_of_random_weights_has_the_real_size_and_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.random_weights import LLAMAGEN_SIZES, write_llamagen_config
    from milr.cli.main import main
    from milr.models import describe_model

    for name, size in LLAMAGEN_SIZES.items():
        write_llamagen_config(tmp_path / name, size)
    described = describe_model(tmp_path / "llamagen-xl-512")
    assert described.size is not None
    found = described.size.parameters
    assert sum(found[part] for part in found if part not in ("image decoder", "text encoder")) == 777_923_840
    assert (found["image decoder"], found["text encoder"]) == (42_583_171, 1_223_527_424)
    assert described.capabilities.image_size == 512
    capsys.readouterr()
    command = ["plan", "--model", str(tmp_path / "llamagen-tiny"), "--reward", "geneval", "--probe", "--json"]
    assert main([*command, "--batch-size", "2"]) == 0
    measured = json.loads(capsys.readouterr().out)["probe"]
    assert measured["weights"] == "random"
    assert measured["drawings_per_hour"] > 0


@pytest.mark.slow
@runs("bench/random_weights.py")
def test_a_folder_of_random_weights_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench import random_weights
    from milr.cli.main import main

    folder = tmp_path / "random-janus"
    monkeypatch.setattr("sys.argv", ["random_weights", str(folder)])
    random_weights.main()
    assert f"--model {folder}" in capsys.readouterr().out
    reward = str(ROOT / "examples" / "sharpness_reward.py") + ":Sharpness"
    command = ["generate", "two dogs on a red bench", "--model", str(folder), "--reward", reward, "--steps", "1"]
    assert main([*command, "--stop-at", "1", "--out", str(tmp_path / "run")]) == 0
    assert "out of steps" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "parameters"), [("janus-1b", 1_652_656_128), ("janus-7b", 6_910_365_696)])
def test_random_models_have_januss_sizes(name: str, parameters: int, tmp_path: Path) -> None:
    import torch
    from transformers import JanusForConditionalGeneration

    from bench.random_weights import JANUS_SIZES, write_janus_config
    from milr.models.checkpoint import open_checkpoint

    write_janus_config(tmp_path, JANUS_SIZES[name])
    checkpoint = open_checkpoint(tmp_path, weights=False)
    assert checkpoint.profile_name == "janus-pro"
    assert (checkpoint.capabilities.image_size, checkpoint.capabilities.image_tokens) == (384, 576)
    with torch.device("meta"):
        network: Any = JanusForConditionalGeneration(checkpoint.config)
    language = network.model.language_model
    assert sum(one.numel() for part in (language, network.lm_head) for one in part.parameters()) == parameters
    assert checkpoint.config.text_config.rope_parameters["rope_type"] == "default"


@pytest.mark.slow
@runs("bench/geneval_scorer.py")
def test_genevals_scorer_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forks: ForkServer
) -> None:
    from bench import geneval_scorer

    monkeypatch.setattr(geneval_scorer, "PROGRAM", [str(forks.caller("scorer", "bench.geneval_scorer"))])
    monkeypatch.setenv("MILR_WEIGHTS", "")  # the program sets it; monkeypatch restores it
    sizes = ["--size", "tiny", "--pictures", "1", "--repeats", "1", "--side", "32", "--processes", "1"]
    geneval_scorer.main([*sizes, "--work", str(tmp_path), "--json"])
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["one picture"]["masks read"] > 0
    (row,) = found["folder"]
    assert row["processes"] == 1 and row["seconds a picture"]["median"] > 0


@pytest.mark.slow
@runs("bench/scaling.py")
def test_scaling_is_measured(tmp_path: Path, forked_python: None) -> None:
    from bench import scaling

    scaling.main(["--tasks", "1", "--steps", "1", "--batch-size", "1", "--json", str(tmp_path / "scaling.json")])
    (run,) = json.loads((tmp_path / "scaling.json").read_text())["runs"]
    assert run["drawings"] == 2 and run["peak_bytes"] > 2**20


@runs("bench/reply_times.py")
def test_every_parser_of_replies_is_timed() -> None:
    from bench import reply_times

    found = list(reply_times.measure(reply_times.BEGINNINGS[:1], (32, 64)))
    assert {one.parser for one in found} == set(reply_times.PARSERS)
    assert all(one.seconds >= 0 and one.growth > 0 for one in found)


def test_a_busy_machine_makes_no_parser_look_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import reply_times

    dice = random.Random(29)
    kinds: dict[str, Callable[[int], float]] = {"linear": lambda n: n / 1e3, "quadratic": lambda n: n * n / 1e5}

    def take(parser: object, text: str) -> float:  # up to four times as long as alone
        return kinds[str(parser)](len(text)) * dice.choice([1, 1.5, 2, 4])

    monkeypatch.setattr(reply_times, "PARSERS", {name: name for name in kinds})
    monkeypatch.setattr(reply_times, "_time", take)
    found = list(reply_times.measure(reply_times.BEGINNINGS[:1], (32, 64)))
    assert max(one.growth for one in found if one.parser == "linear") < 2.5
    quadratic = sorted(one.growth for one in found if one.parser == "quadratic")
    assert quadratic[len(quadratic) // 2] > 3.0


@pytest.mark.slow
@runs("bench/serve_load.py")
def test_the_server_is_measured_under_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench import serve_load

    with open_site(tmp_path, []) as site:
        assert serve_load.main([site.url, "--clients", "1", "2", "--seconds", "0.2"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["1", "2"]


@pytest.mark.slow
@runs("bench/cluster.py")
def test_a_cluster_is_simulated_from_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason='figures need pip install "milr[report]"')
    pytest.importorskip("simpy", reason="the simulation needs pip install simpy")
    from bench import cluster

    monkeypatch.setattr(cluster, "WORKERS", (8, 16))
    kept, figure = tmp_path / "cluster.json", tmp_path / "cluster.svg"
    cluster.main(["records", "--results", str(kept), "--tasks", "2"])
    cluster.main(["simulate", "--results", str(kept), "--runs", "1", "--figure", str(figure)])
    found = json.loads(kept.read_text())
    assert [one["side"] for one in found["records"]] == [160, 384]
    runs = [one for one in found["simulation"].values() if isinstance(one, dict) and "rows" in one]
    assert runs
    assert all(0 < row["efficiency"] <= 1 for one in runs for row in one["rows"])
    assert "efficiency" in figure.read_text()


@pytest.mark.slow
@runs("bench/workers.py")
def test_workers_are_measured_against_one_process(
    capsys: pytest.CaptureFixture[str], forked_python: None, one_thread: None
) -> None:
    from bench import workers

    workers.main(["--workers", "2", "--tasks", "2", "--steps", "1"])
    assert "equal: True; 4 drawings" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["worker", "coordinator"])
@runs("bench/worker_kills.py")
def test_kills_of_workers_change_no_result(what: str, capsys: pytest.CaptureFixture[str], forked_python: None) -> None:
    from bench import worker_kills

    worker_kills.main([what, "--rounds", "1", "--model", "fake"])
    assert f"{what}: 1 of 1 runs are equal" in capsys.readouterr().out


@pytest.mark.slow
@runs("bench/worker_equality.py")
def test_runs_of_workers_are_compared_with_one_process(capsys: pytest.CaptureFixture[str], forked_python: None) -> None:
    from bench import worker_equality

    worker_equality.main(["--workers", "2", "--model", "fake"])
    assert "1 of 1 runs are equal to that of one process (fake, 8 tasks)" in capsys.readouterr().out


@pytest.mark.slow
@runs("bench/tables.py")
def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='figures need pip install "milr[report]"')
    from bench import tables

    page = tmp_path / "performance.md"
    page.write_text(tables.PAGE.read_text())
    tables.main(["--page", str(page)])
    assert page.read_text() == tables.PAGE.read_text(), "type: make tables"
    drawn = {path.name: path for path in (tmp_path / "images").iterdir()}
    assert set(drawn) == {"batches.svg", "scaling.svg"}
    for name, path in drawn.items():
        assert read_figure(path) == read_figure(tables.PAGE.parent / "images" / name), "type: make tables"


def read_figure(path: Path) -> list[str]:
    """Return a figure's texts and paths, without the version of matplotlib."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if "matplotlib" not in line.lower()]


@pytest.mark.slow
@runs("experiments/tables.py")
def test_every_table_equals_that_of_the_compact_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import tables

    assert tables.main(["--check"]) == 0, capsys.readouterr().out
    page = tables.PAGES[1].read_text(encoding="utf-8")
    wrong = tmp_path / "page.md"
    wrong.write_text("<!-- table: sibling -->\n| the embedded model | 1 |\n<!-- end -->\n")
    assert tables.main(["--check", "--pages", str(wrong)]) == 1
    assert tables.main(["--pages", str(wrong)]) == 0
    assert tables.main(["--check", "--pages", str(wrong)]) == 0
    assert wrong.read_text().removeprefix("<!-- table: sibling -->\n").removesuffix("\n\n<!-- end -->\n") in page


def test_no_table_of_experiments_is_typed_in() -> None:
    from experiments import tables

    texts = [path.read_text(encoding="utf-8") for path in tables.PAGES]
    marks = [name for text in texts for _, name, _ in tables.MARKS.findall(text)]
    assert sorted(marks) == sorted(tables.TABLES)
    outside = tables.MARKS.sub("", texts[1])
    assert not re.search(r"^ *\|", outside, re.M)


@runs("experiments/starts.py")
def test_first_image_tokens_of_redrawn_images_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments import starts

    def image(*tokens: int) -> SimpleNamespace:
        return SimpleNamespace(tokens=tokens)

    steps = [
        SimpleNamespace(step=0, images=[image(5, 900)]),  # not counted
        SimpleNamespace(step=1, images=[image(3, 3, 900)]),
        SimpleNamespace(step=2, images=[image(3, 900, 3)]),
    ]
    values = (0.0, 1.0, 0.0)
    evaluated = [
        SimpleNamespace(step=step, number=0, score=Score(value=value, reward="icons-judge", stop_at=0.9))
        for step, value in enumerate(values)
    ]
    run = SimpleNamespace(tasks=[SimpleNamespace(steps=steps, evaluated=evaluated)])
    monkeypatch.setattr(starts, "read_run", lambda _: run)
    starts.main(["a/run"])
    assert capsys.readouterr().out == "run: 2 redrawn images, 0.50 begin with a ground, 0.500 are right\n"


@runs("experiments/fault_table.py")
def test_the_fault_table_equals_that_of_the_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')
    from experiments import fault_table

    monkeypatch.setenv("MILR_CACHE", str(tmp_path))
    fault_table.main(["--only", "a plain verdict", "no credit", "500 for ever"])
    page = (ROOT / "docs" / "rewards.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        assert line in page


@pytest.mark.slow
@runs("experiments/gallery.py")
def test_the_gallery_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import gallery

    gallery.main(["--number", "2", "--steps", "1", "--strategy", "steer", "--out", str(tmp_path / "gallery.png")])
    with Image.open(tmp_path / "gallery.png") as sheet:
        assert sheet.width > 5 * 2 * EMBEDDED.image_size
    assert "of 2 right by icons-judge" in capsys.readouterr().out


@pytest.mark.slow
@runs("examples/plain_transformers.py")
def test_plain_transformers_draws_what_it_is_asked_for(tmp_path: Path) -> None:
    from examples import plain_transformers

    prompts = ["a red apple", "two red apples", "a dog"]
    plain_transformers.main([*prompts, "--out", str(tmp_path / "grid.png")])
    with Image.open(tmp_path / "grid.png") as grid:
        side = EMBEDDED.image_size
        assert grid.size == (3 * side, side)
        images = [grid.crop((side * place, 0, side * (place + 1), side)) for place in range(3)]
    scores = load_reward("icons")(images, tasks_from_prompts(prompts))
    assert [score.value for score in scores if isinstance(score, Score)] == [1.0] * 3


@runs("examples/reward_server.py")
def test_the_reward_server_says_who_it_is() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "reward_server.py", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/score", timeout=5) as answer:
                    assert json.load(answer)["protocol"] == "milr-reward/1"
                break
            except OSError:
                assert program.poll() is None
                time.sleep(0.1)
        else:
            pytest.fail("no answer in ten seconds")
    finally:
        program.terminate()
        program.wait()


@runs("training/benchmarks.py")
def test_the_prompt_lists_are_written(tmp_path: Path) -> None:
    from training import benchmarks

    benchmarks.main(["--into", str(tmp_path)])
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["benchmark_hashes.txt", "icons-compbench.jsonl", "icons-hard.jsonl", "icons.jsonl", "riddles.jsonl"]


class FakeDocument(list[SimpleNamespace]):
    """A prompt in spaCy's form: each word is a noun, and all words are one phrase."""

    def __init__(self, text: str) -> None:
        words = text.split()
        places = [text.index(word) for word in words]
        super().__init__(
            SimpleNamespace(pos_="NOUN", idx=place, text=word) for place, word in zip(places, words, strict=True)
        )
        self.noun_chunks = [SimpleNamespace(start=0, end=len(words))]


@runs("training/compbench_phrases.py")
def test_the_table_of_phrases_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import compbench_phrases

    spacy: Any = ModuleType("spacy")
    pipeline: Any = lambda text: FakeDocument(text)  # noqa: E731
    spacy.__version__, spacy.load = "0", lambda folder: pipeline
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    pipeline.meta = {"lang": "en", "name": "fake", "version": "0"}
    prompts, folder = tmp_path / "prompts", tmp_path / "pipeline"
    prompts.mkdir()
    folder.mkdir()
    (folder / "config.cfg").write_text("")
    for number, name in enumerate(compbench_phrases.LISTS):
        (prompts / f"{name}.txt").write_text(f"prompt {number}.\n")
    compbench_phrases.main([str(prompts), str(folder), "--out", str(tmp_path / "phrases.json")])
    table = json.loads((tmp_path / "phrases.json").read_text())["prompts"]
    assert len(table) == 2 * len(compbench_phrases.LISTS)
    assert table[compbench_phrases.key_of("prompt 0.")] == ["color", "NN", [0, 6, 7, 9], [0, 1]]


def paint_icons(sizes: dict[str, int]) -> dict[tuple[str, int, str, str], np.ndarray]:
    """Return icons of noise for every name; the drawn ones need npm."""
    from training.icons import COLORS, NATURAL, tint

    random = np.random.default_rng(0)
    painted: dict[tuple[str, int, str, str], np.ndarray] = {}
    for name in OBJECT_NAMES:
        for size, side in sizes.items():
            icon = np.zeros((side, side, 4), np.uint8)
            icon[2:-2, 2:-2, :3] = random.integers(0, 256, 3)
            icon[2:-2, 2:-2, 3] = 255 * (random.random((side - 4, side - 4)) < 0.8)
            for variant, color in itertools.product(range(2), (NATURAL, *COLORS)):
                painted[name, variant, color, size] = tint(icon, color)
    return painted


def shrink(settings: dict[str, Any]) -> dict[str, Any]:
    """Make training small: tiny sizes and two steps per phase."""
    settings["vq"] |= {"codebook": 37 + 11 * 20, "rounds": 1, "base_channels": 32, "channel_multiplier": [1] * 5}
    settings["vq"] |= {"latent_channels": 32, "batch": 1, "decoder_steps": 2, "encoder_steps": 2}
    settings["tokenizer"] |= {"sentences": 500}
    settings["model"] |= {"width": 32, "heads": 1, "feed_forward": 32, "vision_width": 32, "vision_layers": 1}
    settings["model"] |= {"layers": 3}
    settings["model"] |= {"vision_heads": 1}
    unified = settings["unified"]
    unified |= {"reasoning_batch": 2, "checking_batch": 2, "looking_batch": 2, "seeing_batch": 2, "questions": 2}
    unified |= {"decoded_images": 4, "decoded_chunk": 2, "examined": 1}
    for number, phase in enumerate(unified["phases"], start=1):
        phase["until"] = 2 * number
        phase.pop("reasoning_batch", None)
        phase.pop("seeing_batch", None)
        for every in ("drawing_every", "looking_every", "seeing_every"):
            phase[every] = min(1, phase.get(every, 0))
    for kind in [*unified["drawings"], *(kind for phase in unified["phases"] for kind in phase.get("drawings", ()))]:
        kind["batch"] = 2
    unified["phases"][-1]["examined_every"] = 2
    for critic in settings["critics"].values():
        critic |= {"widths": [8] * len(critic["widths"]), "blocks": 1, "steps": 2, "rounds": 1, "batch": 4}
        critic |= {"coded_images": 4, "first_images": 2, "chunk": 2, "coded_from": 1, "calibration_images": 2}
        critic |= {"report_images": 2, "report_pairs": 2}
    settings["labels"] |= {"drawings": 2, "stranger": 2, "wrong": 2}
    settings["card"] = [settings["card"][0] | {"prompts": 6}]
    return settings


@pytest.mark.slow
@runs("training/__main__.py")
def test_every_stage_of_the_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    import torch

    from training import __main__ as program
    from training import golden, labels, layouts, report, stage
    from training.properties import pools, sampling, surroundings

    read = stage.read_settings
    monkeypatch.setattr(stage, "read_settings", lambda **given: shrink(read(**given)))
    library = paint_icons(read()["icons"]["sizes"])
    facts = layouts.icon_facts(library)
    monkeypatch.setattr(program, "icon_library", lambda *_: library)
    monkeypatch.setattr(layouts, "icon_facts", lambda _: facts)
    monkeypatch.setattr(sampling, "BATCH", 2)
    monkeypatch.setattr(sampling, "TEMPERATURES", (1.0,))
    monkeypatch.setattr(sampling, "GUIDANCES", (1.0, 2.0))
    monkeypatch.setattr(surroundings, "GROUNDS", surroundings.GROUNDS[:2])
    monkeypatch.setattr(sampling, "_REPEATS", 1)
    # pools of four drawings instead of 21, in blocks as there
    monkeypatch.setattr(pools, "FIRST", 2)
    monkeypatch.setattr(pools, "_BLOCKS", (1, 1))
    monkeypatch.setattr(pools, "_SAMPLED_BLOCKS", (2, 2))
    monkeypatch.setattr(labels, "_AT_ONCE", 4)
    monkeypatch.setattr(report, "MOST_CHUNKS", 2)
    monkeypatch.setattr(report, "scaled", lambda name, scale: 2)
    # bfloat16 is slow on an old processor
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    for module in (program, labels, report):
        monkeypatch.setattr(module, "load_model", lambda folder, **_: load_model(folder))
    into = ["--into", str(tmp_path), "--threads", "1"]
    for name in ("vq", "unified", "icons-detector", "icons-judge", "export"):  # as `all` runs them, in one process
        program.main([name, *into])
    assert (tmp_path / "embedded" / "model.safetensors").stat().st_size > 0
    before = (tmp_path / "embedded" / "model.safetensors").read_bytes()
    program.main(["export", *into])
    assert (tmp_path / "embedded" / "model.safetensors").read_bytes() == before
    program.main(["card", *into])
    (figures,) = json.loads((tmp_path / "embedded" / "card.json").read_text())["figures"]
    assert figures["prompts"] == 6
    program.main(["sheets", *into])
    sheets = tmp_path / "embedded-build" / "sheets"
    assert len((sheets / "drawings.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(program, "LABELLED", tmp_path / "labelled.jsonl.xz")
    (sheets / "labels.json").write_text('{"0": null, "1": false}')
    program.main(["labelled", *into])
    (stored,) = lzma.decompress((tmp_path / "labelled.jsonl.xz").read_bytes()).decode().splitlines()
    assert json.loads(stored).keys() == {"prompt", "tokens", "right", "called_right"}
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "SCENES", {"cats.png": golden.SCENES["three_cats.png"]})
    program.main(["golden", *into])
    with Image.open(tmp_path / "cats.png") as cats:
        assert cats.size == (160, 160)
    capsys.readouterr()
    for name in ("report", "icons-detector-report", "icons-judge-report"):
        program.main([name, *into, "--scale", "0.01"])
        assert json.loads(capsys.readouterr().out)


@runs("experiments/properties.py")
def test_the_property_table_is_written_from_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments import properties

    share = {"value": 0.5, "low": 0.4, "high": 0.6, "of": 100}
    figures = {
        "model": "janus:embedded@5",
        "evaluator": "icons-judge@1/a",
        "fewer than asked": ["pools, GenEval: 150 prompts of the 553 asked (a reason)"],
        "cost": {"seconds": 90.0, "core seconds": 60.0, "drawings": 1234},
        "one shot": {"GenEval": {"after reasoning": {"mean over tags": share, "by tag": {"a": share}}}},
        "text alone": {"icons-hard": {"minus best of 21 of the greedy text": share}},
        "codebook": {"PSNR through codes, dB": 27.5},
    }
    file = tmp_path / "report.json"
    file.write_text(json.dumps(figures))
    monkeypatch.setattr("sys.argv", ["properties", str(file)])
    properties.main()
    said = capsys.readouterr().out
    assert (
        "| one shot after reasoning, GenEval, mean over tags | 0.50 [0.40, 0.60] | 100 | 0.55–0.80 | **missed** |"
        in said
    )
    assert "| +0.50 [+0.40, +0.60] | 100 | ≥ +0.05 | met |" in said
    assert "| PSNR through codes, dB | 27.50 |  | ≥ 26 | met |" in said
    assert "| looking at scenes | – | – | ≥ 0.92 |  |" in said, "what was not measured is no zero"
    assert "1,234 drawings in 1 core-minutes" in said and "150 prompts of the 553 asked" in said
