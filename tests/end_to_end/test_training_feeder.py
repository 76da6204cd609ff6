"""Batches of training: labels at the token before, facts at their positions, images and conversations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from milr.tasks import COLORS, OBJECT_NAMES, parse_prompt
from tests.support.icon_world import (
    CODEBOOK,
    LOOKING,
    make_bank,
    make_drawing_settings,
    make_feeder,
    make_scene,
    make_tokenizer,
    make_world,
)
from training import seeing
from training.batches import DrawingBatch, LookingBatch
from training.feeder import DESCRIBE, Feeder
from training.grounds import CODES, GRID
from training.probes import IGNORED, NOTHING
from training.questions import Question, ask_questions
from training.scenes import PLACES, Item, Mentions, Scene, describe, region, token_grid, write_text
from training.seeing import tell_patches
from training.text_checks import read_demands
from training.texts import names_what_is_asked, read_text

pytestmark = pytest.mark.usefixtures("one_thread")


def hear(ids: torch.Tensor) -> str:
    """Return token ids as text."""
    return str(make_tokenizer().decode(ids.tolist()))


@pytest.fixture
def feeder() -> Feeder:
    """Return a feeder whose world no other test uses."""
    return make_feeder()


def texts_of(batch: DrawingBatch) -> Iterator[tuple[str, str]]:
    """Yield prompt and text of each row."""
    for row, length in zip(batch.text, batch.lengths, strict=True):
        words = hear(row[:length]).partition("<|User|>: ")[2].partition("\n\n")[0]
        prompt, _, text = words.partition(". ")
        yield prompt, text


def test_a_thinned_batch_keeps_every_cell_of_every_object(feeder: Feeder) -> None:
    whole = next(feeder.drawings(make_drawing_settings(False)))
    thin = next(feeder.drawings(make_drawing_settings(True)))
    assert whole.targets.shape[1] == GRID**2 > thin.targets.shape[1]
    for row, targets in enumerate(thin.targets):
        cells, names = thin.facts.cells[row], thin.facts.cell_name[row]
        assert (targets[thin.objects[row]] >= CODES).any()
        assert torch.equal(thin.objects[row], (names != NOTHING) & (names != IGNORED))
        assert int(thin.objects[row].sum()) in {9 * n + 16 * m for n in range(6) for m in range(6 - n)}, "whole squares"
        assert (cells.diff()[cells[1:] >= 0] > 0).all()


@pytest.mark.parametrize("thinned", [False, True])
def test_each_target_is_predicted_by_the_token_before_it(feeder: Feeder, thinned: bool) -> None:
    batch = next(feeder.drawings(make_drawing_settings(thinned)))
    cells = batch.facts.cells
    known = cells[:, 1:] != IGNORED
    assert (cells[:, 0] == 0).all()
    assert torch.equal(batch.places[known], cells[:, 1:][known] - 1)
    follows = known & (batch.places == cells[:, :-1])
    assert torch.equal(batch.fed[follows], batch.targets[:, :-1][follows])
    assert follows.any() and (thinned or torch.equal(follows, known))
    assert (batch.targets[:, 1:] == IGNORED).equal(~known)


def test_fed_tokens_are_made_unreadable_and_targets_are_not(feeder: Feeder) -> None:
    settings = make_drawing_settings(False, batch=8)
    settings["drawings"][0]["blurred"] = 1.0
    batch = next(feeder.drawings(settings))
    wrong = (batch.fed != batch.targets[:, :-1]).float().mean(-1)
    assert wrong.max() > 0.9 and wrong.mean() > 0.5
    assert batch.fed.max() > CODES and batch.fed.max() < CODEBOOK


def test_facts_come_from_the_text() -> None:
    """A comma or the end follows each object's last word, which has its place; each cell has its object's name."""
    feeder = make_feeder(placed=1.0, sized=1.0)
    batch = next(feeder.drawings(make_drawing_settings(False, batch=6)))
    facts = batch.facts
    for row, (prompt, text) in enumerate(texts_of(batch)):
        read = read_text(text)
        assert read and names_what_is_asked(text, parse_prompt(prompt))
        own = [
            (hear(batch.text[row, : position + 1]), hear(batch.text[row, position + 1 : position + 2]), place, color)
            for (at, position), place, color in zip(facts.words.tolist(), facts.place, facts.color, strict=True)
            if at == row
        ]
        assert len(own) == len(read.items)
        for item, (heard, after, place, color) in zip(read.items, own, strict=True):
            assert heard.endswith(f"{item.size} {' '.join(filter(None, (item.color, item.name)))}")
            assert after in (",", "\n\n")
            assert item.place == PLACES[place] and item.color == (None, *COLORS)[color]
            if [one.name for one in read.items].count(item.name) == 1:
                inside = facts.cell_name[row] == OBJECT_NAMES.index(item.name)
                assert (facts.cell_color[row][inside] == color).all()
                rows, columns = facts.cells[row][inside] // GRID, facts.cells[row][inside] % GRID
                assert len(rows) == {"small": 9, "large": 16}[str(item.size)]
                assert region(float(rows.float().mean()) + 0.5, float(columns.float().mean()) + 0.5) == item.place
        assert torch.equal(facts.cell_name[row] != NOTHING, batch.objects[row])


def test_the_place_of_an_object_is_no_fact_if_the_text_does_not_name_it() -> None:
    batch = next(make_feeder(placed=0.0).drawings(make_drawing_settings(True, batch=6)))
    assert len(batch.facts.words) >= 6 and (batch.facts.place == IGNORED).all()
    assert not any(place in text.split() for _, text in texts_of(batch) for place in PLACES)


def test_a_reduced_prompt_asks_for_one_object_of_its_text() -> None:
    feeder = make_feeder(phrases=(0.0, 0.5, 0.5))
    batch = next(feeder.drawings(make_drawing_settings(True, batch=8, reduced=1.0)))
    alone = 0
    for prompt, text in texts_of(batch):
        asked, read = parse_prompt(prompt), read_text(text)
        assert read and len(read.items) > 1
        alone += len(asked.include) == 1
        need = asked.include[0]
        assert (need.name, need.color) in {(item.name, item.color) for item in read.items}
    assert alone >= 6, "a few may not be shown alone"


@pytest.mark.parametrize("left_out", ["text_dropout", "condition_dropout"])
def test_a_batch_without_texts_has_only_facts_of_cells(feeder: Feeder, left_out: str) -> None:
    batch = next(feeder.drawings(make_drawing_settings(True, **{left_out: 1.0}, reduced=1.0)))
    assert not len(batch.facts.words)
    assert (batch.facts.cell_name == IGNORED).all() and (batch.facts.cell_color == IGNORED).all()
    assert (batch.facts.cells[:, 0] == 0).all()
    assert not any(text for _, text in texts_of(batch))


def test_the_unconditional_half_keeps_the_first_and_the_last_token(feeder: Feeder) -> None:
    batch = next(feeder.drawings(make_drawing_settings(True, condition_dropout=1.0)))
    tokenizer = feeder.tokenizer
    for text, length in zip(batch.text, batch.lengths, strict=True):
        assert text[0] == tokenizer.bos_token_id
        assert text[length - 1] == tokenizer.convert_tokens_to_ids("<begin_of_image>")
        assert length > 8 and (text[1 : length - 1] == tokenizer.pad_token_id).all()


@pytest.mark.slow
def test_a_drawing_of_few_cells_does_not_reveal_where_objects_are(feeder: Feeder) -> None:
    settings = make_drawing_settings(True, batch=64)
    settings["drawings"][0] |= {"objects_kept": 0.1, "ground_kept": 0.1}
    batches = feeder.drawings(settings)
    made = [next(batches) for _ in range(4)]
    kept = sum(int((batch.targets != IGNORED).sum()) for batch in made)
    assert kept == pytest.approx(256 * (1 + 99 * 0.1), rel=0.1)


def test_texts_are_labelled_where_they_are_predicted(feeder: Feeder) -> None:
    ids, labels = next(feeder.reasonings({"reasoning_batch": 4}))
    for row, marks in zip(ids, labels, strict=True):
        chosen = marks != IGNORED
        text = marks[chosen]
        assert text[-1] == feeder.end
        prompt = hear(row[: int(chosen.nonzero()[0]) + 1]).partition("plan: ")[2].removesuffix("\n\n<|Assistant|>:")
        assert names_what_is_asked(hear(text[:-1]), parse_prompt(prompt))
        # Each label but the last is the input of the next position.
        assert torch.equal(row[1:][chosen[:-1]][: len(text) - 1], text[:-1])


def test_the_answer_to_a_check_is_predicted_by_the_last_token(feeder: Feeder) -> None:
    batch = next(feeder.checks({"checking_batch": 12}))
    for row, place, answer in zip(batch.ids, batch.places, batch.answers, strict=True):
        asked = hear(row[: place + 1])
        found = re.search(r"does this fit\? (.*): (.*)\n\n<\|Assistant\|>:$", asked)
        assert found, asked
        assert hear(answer[None]) == (" yes" if names_what_is_asked(found[2], parse_prompt(found[1])) else " no")
        assert (row[place + 1 :] == feeder.padding).all()
    assert len(batch.answers.unique()) == 2


def test_each_object_of_a_checked_text_is_labelled_by_whether_the_prompt_asks_for_it(feeder: Feeder) -> None:
    batch = next(feeder.checks({"checking_batch": 12}))
    found: dict[int, list[tuple[str, str]]] = {}
    for (row, position), fits in zip(batch.words.tolist(), batch.fitting, strict=True):
        heard, after = hear(batch.ids[row, : position + 1]), hear(batch.ids[row, position + 1 : position + 2])
        assert after in (",", "\n\n")
        found.setdefault(row, []).append((heard.rpartition(": ")[2].rpartition(", ")[2], hear(fits[None])))
    assert len(found) == 12
    for row, place in enumerate(batch.places.tolist()):
        words = hear(batch.ids[row, : place + 1]).partition("does this fit? ")[2].partition("\n\n")[0]
        prompt, _, text = words.partition(": ")
        read = read_text(text)
        assert read and [named for named, _ in found[row]] == text.split(", ")[: len(read.items)]
        asked = read_demands(prompt, text)
        assert asked
        demands = asked.objects
        assert [fits == " yes" for _, fits in found[row]] == [demand.fits for demand in demands]
        assert batch.demands.missing[row] == asked.missing
        own = batch.words[:, 0] == row
        assert batch.demands.count[own].tolist() == [demand.count for demand in demands]
        assert (batch.demands.side[own] == IGNORED).tolist() == [not demand.count for demand in demands]


def test_a_conversation_has_its_questions_before_its_description(feeder: Feeder) -> None:
    batch = next(feeder.lookings(LOOKING))
    for ids, answers, description in zip(batch.ids, batch.answers, batch.description, strict=True):
        said = answers[answers != IGNORED]
        assert said[1::2].tolist() == [feeder.end] * 2
        assert {hear(said[i : i + 1]) for i in (0, 2)} <= {" yes", " no"}
        last, first = int((answers != IGNORED).nonzero().max()), (description != IGNORED).nonzero()
        assert last < int(first.min())
        told = description[description != IGNORED]
        assert hear(told[:-1]).endswith(" ground") and told[-1] == feeder.end
        assert (ids[1:][(description != IGNORED)[:-1]] == told).all()  # each label is at the token before its own
        assert (ids == feeder.encode("<image_placeholder>")[1]).sum() == GRID**2


def test_some_images_are_described_without_a_question_before(feeder: Feeder) -> None:
    batch = next(feeder.lookings(LOOKING | {"described": 1.0}))
    assert (batch.answers == IGNORED).all()
    assert batch.asked.words.shape == batch.asked.answering.shape == (0, 2)
    for ids, description in zip(batch.ids, batch.description, strict=True):
        asked = hear(ids[: int((description != IGNORED).nonzero().min()) + 1])
        assert asked.endswith(f"{DESCRIBE}\n\n<|Assistant|>:") and asked.count("<|User|>") == 1


def cover(scene: Scene, name: str) -> list[float]:
    """Return the rows, then the columns, that objects of a name cover."""
    boxes = [item.box for item in scene.items if item.name == name]
    rows = {row for top, _, bottom, _ in boxes for row in range(top, bottom)}
    columns = {column for _, left, _, right in boxes for column in range(left, right)}
    return [float(at in kind) for kind in (rows, columns) for at in range(GRID)]


@pytest.fixture
def talk(feeder: Feeder) -> tuple[list[Scene], list[list[Question]], LookingBatch]:
    """Return four scenes, six questions about each, and their conversations."""
    world = make_world(4)
    shown = [world.scene(world.request()) for _ in range(4)]
    asked = [ask_questions(world.random, scene, 6, 3.0) for scene in shown]
    return shown, asked, feeder.converse(shown, tell_patches(shown, None), asked)


def test_every_question_is_answered_and_every_image_described(
    talk: tuple[list[Scene], list[list[Question]], LookingBatch],
) -> None:
    shown, asked, batch = talk
    for row, (scene, questions) in enumerate(zip(shown, asked, strict=True)):
        said = [hear(one[None]) for one in batch.answers[row][batch.answers[row] != IGNORED][::2]]
        assert said == [" yes" if question.truth else " no" for question in questions]
        assert hear(batch.description[row][batch.description[row] != IGNORED][:-1]) == f" {describe(scene)}"


def test_the_position_that_answers_learns_the_places_of_both_names(
    talk: tuple[list[Scene], list[list[Question]], LookingBatch],
) -> None:
    shown, asked, batch = talk
    facts = batch.asked
    together = [(row, question) for row, questions in enumerate(asked) for question in questions]
    assert len(facts.answering) == len(together)
    for number, (row, question) in enumerate(together):
        at, position = facts.answering[number].tolist()
        assert at == row and hear(batch.ids[row, : position + 1]).endswith(f"{question.text}\n\n<|Assistant|>:")
        assert hear(batch.answers[row, position : position + 1]) == (" yes" if question.truth else " no")
        first, *second = (name for _, name in question.names)
        assert facts.first[number].tolist() == cover(shown[row], first)
        assert facts.second[number].tolist() == (cover(shown[row], second[0]) if second else [0.0] * (2 * GRID))
        assert facts.number[number] == sum(item.name == first for item in shown[row].items)
    assert facts.second.any(-1).sum() > 2, "some ask for a relation"


def test_a_name_in_a_question_learns_where_the_image_shows_it(
    talk: tuple[list[Scene], list[list[Question]], LookingBatch],
) -> None:
    shown, asked, batch = talk
    facts = batch.asked
    wanted = sorted(
        (row, f" {question.text.partition(spelled)[0][-6:]}{spelled}", name)
        for row, questions in enumerate(asked)
        for question in questions
        for spelled, name in question.names
    )
    heard: list[tuple[int, str, str]] = []
    for number, (row, position) in enumerate(facts.words.tolist()):
        asks = hear(batch.ids[row, : position + 1]).rpartition("\n")[2].rpartition("<|User|>: ")[2]
        name = next(n for at, words, n in wanted if at == row and asks.endswith(words.strip()))
        heard.append((row, asks, name))
        items = [item for item in shown[row].items if item.name == name]
        assert facts.cells[number].tolist() == cover(shown[row], name)
        assert {(None, *COLORS)[n] for n in facts.colors[number].nonzero()[:, 0].tolist()} == {i.color for i in items}
        assert facts.count[number] == len(items)
    assert len(heard) == len(wanted) and {row for row, _, _ in heard} == set(range(4))
    assert facts.cells.any() and not facts.cells.any(-1).all(), "present, absent"


def test_an_orange_orange_is_found_by_its_name(feeder: Feeder) -> None:
    scene = make_scene(Item("orange", "orange", 0, 0, "small"))
    question = Question("color", "is there an orange orange?", True, (("orange", "orange"),))
    batch = feeder.converse([scene], tell_patches([scene], None), [[question]])
    ((row, position),) = batch.asked.words.tolist()
    assert hear(batch.ids[row, : position + 1]).endswith("is there an orange orange")


def test_half_of_the_images_are_decoded_by_the_vq_model(feeder: Feeder) -> None:
    shown, batch = next(feeder.images(4, LOOKING))
    assert batch.pixels is not None and batch.pixels.shape == (4, 3, 160, 160)
    assert batch.pixels[:2].abs().max() <= 1
    firsts = [int(token_grid(scene, make_bank())[0, 0]) for scene in shown]
    assert batch.pixels[2:, 0, 0, 0].tolist() == firsts[2:]


def test_damaged_images_show_other_tokens_than_their_scene_has(feeder: Feeder) -> None:
    own = LOOKING | {"decoded_chunk": 8, "decoded_images": 8, "damaged": 1.0}
    shown, batch = next(feeder.images(16, own))
    assert batch.pixels is not None
    firsts = [int(token_grid(scene, make_bank())[0, 0]) for scene in shown]
    assert batch.pixels[8:, 0, 0, 0].tolist() != firsts[8:]


def words_of(said: torch.Tensor) -> str:
    """Return the words about one patch, as a text has them about an object."""
    spoken = zip(seeing.KINDS.values(), said.tolist(), strict=True)
    name, color, place = ("" if number == seeing.UNSAID else words[number] for words, number in spoken)
    return " ".join(filter(None, (place, color, name)))


def test_every_patch_is_labelled_with_the_words_of_a_text() -> None:
    world = make_world(2)
    shown = [world.scene(world.request()) for _ in range(6)]
    batch = tell_patches(shown, None)
    assert batch.said.shape == (6, GRID**2, 3)
    for scene, said, objects in zip(shown, batch.said, batch.objects, strict=True):
        every = (True,) * len(scene.items)
        mentions = Mentions(every, (False,) * len(every), style=False, ground=True)
        *texts, ground = write_text(scene, mentions).split(", ")
        assert {words_of(patch) for patch in said[objects]} == set(texts)
        assert {words_of(patch) for patch in said[~objects]} == {ground}
        for item, words in zip(scene.items, texts, strict=True):
            top, left, bottom, right = item.box
            inside = said.reshape(GRID, GRID, -1)[top:bottom, left:right].flatten(0, 1)
            assert {words_of(patch) for patch in inside} == {words}


@torch.no_grad()
def test_the_vision_tower_is_right_if_patches_are_near_their_words(feeder: Feeder) -> None:
    batch, lexicon = next(feeder.seeings(LOOKING)), seeing.Lexicon(feeder.encode)
    table = torch.randn(len(feeder.tokenizer), 256, generator=torch.Generator().manual_seed(0))
    words, random = lexicon.vectors(table), np.random.default_rng(0)
    assert torch.equal(words[0][0], table[feeder.encode(" person")[1:]].mean(0))
    seen = torch.zeros(*batch.said.shape[:2], 256)
    for kind, own in enumerate(words):
        told = batch.said[..., kind] != seeing.UNSAID
        seen[told] += own[batch.said[..., kind][told]]
    good, figures = seeing.seeing_loss(seen, batch, words, random)
    bad, wrong = seeing.seeing_loss(seen.roll(1, dims=0), batch, words, random)  # words of another image
    assert figures["seen_off"] == 0 < wrong["seen_off"] and bad > good + 1
    for kind in seeing.KINDS:  # not always 1, because words of one kind may share tokens
        assert figures[f"seen_{kind}_right"] > max(0.5, wrong[f"seen_{kind}_right"])


@torch.no_grad()
def test_words_in_place_of_patches_equal_the_output_of_a_perfect_vision_tower(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(feeder.lookings(LOOKING | {"looking_at": "words"}))
    assert batch.seen.pixels is None
    table = torch.randn(len(feeder.tokenizer), 256, generator=torch.Generator().manual_seed(0))
    words, random = seeing.Lexicon(feeder.encode).vectors(table), np.random.default_rng(0)
    unsteady, again = (seeing.spell(batch.seen, words, random) for _ in range(2))
    assert not torch.equal(unsteady, again)
    assert 0.1 < seeing.seeing_loss(unsteady, batch.seen, words, random)[1]["seen_off"] < 0.4
    monkeypatch.setattr(seeing, "UNSTEADY", 0.0)
    steady = seeing.spell(batch.seen, words, random)
    assert seeing.seeing_loss(steady, batch.seen, words, random)[1]["seen_off"] == 0


def test_a_batch_with_images_says_the_same_as_one_without() -> None:
    world = make_world(3)
    shown = [world.scene(world.request())]
    with_images, without = tell_patches(shown, torch.zeros(1, 3, 160, 160)), tell_patches(shown, None)
    assert torch.equal(replace(with_images, pixels=None).said, without.said)
