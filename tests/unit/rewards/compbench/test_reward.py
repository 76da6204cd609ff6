"""The reward `t2i-compbench` end to end: tiny random weights in the real classes, official prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from milr.benchmarks.layouts.t2i_compbench import T2ICompBenchLayout
from milr.benchmarks.score_folder import FolderJob
from milr.convert import blip_vqa, convert
from milr.errors import MilrError, UsageError
from milr.rewards import load_reward
from milr.rewards.compbench import known_answers as check
from milr.rewards.compbench import prompts
from milr.rewards.compbench.clip_score import ClipScore, TextTooLong
from milr.rewards.compbench.owlv2 import Owlv2Detector
from milr.rewards.compbench.prompts import CATEGORIES
from milr.rewards.compbench.reward import STOP_AT, T2ICompBench
from milr.rewards.compbench.spatial import official_frame
from milr.selftest.doctor import examine
from milr.types import Score, Task, Unscored
from tests.support.compbench_weights import (
    LABELS,
    VOCABULARY,
    make_blip_config,
    write_bert_vocabulary,
    write_clip,
    write_git,
    write_grounding_dino,
)
from tests.support.plain_blip import PlainBlip


def photograph(name: str = "astronaut") -> Image.Image:
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs: milr[dev]")
    return Image.fromarray(getattr(data, name)())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tiny versions of all weights."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    plain = PlainBlip(width=16, layers=2, heads=2, side=32, patch=8, words=VOCABULARY + 2, places=64)
    torch.save({"model": plain.state_dict()}, root / "model.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blip_vqa, "make_config", make_blip_config)
        convert("blip-vqa", root / "model.pth", root / "blip-vqa")
    write_bert_vocabulary(root / "blip-vqa")
    write_clip(root / "clip-vit-base-patch32")
    write_clip(root / "owlv2-base-patch16-ensemble", owl=True)
    (root / "unidet").mkdir()
    (root / "unidet" / "learned_mAP+M.csv").write_text(LABELS)
    return root


@pytest.fixture
def in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILR_WEIGHTS", str(root))
    return root


@pytest.fixture
def reward(in_root: Path) -> T2ICompBench:
    made = load_reward("t2i-compbench", self_test=False)
    assert isinstance(made, T2ICompBench)
    return made


@pytest.fixture(scope="session")
def official(shared_data: Path) -> dict[str, Task]:
    """Return the first prompt of each category without a tag; the table knows its category."""
    folder = shared_data / "t2i_compbench"
    return {name: Task(prompt=(folder / f"{name}_val.txt").read_text().splitlines()[0]) for name in CATEGORIES}


@pytest.mark.slow
def test_each_category_has_its_scorers(reward: T2ICompBench, official: dict[str, Task]) -> None:
    scores = reward([photograph()] * 6, [official[name] for name in CATEGORIES])
    used: dict[str, set[str]] = {}
    for name, score in zip(CATEGORIES, scores, strict=True):
        assert isinstance(score, Score), score
        assert score.reward == reward.name
        assert score.stop_at == STOP_AT[name]
        assert score.evidence["category"] == name
        json.dumps(score.evidence)
        scorers = score.evidence["scorers"]
        assert isinstance(scorers, dict)
        used[name] = set(scorers)
        if name != "complex":
            assert score.value == pytest.approx(min(1, max(0, next(iter(scorers.values())))))
    attributes = {"blip-vqa"}
    assert used == {
        "color": attributes,
        "shape": attributes,
        "texture": attributes,
        "spatial": {"spatial"},
        "non_spatial": {"clip"},
        "complex": {"blip-vqa", "spatial"},  # the first complex prompt is in the spatial list
    }


def test_complex_prompts_of_other_lists_use_their_scorers(reward: T2ICompBench, shared_data: Path) -> None:
    for kind, count in (("action", 2), ("spatialaction", 3)):
        prompt = (shared_data / "t2i_compbench" / f"complex_val_{kind}.txt").read_text().splitlines()[0]
        with_dot, without = reward([photograph()] * 2, [Task(prompt=prompt), Task(prompt=prompt.rstrip("."))])
        for score in (with_dot, without):
            assert isinstance(score, Score)
            scorers = score.evidence["scorers"]
            assert isinstance(scorers, dict)
            assert len(scorers) == count
            assert score.value == pytest.approx(max(0.0, sum(scorers.values()) / count))


def test_replacement_scorers_are_named_in_reward_columns_and_scores(
    reward: T2ICompBench, official: dict[str, Task]
) -> None:
    assert reward.name.startswith("t2i-compbench@2+blip-hub-copy+owlv2-for-unidet/")
    titles = reward.column_titles()
    assert titles["non_spatial"] == "non_spatial"
    assert "OWLv2 in UniDet's place" in titles["spatial"]
    assert "OWLv2" in titles["complex"]
    assert "at 32 px" in titles["color"]
    score = reward([photograph()], [official["spatial"]])[0]
    assert isinstance(score, Score)
    assert score.evidence["approximations"] == ["OWLv2 in UniDet's place"]


@pytest.mark.slow
def test_a_batch_equals_single_calls_in_any_order(reward: T2ICompBench, official: dict[str, Task]) -> None:
    tasks = [official[name] for name in CATEGORIES]
    images = [photograph(), photograph("coffee"), Image.new("L", (4000, 10), 90), photograph("rocket")] * 2
    batch = reward(images[:6], tasks)
    assert batch == reward(images[:6], tasks)
    singles = [reward([image], [task])[0] for image, task in zip(images, tasks, strict=False)]
    turned = reward(images[:6][::-1], tasks[::-1])[::-1]
    for one, other, third in zip(batch, singles, turned, strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert isinstance(third, Score)
        assert one.value == pytest.approx(other.value, abs=2e-4)
        assert one.value == pytest.approx(third.value, abs=2e-4)
    assert reward([], []) == []
    with pytest.raises(ValueError, match="argument"):
        reward([photograph()], [])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_odd_images_are_scored_or_refused_by_name(reward: T2ICompBench, official: dict[str, Task], mode: str) -> None:
    for score in reward([Image.new(mode, (1, 1))] * 6, [official[name] for name in CATEGORIES]):
        assert isinstance(score, Score)
    assert isinstance(reward([Image.new(mode, (0, 1))], [official["color"]])[0], Unscored)


def test_unscorable_images_have_a_reason(reward: T2ICompBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_load_spacy", lambda: None)
    tasks = {
        "is none of T2I-CompBench's prompts: give the task a tag": Task(prompt="a wug"),
        "spaCy is not installed": Task(prompt="a wug on the left of a fep", tag="spatial"),
        "is not tagged": Task(prompt="a plaid wug and a dotted fep", tag="spatial"),
        "are not tagged": Task(prompt="a plaid wug and a dotted fep", tag="complex"),
        "CLIP reads 77": Task(prompt="wug " * 80, tag="non_spatial"),
    }
    scores = reward([photograph()] * len(tasks), list(tasks.values()))
    for reason, score in zip(tasks, scores, strict=True):
        assert isinstance(score, Unscored)
        assert reason.replace("is not", "are not") in score.reason.replace("is not tagged", "are not tagged").replace(
            "is not installed", "are not installed"
        )


def test_a_tag_allows_prompts_outside_the_official_lists(reward: T2ICompBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_load_spacy", lambda: None)
    score = reward([photograph()], [Task(prompt="a red cat and a blue dog", tag="color")])[0]
    assert isinstance(score, Score)
    assert "a red cat?" in score.parts
    notes = score.evidence["approximations"]
    assert isinstance(notes, list)
    assert notes[-1] == "noun phrases by splitter (approximation)"


def test_missing_weights_are_named_with_their_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path
) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError, match=r"milr convert blip-vqa model_base_vqa_capfilt_large\.pth"):
        load_reward("t2i-compbench")
    for name in ("blip-vqa", "clip-vit-base-patch32", "owlv2-base-patch16-ensemble"):
        (tmp_path / name).symlink_to(root / name)
    with pytest.raises(UsageError, match=r"learned_mAP%2BM\.csv"):
        load_reward("t2i-compbench")


def test_unidets_own_results_replace_owlv2(in_root: Path, official: dict[str, Task], tmp_path: Path) -> None:
    (tmp_path / "vqa_result.json").write_text('[{"question_id": 0, "answer": 0.875}]')
    (tmp_path / "mapping.json").write_text('[{"image": "x_000000.png", "question_id": 0}]')
    photograph().save(tmp_path / "x_000000.png")
    reward = T2ICompBench(unidet=tmp_path, self_test=False)
    assert reward.name.startswith("t2i-compbench@2+blip-hub-copy+unidet/")
    assert reward.column_titles()["spatial"] == "spatial"
    with Image.open(tmp_path / "x_000000.png") as image:
        known, unknown = reward([image, photograph()], [official["spatial"]] * 2)
    assert isinstance(known, Score)
    assert known.value == 0.875
    assert isinstance(unknown, Unscored)


# --- CLIP ---


def test_cosines_equal_those_of_the_whole_model(root: Path) -> None:
    clip = ClipScore.from_folder(root / "clip-vit-base-patch32")
    texts = ["a cat", "a much longer text of a dog"]
    found = clip.compare([photograph()] * 2, texts)
    for text, cosine in zip(texts, found, strict=True):
        encoded = clip.tokenizer(text, return_tensors="pt")
        pixels = pytest.importorskip("transformers").CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )(photograph(), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = clip.network(**encoded, pixel_values=pixels).logits_per_image / clip.network.logit_scale.exp()
        assert cosine == pytest.approx(float(expected), abs=1e-6)
    assert found[0] != found[1]
    with pytest.raises(TextTooLong):
        clip.compare([photograph()], ["x" * 80])


def test_a_clip_without_quick_gelu_is_refused(root: Path, tmp_path: Path) -> None:
    for path in (root / "clip-vit-base-patch32").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["hidden_act"] = config["vision_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="quick GELU"):
        ClipScore.from_folder(tmp_path)


# --- OWLv2 ---


def test_owlv2_is_the_whole_models_best_box_of_each_name(root: Path) -> None:
    labels = ("giraffe", "table, desk", "person")
    detector = Owlv2Detector.from_folder(root / "owlv2-base-patch16-ensemble", labels)
    image = photograph("coffee")  # wider than high: padded at the bottom
    seen = {one.name: one for one in detector.detect(image)}
    tokenizer = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(root / "owlv2-base-patch16-ensemble")
    names = ("giraffe", "table", "desk", "person")
    texts = [f"a photo of a {name}" for name in names]
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        out = detector.network(**encoded, pixel_values=detector._pixels(image))
    best, places = out.logits[0].sigmoid().max(0)
    expected = {"giraffe": best[0], "table, desk": best[1:3].max(), "person": best[3]}
    for name, value in expected.items():
        if value > 0.1:
            assert seen[name].score == pytest.approx(float(value), abs=1e-6)
        else:
            assert name not in seen
    assert seen
    width, height = official_frame(*image.size)
    x, y, w, h = (float(v) * width for v in out.pred_boxes[0, places[0]])
    x0, y0, x1, y1 = seen["giraffe"].box
    assert (x0, x1) == pytest.approx((max(x - w / 2, 0), min(x + w / 2, width)), abs=0.01)
    scale = height / (image.height / image.width * width)  # the frame's sides are whole numbers
    assert (y0, y1) == pytest.approx((max((y - h / 2) * scale, 0), min((y + h / 2) * scale, height)), abs=0.01)
    assert [one.score for one in detector.detect(image)] == sorted((s.score for s in seen.values()), reverse=True)


def test_no_pickle_is_among_the_weights(root: Path) -> None:
    for folder in ("blip-vqa", "clip-vit-base-patch32", "owlv2-base-patch16-ensemble"):
        assert load_file(root / folder / "model.safetensors")
        assert not list((root / folder).glob("*.bin"))


# --- folders ---


def write_folder(folder: Path, shared_data: Path, category: str, *, prompts: int = 2, each: int = 2) -> Path:
    """Return photographs with official names; final dots are kept, as by the official generator."""
    (folder / "samples").mkdir(parents=True)
    lines = (shared_data / "t2i_compbench" / f"{category}_val.txt").read_text().splitlines()[:prompts]
    for number in range(prompts * each):
        image = photograph(("astronaut", "coffee", "rocket")[number % 3]).resize((64, 48))
        image.save(folder / "samples" / f"{lines[number // each]}_{number:06d}.png")
    return folder


def score(folder: Path, **more) -> tuple[FolderJob, str]:
    job = FolderJob(folder, "t2i-compbench", options={"self_test": False, **more})
    for _ in job.run():
        pass
    return job, job.conclude()


def answers(path: Path) -> list[dict[str, object]]:
    return json.loads((path / "vqa_result.json").read_text())


@pytest.mark.parametrize(
    ("category", "results", "mean_file"),
    [
        ("color", "annotation_blip", "blip_vqa_score.txt"),
        ("spatial", "labels/annotation_obj_detection_2d", "avg_score.txt"),
        ("non_spatial", "annotation_clip", "score_avg.txt"),
        ("complex", "annotation_3_in_1", "vqa_score.txt"),
    ],
)
def test_an_official_folder_gives_official_result_files(
    in_root: Path, tmp_path: Path, shared_data: Path, category: str, results: str, mean_file: str
) -> None:
    folder = write_folder(tmp_path / "images", shared_data, category)
    job, summary = score(folder)
    rows = answers(job.out / results)
    assert [row["question_id"] for row in rows] == [0, 1, 2, 3]
    assert all(set(row) == {"question_id", "answer"} for row in rows)
    mean = sum(float(str(row["answer"])) for row in rows) / 4
    assert float((job.out / results / mean_file).read_text().rpartition(":")[2]) == pytest.approx(mean)
    assert f"= {mean:.4f} (4 pictures, 2 prompts)" in summary
    assert "2 prompts are here; the whole benchmark has 300." in summary
    if category == "color":
        assert all(isinstance(row["answer"], str) and len(str(row["answer"]).partition(".")[2]) == 4 for row in rows)
        assert "BLIP-VQA" in summary and "32 px" in summary
    if category == "spatial":
        mapping = json.loads((job.out / results / "mapping.json").read_text())
        assert [row["image"] for row in mapping] == [
            path.name for path in sorted((folder / "samples").iterdir(), key=_id)
        ]
        assert "OWLv2 in UniDet's place" in summary
    if category == "complex":
        assert {path.name for path in job.out.iterdir() if path.is_dir()} >= {"annotation_blip", "annotation_3_in_1"}
    again, same = score(folder)
    assert again.done == 4
    assert same == summary


def _id(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def test_an_interrupted_scoring_continues(in_root: Path, tmp_path: Path, shared_data: Path) -> None:
    folder = write_folder(tmp_path / "images", shared_data, "shape")
    whole, summary = score(folder)
    kept = answers(whole.out / "annotation_blip")
    lines = (whole.out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (whole.out / "journal.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])  # as after a kill
    job = FolderJob(folder, "t2i-compbench", options={"self_test": False})
    assert job.done == 2
    assert len(list(job.run())) == 2
    assert job.conclude() == summary
    assert answers(whole.out / "annotation_blip") == kept


def test_unidets_results_score_a_folder(in_root: Path, tmp_path: Path, shared_data: Path) -> None:
    folder = write_folder(tmp_path / "images", shared_data, "spatial", prompts=1, each=2)
    names = sorted(path.name for path in (folder / "samples").iterdir())
    box = [10, 10, 60, 60]
    rows = [{"image": names[0], "detections": [["giraffe", 0.9, *box], ["lamp", 0.7, *box]]}]
    (tmp_path / "unidet.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job, summary = score(folder, unidet=str(tmp_path / "unidet.jsonl"))
    assert answers(job.out / "labels" / "annotation_obj_detection_2d") == [{"question_id": 0, "answer": 0.9}]
    assert "OWLv2" not in summary
    assert "Unscored, left out above: 1 of 2 pictures" in summary
    assert names[1] in summary
    lines = {
        line["picture"]: line for line in map(json.loads, (job.out / "journal.jsonl").read_text().splitlines()[1:])
    }
    regions = lines[f"samples/{names[0]}"]["regions"]
    assert [(one["name"], one["confidence"]) for one in regions] == [("giraffe", 0.9), ("lamp", 0.7)]


def test_another_reward_gets_a_mean_and_no_official_files(tmp_path: Path, shared_data: Path) -> None:
    layout = T2ICompBenchLayout()
    found = layout.find(write_folder(tmp_path / "images", shared_data, "color"), None)
    scores = [Score(0.25, "other@1", 0.9), Unscored("dark", "other@1"), *[Score(0.5, "other@1", 0.9)] * 2]
    summary = layout.write(tmp_path, tmp_path, list(zip(found, scores, strict=True)), "other@1")
    assert summary == "color (other@1) = 0.4167 (3 pictures, 2 prompts)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_folders_that_cannot_be_scored_are_refused(tmp_path: Path, shared_data: Path) -> None:
    def refused(pattern: str, prompts: Path | None = None) -> None:
        with pytest.raises(UsageError, match=pattern):
            T2ICompBenchLayout().find(tmp_path / "x", prompts)

    refused("no folder")
    samples = tmp_path / "x" / "samples"
    samples.mkdir(parents=True)
    refused("no images")
    (samples / "a wug_000000.png").touch()
    refused("'a wug'.*is none of T2I-CompBench's 1,800")
    (samples / "a wug_000000.png").unlink()
    write_folder(tmp_path / "color", shared_data, "color", prompts=1, each=1)
    (tmp_path / "color" / "samples").rename(tmp_path / "x" / "color")
    first = next((tmp_path / "x" / "color").iterdir())
    first.rename(samples / first.name)
    for hidden in (".DS_Store", f"._{first.name}", "Thumbs.db"):
        (samples / hidden).touch()
    assert len(T2ICompBenchLayout().find(tmp_path / "x", None)) == 1
    refused("299 prompts of color_val.txt have no image", shared_data / "t2i_compbench" / "color_val.txt")
    (samples / "grid.png").touch()
    refused("grid.png is no <prompt>_<number>.png")
    (samples / "grid.png").unlink()
    prompt = (shared_data / "t2i_compbench" / "spatial_val.txt").read_text().splitlines()[0]
    (samples / f"{prompt}_000000.png").touch()
    refused("number of another image")
    (samples / f"{prompt}_000000.png").rename(samples / f"{prompt}_000001.png")
    refused("holds color and spatial")


# --- doctor ---


def test_the_rules_pass_their_self_test() -> None:
    assert all(finding.fine for finding in check.check_rules())


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILR_WEIGHTS", str(tmp_path))
    for name, wrong in (("t2i-compbench", 12), ("mixed", 6)):
        findings = list(examine(name))
        assert sum(finding.fine is False for finding in findings) == wrong
        assert all(finding.mend for finding in findings if finding.fine is False)
        assert any("not run before" in finding.said for finding in findings)


def test_random_weights_fail_the_self_test_and_nothing_is_scored(in_root: Path, official: dict[str, Task]) -> None:
    findings = list(examine("t2i-compbench"))
    tested = [finding for finding in findings if finding.subject.startswith("self-test: BLIP-VQA")]
    assert len(tested) == 2
    assert not all(finding.fine for finding in tested)
    assert any("hub copy" in finding.said or "at 32 px" in finding.said for finding in findings)
    with pytest.raises(MilrError, match="fails its self-test, so nothing is scored.*milr doctor t2i-compbench"):
        load_reward("t2i-compbench")([photograph()], [official["color"]])


@pytest.mark.slow
def test_doctor_runs_the_mixed_parts(in_root: Path) -> None:
    write_git(in_root / "git-large-vqav2")
    write_grounding_dino(in_root / "grounding-dino-tiny")
    findings = list(examine("mixed"))
    assert sum(finding.subject.startswith("self-test: g") for finding in findings) == 2
