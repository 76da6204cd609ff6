"""T2I-CompBench's rules on hand-made cases: phrases, questions, the spatial rule, 3-in-1, UniDet's files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milr.errors import UsageError
from milr.rewards.compbench import prompts
from milr.rewards.compbench.prompts import Analysis, NotAnalysed, Word, analyse, find_listing, table_origin
from milr.rewards.compbench.sources import NoResult, read_unidet
from milr.rewards.compbench.spatial import (
    RELATIONS,
    Seen,
    complex_objects,
    find_relation,
    official_frame,
    overlap,
    score_geometry,
    score_spatial,
    simple_objects,
)
from milr.rewards.compbench.three_in_one import combine, scorers_of
from milr.rewards.compbench.unidet import read_labels, split_label

FILES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")


def tagged(text: str) -> Analysis:
    """Return a hand-written analysis: "a/. red/A cat/N"."""
    words: list[Word] = []
    prompt = ""
    for item in text.split():
        word, _, tag = item.rpartition("/")
        prompt += (" " if prompt and word != "." else "") + word
        words.append(Word(len(prompt) - len(word), len(prompt), tag))
    return Analysis(prompt, tuple(words), (), "by hand")


def box(x: float, y: float, side: float = 40) -> tuple[float, float, float, float]:
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


# --- the table ---


def test_the_table_recognises_all_official_prompts_without_their_text(shared_data: Path) -> None:
    table = (Path(prompts.__file__).parents[2] / "assets" / "compbench" / "phrases.json").read_text()
    for name in FILES:
        lines = (shared_data / "t2i_compbench" / f"{name}_val.txt").read_text().splitlines()
        assert len(lines) == 300
        for line in lines:
            for prompt in (line, line.rstrip(".")):
                listing = find_listing(prompt)
                assert listing is not None
                assert listing.category == name
                assert (listing.kind is not None) == (name == "complex")
                found = analyse(prompt)
                assert 1 <= len(found.phrases) <= 8
                assert found.source.startswith("table by spaCy 3.6.1 with en_core_web_sm 3.6.0")
                assert all(prompt[w.start : w.end].strip() for w in found.words)
                assert found.text(0, len(found.words)) == prompt.strip()
            assert line not in table


def test_the_complex_lists_are_the_official_ones(shared_data: Path) -> None:
    for kind in ("spatial", "action", "spatialaction"):
        for line in (shared_data / "t2i_compbench" / f"complex_val_{kind}.txt").read_text().splitlines():
            listing = find_listing(line)
            assert listing is not None
            assert listing.kind == kind


def test_the_table_names_its_tagger_and_prompt_files(shared_data: Path) -> None:
    origin = table_origin()
    assert origin["official"] == "spaCy 3.5.3 with en_core_web_sm 3.5.0"
    hashes = origin["prompt_files"]
    assert isinstance(hashes, dict)
    assert str(hashes["color_val.txt"]).startswith("1634259756dbc77d")  # as in shared/data/SOURCES.md


def test_known_phrases_and_objects(shared_data: Path) -> None:
    lines = (shared_data / "t2i_compbench" / "color_val.txt").read_text().splitlines()
    assert analyse(lines[0]).phrases == ("a green bench", "a blue bowl")
    lines = (shared_data / "t2i_compbench" / "spatial_val.txt").read_text().splitlines()
    assert simple_objects(analyse(lines[0])) == ("giraffe", "lamp")
    assert simple_objects(analyse(lines[1])) == ("person", "frog")


def test_the_count_of_unknown_objects_is_right(shared_data: Path) -> None:
    """100 of the 300 spatial prompts name an object without a UniDet label; tagging errors can only add more."""
    labels = set(read_labels(shared_data / "t2i_compbench" / "unidet_labels.json"))
    assert len(labels) == 677
    lines = (shared_data / "t2i_compbench" / "spatial_val.txt").read_text().splitlines()
    unknown = [line for line in lines if not set(simple_objects(analyse(line)) or ()) <= labels]
    assert 100 <= len(unknown) <= 110
    assert all(find_relation(line) is not None for line in lines)


def test_other_prompts_need_a_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_load_spacy", lambda: None)
    found = analyse("a plaid wug and a dotted fep")
    assert found.phrases == ("a plaid wug", "a dotted fep")
    assert found.source == "splitter (approximation)"
    assert not found.words
    for prompt in ("a wug on the left of a fep", "wugs", "", "a wug, a fep and a dax"):
        with pytest.raises(NotAnalysed, match=r'pip install "milr\[compbench\]"'):
            analyse(prompt)


def test_an_installed_spacy_is_used_and_named() -> None:
    pytest.importorskip("spacy", reason="spaCy is an extra: milr[compbench]")
    if prompts._load_spacy() is None:
        pytest.skip("en_core_web_sm is not installed: python -m spacy download en_core_web_sm")
    found = analyse("a plaid wug on the left of a dotted cat")
    assert found.source.startswith("spaCy")
    assert "cat" in found.phrases[-1]


def test_clips_text_of_a_complex_prompt_has_no_adjectives() -> None:
    assert tagged("The/. red/A hat/N was/. here/. ./.").without_adjectives() == "The hat was here ."


# --- relations and objects ---


@pytest.mark.parametrize(
    ("prompt", "relation"),
    [
        ("a cat on side of a dog", "on side of"),
        ("a cat next to a dog on side of a cow", "on side of"),
        ("a cat near a dog on the left of a cow", "near"),
        ("a nearby cat on the left of a cow", "near"),  # the official code also finds it inside words
        ("a cat on the top of a dog", "on the top of"),
        ("a cat on top of a dog", "on top of"),
        ("a cat On Top Of a dog", None),
        ("a cat above a dog", None),
    ],
)
def test_a_prompts_relation_is_the_first_of_the_list(prompt: str, relation: str | None) -> None:
    assert find_relation(prompt) == relation


def test_simple_objects_are_the_first_and_the_last_noun() -> None:
    assert simple_objects(tagged("a/. cat/N by/. a/. tree/N by/. a/. lamp/N")) == ("cat", "lamp")
    assert simple_objects(tagged("a/. woman/N alone/.")) == ("person", "person")
    assert simple_objects(tagged("Rome/P waits/.")) is None


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("The/. red/A hat/N was/. on/. top/N of/. the/. coat/N rack/N ./.", ("hat", "coat")),
        ("The/. hat/N is/. on/. the/. left/A of/. the/. man/N ./.", ("hat", "person")),
        ("The/. Eiffel/P lay/. near/. the/. sea/N ./.", ("Eiffel", "sea")),
        # No noun after it: the first proper noun that none follows, and never the last word.
        ("The/. hat/N lay/. near/. Notre/P Dame/P ./.", ("hat", "Dame")),
        ("The/. hat/N lay/. near/. Rome/P", None),
        ("The/. hat/N lay/. near/. a/. cat/N next/. to/. a/. dog/N", None),  # four objects
        ("near/. a/. cat/N", None),  # one
        ("The/. hat/N lay/. there/.", None),
        ("The/. hat/N is/. next/. to", None),
    ],
)
def test_complex_objects_are_on_both_sides_of_a_relation_word(text: str, objects: tuple[str, str] | None) -> None:
    if text.endswith("to"):
        text += "/."
    assert complex_objects(tagged(text)) == objects


# --- geometry ---


@pytest.mark.parametrize(
    ("relation", "first", "second", "value"),
    [
        ("on the left of", box(100, 200), box(300, 210), 1.0),
        ("on the left of", box(300, 200), box(100, 210), 0.0),
        ("on the right of", box(300, 200), box(100, 210), 1.0),
        ("on the right of", box(100, 200), box(300, 210), 0.0),
        ("on the top of", box(200, 100), box(210, 300), 1.0),
        ("on the bottom of", box(200, 300), box(210, 100), 1.0),
        ("on the bottom of", box(200, 100), box(210, 300), 0.0),
        ("on the left of", box(100, 100), box(200, 200), 0.0),  # the same distance down and across
        ("on the left of", box(100, 100), box(200, 199), 1.0),
        ("on top of", box(200, 100), box(210, 300), 0.0),
        (None, box(100, 200), box(300, 210), 0.0),
        ("next to", box(0, 0), box(149, 400), 1.0),  # one axis is enough
        ("near", box(0, 0), box(150, 150), 1.0),
        ("on side of", box(0, 0), box(200, 300), 0.5),
        ("next to", box(0, 0), box(151, 160), 150 / 160),
    ],
)
def test_relations_are_scored_by_the_geometry_of_boxes(relation: str | None, first, second, value: float) -> None:
    if relation == "near":  # exactly 150 on both axes is no longer close, and scores 150 / 150
        assert score_geometry(relation, first, second) == 1.0
    assert score_geometry(relation, first, second) == pytest.approx(value)


def test_overlapping_boxes_are_removed() -> None:
    first, second = box(100, 100, 100), box(150, 100, 100)
    shared = overlap(first, second)
    assert shared == pytest.approx(1 / 3)
    assert score_geometry("on the left of", first, second) == pytest.approx(0.1 / shared)
    assert overlap(box(1, 1, 0), box(1, 1, 0)) == 0


coordinates = st.floats(0, 480, allow_nan=False)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@given(st.sampled_from((*RELATIONS, None)), boxes, boxes)
def test_geometry_is_between_0_and_1_and_opposites_exclude_each_other(relation, first, second) -> None:
    value = score_geometry(relation, first, second)
    assert 0 <= value <= 1
    opposite = {
        "on the left of": "on the right of",
        "on the right of": "on the left of",
        "on the top of": "on the bottom of",
        "on the bottom of": "on the top of",
    }.get(relation or "")
    if opposite is not None:
        assert score_geometry(opposite, second, first) == value
        assert not (value and score_geometry(opposite, first, second))


@given(boxes, boxes)
def test_overlap_is_symmetric_and_between_0_and_1(first, second) -> None:
    assert overlap(first, second) == overlap(second, first)
    assert 0 <= overlap(first, second) <= 1


@pytest.mark.parametrize(
    ("size", "frame"),
    [((384, 384), (479, 479)), ((512, 512), (479, 479)), ((1024, 512), (480, 240)), ((100, 400), (120, 480))],
)
def test_boxes_are_in_the_official_frame(size, frame) -> None:
    assert official_frame(*size) == frame


# --- the score ---

LEFT = "on the left of"


def test_two_objects_in_the_right_places_add_position_to_their_confidences() -> None:
    seen = [Seen("cat", 0.8, box(100, 200)), Seen("dog", 0.6, box(300, 200))]
    verdict = score_spatial(LEFT, ("cat", "dog"), seen)
    assert verdict.value == pytest.approx(0.25 * 0.8 + 0.25 * 0.6 + 0.5)
    assert verdict.parts == {"cat: confidence": 0.8, "dog: confidence": 0.6, LEFT: 1.0}


def test_below_one_half_there_is_no_probability() -> None:
    apart = [Seen("cat", 0.9, box(300, 200)), Seen("dog", 0.9, box(100, 200))]
    assert score_spatial(LEFT, ("cat", "dog"), apart).value == 0  # 0.45 for both confidences
    assert score_spatial(LEFT, ("cat", "dog"), apart[:1]).value == 0
    assert score_spatial(LEFT, ("cat", "dog"), []).value == 0
    assert score_spatial(LEFT, None, apart).value == 0
    sure = [Seen("cat", 1.0, box(300, 200)), Seen("dog", 1.0, box(100, 200))]
    assert score_spatial(LEFT, ("cat", "dog"), sure).value == 0.5


def test_the_most_confident_box_of_a_name_counts_in_any_order() -> None:
    seen = [Seen("cat", 0.3, box(400, 200)), Seen("dog", 0.9, box(300, 200)), Seen("cat", 0.8, box(100, 200))]
    assert score_spatial(LEFT, ("cat", "dog"), seen) == score_spatial(LEFT, ("cat", "dog"), seen[::-1])
    assert score_spatial(LEFT, ("cat", "dog"), seen).parts[LEFT] == 1
    assert score_spatial(LEFT, ("cat", "dog"), seen).counted == (seen[2], seen[1])


def test_regions_are_the_objects_that_count_in_pixels_of_the_image() -> None:
    seen = [Seen("dog", 0.25, (0, 0, 240, 120)), Seen("cup", 0.9, (1, 2, 3, 4)), Seen("dog", 0.125, (5, 5, 9, 9))]
    low = score_spatial(LEFT, ("cat", "dog"), seen)  # too low to score: what was found is a region all the same
    assert low.value == 0
    width, height = official_frame(960, 480)
    (region,) = low.regions(Image.new("RGB", (960, 480)))
    assert (region.name, region.confidence, region.color) == ("dog", 0.25, None)
    assert region.box == pytest.approx((0, 0, 240 * 960 / width, 120 * 480 / height))
    assert score_spatial(LEFT, ("cat", "dog"), []).regions(Image.new("RGB", (9, 9))) == ()


def test_object_names_must_match_exactly() -> None:
    seen = [Seen("table, desk", 0.9, box(100, 200)), Seen("dog", 0.9, box(300, 200))]
    verdict = score_spatial(LEFT, ("table", "dog"), seen)
    assert verdict.value == 0
    assert "table" in verdict.explanation


def test_a_prompt_of_one_noun_counts_it_twice() -> None:
    """The box of a noun that is both first and last counts alone, as in the official script."""
    verdict = score_spatial("next to", ("cat", "cat"), [Seen("cat", 0.8, box(1, 1))])
    assert verdict.value == pytest.approx(0.9)


# --- 3-in-1 ---


def test_three_in_one_averages_the_scorers_of_its_list() -> None:
    values = {"blip-vqa": 0.9, "spatial": 0.6, "clip": 0.3}
    assert combine("spatial", values) == pytest.approx(0.75)
    assert combine("action", values) == pytest.approx(0.6)
    assert combine("spatialaction", values) == pytest.approx(0.6)
    assert combine(None, values) == combine("spatialaction", values)
    assert "clip" not in scorers_of("spatial")
    assert "spatial" not in scorers_of("action")


# --- UniDet's files ---


HEADER = "key,oid_freebase,oid_name,objects365_name,coco_name,mapillary_name\n"


def test_labels_are_read_from_a_label_space(tmp_path: Path, shared_data: Path) -> None:
    """Some rows of every kind equal the benchmark's own list."""
    path = tmp_path / "learned_mAP+M.csv"
    path.write_text(
        HEADER + "_cup_cup,,,cup,cup,\n"
        "_wild bird_bird,,,wild bird,bird,animal--bird\n"
        "Table_desk_,/m/1,Table,desk,,\n"
        "Bidet__toilet,/m/2,Bidet,,toilet,\n"
        "Cattle_cow_cow,/m/3,Cattle,cow,cow,\n"
        "Bench2_bench_bench,/m/4,Bench2,bench,bench,object--bench\n"
        "Mouse2_mouse_mouse,/m/5,Mouse2,mouse,mouse,\n"
        "_pot/pan_,,,pot/pan,,\n"
        "_cabinet/shelf_,,,cabinet/shelf,,\n"
        "__parking meter,,,,parking meter,\n"
        "Person_person_person,/m/6,Person,person,person,human--person\n"
        "marking--crosswalk-zebra,,,,,marking--crosswalk-zebra\n"
        "object--traffic-sign--back,,,,,object--traffic-sign--back\n"
        "_cup_cup,,,cup,cup,\n"
    )
    labels = read_labels(path)
    assert labels[:8] == (
        "cup",
        "wild bird",
        "table, desk",
        "bidet",
        "cattle, cow",
        "bench",
        "mouse2, mouse",
        "pot, pan",
    )
    assert set(labels) < set(read_labels(shared_data / "t2i_compbench" / "unidet_labels.json"))
    assert len(labels) == 13
    assert split_label("table, desk") == ("table", "desk")


def test_wrong_label_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "learned_mAP+M.csv"
    with pytest.raises(UsageError, match="curl"):
        read_labels(path)
    for text in ("", "a,b\n1,2\n", HEADER):
        path.write_text(text)
        with pytest.raises(UsageError, match="UniDet"):
            read_labels(path)
    other = tmp_path / "labels.json"
    for text in ("{}", "[1]", "no"):
        other.write_text(text)
        with pytest.raises(UsageError, match="UniDet"):
            read_labels(other)


def test_detections_that_unidet_wrote_are_read(tmp_path: Path) -> None:
    path = tmp_path / "unidet.jsonl"
    rows = [["cat", 0.8, *box(100, 200)], ["dog", 0.6, *box(300, 200)]]
    path.write_text(json.dumps({"image": "x_000000.png", "detections": rows}) + "\n\n")
    source = read_unidet(path)
    analysis = tagged("a/. cat/N on/. the/. left/. of/. a/. dog/N")
    image = Image.new("RGB", (8, 8))
    verdict = source.score(image, "x_000000.png", analysis, is_complex=False)
    assert verdict.value == pytest.approx(0.85)
    assert source.score(image, "x_000000.png", analysis, is_complex=True).value == verdict.value
    with pytest.raises(NoResult, match="y.png"):
        source.score(image, "y.png", analysis, is_complex=False)
    untagged = Analysis("a cat and a dog", (), ("a cat", "a dog"), "splitter (approximation)")
    with pytest.raises(NoResult, match="not tagged"):
        source.score(image, "x_000000.png", untagged, is_complex=False)
    for line in (
        "{",
        '{"image": "x"}',
        '{"image": "x", "detections": [["cat", 2, 0, 0, 1, 1]]}',
        '{"image": 1, "detections": 3}',
    ):
        path.write_text(line)
        with pytest.raises(UsageError, match="line 1"):
            read_unidet(path)


def test_scores_that_the_official_script_wrote_are_read(tmp_path: Path) -> None:
    (tmp_path / "vqa_result.json").write_text('[{"question_id": 7, "answer": 0.75}]')
    with pytest.raises(UsageError, match=r"mapping\.json"):
        read_unidet(tmp_path)
    (tmp_path / "mapping.json").write_text('[{"image": "x_000007.png", "question_id": 7}]')
    source = read_unidet(tmp_path)
    analysis = tagged("a/. cat/N")
    assert source.score(Image.new("RGB", (8, 8)), "x_000007.png", analysis, is_complex=False).value == 0.75
    with pytest.raises(NoResult):
        source.score(Image.new("RGB", (8, 8)), "", analysis, is_complex=False)
    with pytest.raises(UsageError, match="no UniDet results"):
        read_unidet(tmp_path / "nothing")


def test_boxes_without_area_give_a_finite_score() -> None:
    assert math.isfinite(score_geometry("next to", box(0, 0, 0), box(0, 0, 0)))
