"""The icon world and its training sequences: what training shows, and what it must never show."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import JanusForConditionalGeneration, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from milr.rewards.geneval.rules import apply_rules
from milr.tasks import OBJECT_NAMES, parse_prompt, plural
from milr.types import Task
from training import scenes, seeing, stage, tokens, unified, vq
from training.icons import GROUNDS
from training.planning import LONGEST, write_plans
from training.probes import NOTHING, TOLD_LAYER, Probes

CODES = 64


def make_world(seed: int = 0, **settings: float) -> scenes.World:
    held_out, forbidden = scenes.read_held_out(), scenes.read_geneval_hashes()
    return scenes.World(np.random.default_rng(seed), held_out, forbidden, **settings)  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1))
def test_a_scene_fulfils_its_task_by_genevals_rules(seed: int) -> None:
    world = make_world(seed)
    task = world.request()
    detections: dict[str, list[tuple[float, float, float, float, float, str | None]]] = {}
    for item in world.scene(task).items:
        top, left, bottom, right = (float(scenes.TOKEN * side) for side in item.box)
        detections.setdefault(item.name, []).append((left, top, right, bottom, 0.99, item.color))
    assert apply_rules(detections, task).correct


@given(st.integers(0, 2**32 - 1))
def test_objects_of_a_scene_never_overlap(seed: int) -> None:
    world = make_world(seed)
    cells = np.zeros((scenes.GRID, scenes.GRID), int)
    for item in world.scene(world.request()).items:
        top, left, bottom, right = item.box
        cells[top:bottom, left:right] += 1
    assert cells.max() == 1


@pytest.mark.slow
def test_requests_never_hold_what_is_held_out() -> None:
    world, held_out = make_world(), scenes.read_held_out()
    for _ in range(3000):
        for need in world.request().include:
            assert (need.color, need.name) not in held_out.colors
            assert (need.count, need.name) not in held_out.counts


def test_riddles_that_training_tells_are_those_of_its_split_and_ask_for_one_object() -> None:
    told = {riddle.text: riddle.name for riddle in scenes.read_riddles() if riddle.split == "train"}
    world = make_world(riddled=1.0)
    for task in (world.request() for _ in range(200)):
        (item,) = world.scene(task).items
        assert told[task.prompt] == item.name


def test_the_committed_list_is_the_seeded_choice() -> None:
    assert scenes.read_held_out() == scenes.choose_held_out()


@pytest.mark.slow
def test_genevals_prompts_are_not_trained_on(shared_data: Path) -> None:
    lines = (shared_data / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    tasks = [Task.model_validate_json(line) for line in lines]
    hashes = {scenes.request_hash(task) for task in tasks if task.tag != "single_object"}
    assert hashes == scenes.read_geneval_hashes()
    world = make_world(phrases=(1.0, 0.0, 0.0))  # type: ignore[arg-type]
    asked = {scenes.request_hash(world.request()) for _ in range(2000)}
    assert not asked & hashes


def test_the_hash_of_a_request_does_not_see_wording_or_order() -> None:
    first = scenes.request_hash(parse_prompt("a photo of a red apple and a dog"))
    assert first == scenes.request_hash(parse_prompt("a dog, a red apple"))
    assert first != scenes.request_hash(parse_prompt("a red dog and an apple"))
    left = scenes.request_hash(parse_prompt("a cat left of a dog"))
    assert left != scenes.request_hash(parse_prompt("a dog left of a cat"))


@given(st.integers(0, 2**32 - 1))
def test_questions_are_answered_by_the_scene(seed: int) -> None:
    world = make_world(seed)
    scene = world.scene(world.request())
    for _, question, truth, _ in world.questions(scene, 4):
        if question.startswith("is there a"):
            words = question.removesuffix("?").split(maxsplit=3)[3]
            named = {i.name for i in scene.items} | {f"{i.color} {i.name}" for i in scene.items}
            assert (words in named) == truth


def test_plans_name_every_object_with_its_place() -> None:
    scene = scenes.Scene(
        (scenes.Item("apple", "red", "top left", "large"), scenes.Item("dog", None, "right", "small")), "sky"
    )
    assert scene.plan == "top left large red apple, right small dog, sky ground"


def draw_first_code(grids: torch.Tensor) -> torch.Tensor:
    """Return images of tokens: every pixel has the value of its grid's first token."""
    return grids[:, 0, 0].float()[:, None, None, None].expand(-1, 3, 144, 144)


def test_empty_cells_show_the_background() -> None:
    cells = np.full((3, 3), 2)
    icon = np.full((3, 3), scenes.AIR)
    icon[1, 1] = 7
    scenes.paste(cells, icon)
    assert cells.tolist() == [[2, 2, 2], [2, 7, 2], [2, 2, 2]]


@pytest.fixture(scope="module")
def feeder() -> unified.Feeder:
    random = np.random.default_rng(0)
    tokenizer = tokens.train_tokenizer(make_world(), 800, 300)
    colors = ["natural", *scenes.COLORS]
    bank = {
        (name, 0, color, size): random.integers(len(GROUNDS), CODES, (side, side))
        for name in OBJECT_NAMES
        for color in colors
        for size, side in scenes.SIZES.items()
    }
    bank["dog", 0, "natural", "small"][0, 0] = CODES - 1
    library = {
        (name, 0, color, size): np.zeros((16 * side, 16 * side, 4), np.float32)
        for name in OBJECT_NAMES
        for color in colors
        for size, side in scenes.SIZES.items()
    }
    return unified.Feeder(make_world(1), tokenizer, bank, library, decode=draw_first_code)


@pytest.fixture(scope="module")
def tiny(feeder: unified.Feeder) -> JanusForConditionalGeneration:
    settings = stage.read_settings()
    settings["model"] |= {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "feed_forward": 48,
        "vision_width": 16,
        "vision_heads": 4,
    }
    settings["vq"] |= {"codebook": CODES}
    torch.manual_seed(0)
    return JanusForConditionalGeneration(unified.build_config(settings, feeder.tokenizer)).eval()


def drawing_settings(thinned: bool, batch: int = 3, condition_dropout: float = 0.0) -> dict[str, Any]:
    kept = 0.1 if thinned else 1.0
    diet = {
        "share": 1.0,
        "batch": batch,
        "objects_kept": 1.0,
        "ground_kept": kept,
        "ground_weight": 1 / kept,
        "blurred": 0.0,
        "decision_weight": 1.0,
    }
    return {"drawings": [diet], "plan_dropout": 0.0, "condition_dropout": condition_dropout}


@pytest.mark.slow
@pytest.mark.parametrize("thinned", [False, True])
@torch.no_grad()
def test_the_loss_of_a_padded_batch_is_that_of_its_rows(
    tiny: JanusForConditionalGeneration, feeder: unified.Feeder, thinned: bool
) -> None:
    batch = next(feeder.drawings(drawing_settings(thinned)))
    losses: list[torch.Tensor] = []
    words: list[torch.Tensor] = []
    for row in range(3):
        length, targets = int(batch.lengths[row]), batch.targets[row][batch.targets[row] != unified.IGNORED]
        fed, places = batch.fed[row, : len(targets) - 1], batch.places[row, : len(targets) - 1]
        text = tiny.get_input_embeddings()(batch.text[row, :length])
        embeddings = torch.cat([text, tiny.prepare_embeddings_for_image_generation(fed)])[None]
        positions = torch.cat([torch.arange(length), length + places])[None]
        hidden = tiny.model.language_model(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
        logits = tiny.model.generation_head(hidden[0, length - 1 :])
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
        labels = batch.words[row, :length]
        assert (batch.text[row, 1:length][labels[:-1] != unified.IGNORED] == labels[labels != unified.IGNORED]).all()
        spoken = labels != unified.IGNORED
        words.append(F.cross_entropy(tiny.lm_head(hidden[0, :length][spoken]), labels[spoken], reduction="none"))
    weights = batch.weights[batch.targets != unified.IGNORED]
    mean = (torch.cat(losses) * weights).sum() / weights.sum()
    expected = (mean + torch.cat(words).mean()).item()
    assert unified.drawing_loss(tiny, batch)[0].item() == pytest.approx(expected, abs=1e-5)


def test_a_thinned_batch_keeps_every_cell_of_every_object(feeder: unified.Feeder) -> None:
    whole = next(feeder.drawings(drawing_settings(False)))
    thin = next(feeder.drawings(drawing_settings(True)))
    assert whole.targets.shape[1] == scenes.GRID**2
    assert thin.targets.shape[1] < scenes.GRID**2
    for places, targets, objects in zip(thin.places, thin.targets, thin.objects, strict=True):
        assert (targets[objects] >= len(GROUNDS)).all()
        assert (places.diff()[places[1:] > 0] > 0).all()


def test_facts_are_those_of_the_plan(feeder: unified.Feeder) -> None:
    """A comma follows each object's last word, which has its place; each cell has its object's name."""
    batch = next(feeder.drawings(drawing_settings(True, batch=8)))
    facts, decode = batch.facts, feeder.tokenizer.decode
    places = list(scenes.PLACES)
    found: dict[tuple[int, int], str] = {}
    for (row, position), place, color in zip(facts.words.tolist(), facts.place, facts.color, strict=True):
        text = decode(batch.text[row, : position + 1])
        assert decode(batch.text[row, position + 1]) == ","
        words = text.partition(". ")[2].rpartition(", ")[2]
        assert words.startswith(places[place])
        assert any(words.endswith(name) for name in OBJECT_NAMES)
        assert (["", *scenes.COLORS][color] in words.split()) or color == 0
        found[row, int(place)] = words
    for (row, number), words in found.items():
        box = scenes.Item("", None, places[number], "small" if "small" in words.split() else "large").box
        inside = (facts.cells[row] // scenes.GRID >= box[0]) & (facts.cells[row] // scenes.GRID < box[2])
        inside &= (facts.cells[row] % scenes.GRID >= box[1]) & (facts.cells[row] % scenes.GRID < box[3])
        (name,) = set(facts.cell_name[row][inside].tolist())
        assert words.endswith(OBJECT_NAMES[name])
    for row in range(8):
        assert (facts.cell_name[row][batch.objects[row]] != NOTHING).all()
        assert (facts.cell_name[row][~batch.objects[row] & (facts.cells[row] >= 0)] == NOTHING).all()


def test_a_plan_left_out_tells_places_of_cells_alone(feeder: unified.Feeder) -> None:
    facts = next(feeder.drawings(drawing_settings(True, condition_dropout=1.0))).facts
    assert not len(facts.words)
    assert (facts.cell_name == unified.IGNORED).all()
    assert (facts.cells[:, 0] == 0).all()


def test_probes_read_each_fact_at_its_position(feeder: unified.Feeder) -> None:
    """The probe reads states that hold the answer at the right layer and position, not one position later."""
    batch = next(feeder.drawings(drawing_settings(True, batch=4)))
    facts, probes = batch.facts, Probes(64)
    where = batch.lengths[:, None] - 1 + torch.arange(batch.targets.shape[1])[None]
    layers = [torch.zeros(4, int(where.max()) + 2, 64) for _ in range(6)]
    codes = torch.eye(64)
    known = facts.cells != unified.IGNORED
    rows = torch.arange(4)[:, None].expand_as(where)[known]
    layers[TOLD_LAYER][rows, where[known]] = 9 * codes[facts.cells[known] // scenes.GRID]
    with torch.no_grad():
        for head in (probes.row, probes.column):
            head.weight.copy_(codes[: scenes.GRID])
            head.bias.zero_()
        right = probes(layers, where, facts)[1]
        shifted = probes(layers, where + 1, facts)[1]
    assert right["row"] < 0.01 < 0.3 < shifted["row"]
    assert right["column"] > 1


def test_raster_lines_have_their_own_wavelengths() -> None:
    settings = stage.read_settings()
    width = settings["model"]["width"] // settings["model"]["heads"]
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=1, head_dim=width, rope_parameters=unified.raster_rotation(width)
    )
    turning = LlamaRotaryEmbedding(config)
    found = [2 * torch.pi / float(frequency) for frequency in turning.inv_freq]
    for wanted in (4.5, 9, 36, 72, 144):
        assert any(length == pytest.approx(wanted, rel=1e-5) for length in found)
    cosine, _ = turning(torch.zeros(1), torch.tensor([[3, 3 + scenes.GRID]]))
    assert turning.attention_scaling == 1.0
    same = (cosine[0, 0] - cosine[0, 1]).abs() < 1e-5
    assert same[:3].tolist() == [True, True, False]  # a half and the whole of a line


def test_rotary_frequencies_stay_exact_in_training(tiny: JanusForConditionalGeneration) -> None:
    """Rounded frequencies would rotate positions differently from the loaded model."""
    network = unified.to_bfloat16(copy.deepcopy(tiny))
    assert network.dtype == torch.bfloat16
    assert network.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.slow
def test_a_drawing_of_few_cells_does_not_tell_where_objects_stand(feeder: unified.Feeder) -> None:
    settings = drawing_settings(True, batch=64)
    settings["drawings"][0] |= {"objects_kept": 0.1, "ground_kept": 0.1}
    batches = feeder.drawings(settings)
    pool = [next(batches) for _ in range(4)]
    kept = sum(int((batch.targets != unified.IGNORED).sum()) for batch in pool)
    assert kept == pytest.approx(256 * (1 + 80 * 0.1), rel=0.1)


@pytest.mark.slow
def test_kept_background_tokens_are_weighted_for_left_out_ones(feeder: unified.Feeder) -> None:
    shares: list[float] = []
    for thinned in (False, True):
        batches = feeder.drawings(drawing_settings(thinned, batch=100))
        pool = [next(batches) for _ in range(4)]  # a pool is sorted by length, so only the whole pool is representative
        objects = sum(float((batch.weights * batch.objects).sum()) for batch in pool)
        shares.append(objects / sum(float(batch.weights.sum()) for batch in pool))
    assert shares[1] == pytest.approx(shares[0], rel=0.15)


def test_the_unconditional_half_keeps_the_first_and_the_last_token(feeder: unified.Feeder) -> None:
    batch = next(feeder.drawings(drawing_settings(True, condition_dropout=1.0)))
    pad = feeder.tokenizer.pad_token_id
    for text, length in zip(batch.text, batch.lengths, strict=True):
        assert text[0] == feeder.tokenizer.bos_token_id
        assert text[length - 1] == feeder.tokenizer.convert_tokens_to_ids("<begin_of_image>")
        assert (text[1 : length - 1] == pad).all()


def test_answers_are_labelled_where_they_are_predicted(feeder: unified.Feeder) -> None:
    ids, labels = next(feeder.reasonings({"reasoning_batch": 4}))
    for row, marks in zip(ids, labels, strict=True):
        chosen = marks != unified.IGNORED
        plan = marks[chosen]
        assert plan[-1] == feeder.tokenizer.eos_token_id
        assert feeder.tokenizer.decode(plan[:-1]).endswith("ground")
        # Each label but the last is the input of the next position.
        assert torch.equal(row[1:][chosen[:-1]][: len(plan) - 1], plan[:-1])


LOOKING = {
    "looking_batch": 4,
    "looking_at": "pictures",
    "seeing_batch": 4,
    "questions": 2,
    "described": 0.0,
    "decoded_pictures": 8,
    "decoded_chunk": 4,
    "decode_every": 3,
    "damaged": 0.0,
}


def test_a_conversation_asks_before_it_describes(feeder: unified.Feeder) -> None:
    batch = next(feeder.lookings(LOOKING))
    end, tokenizer = feeder.tokenizer.eos_token_id, feeder.tokenizer
    for ids, answers, description in zip(batch.ids, batch.answers, batch.description, strict=True):
        said = answers[answers != unified.IGNORED]
        assert said[1::2].tolist() == [end, end]
        assert {tokenizer.decode(said[i]) for i in (0, 2)} <= {" yes", " no"}
        last, first = int((answers != unified.IGNORED).nonzero().max()), (description != unified.IGNORED).nonzero()
        assert last < int(first.min())
        told = description[description != unified.IGNORED]
        assert tokenizer.decode(told[:-1]).endswith(" ground")
        assert (ids[1:][(description != unified.IGNORED)[:-1]] == told).all()  # each under the token before


def test_some_pictures_are_described_without_a_question_before(feeder: unified.Feeder) -> None:
    batch = next(feeder.lookings(LOOKING | {"described": 1.0}))
    assert (batch.answers == unified.IGNORED).all()
    for ids, description in zip(batch.ids, batch.description, strict=True):
        asked = feeder.tokenizer.decode(ids[: int((description != unified.IGNORED).nonzero().min()) + 1])
        assert asked.endswith(f"{unified.DESCRIBE}\n\n<|Assistant|>:") and asked.count("<|User|>") == 1


def test_half_of_the_images_for_questions_are_decoded_by_the_vq_model(feeder: unified.Feeder) -> None:
    shown, batch = next(feeder.pictures(4, LOOKING))
    assert batch.pixels[:2].abs().max() <= 1
    firsts = [scenes.token_grid(scene, feeder.bank)[0, 0] for scene in shown]
    assert batch.pixels[2:, 0, 0, 0].tolist() == firsts[2:]


def test_damaged_pictures_show_other_tokens_than_their_scene_has(feeder: unified.Feeder) -> None:
    shown, batch = next(feeder.pictures(64, LOOKING | {"decoded_chunk": 32, "decoded_pictures": 32, "damaged": 1.0}))
    firsts = [scenes.token_grid(scene, feeder.bank)[0, 0] for scene in shown]
    assert batch.pixels[32:, 0, 0, 0].tolist() != firsts[32:]


def words_of(said: torch.Tensor) -> str:
    """Words about one patch, as a plan has them about an object."""
    spoken = zip(seeing.KINDS.values(), said.tolist(), strict=True)
    name, color, place = ("" if number == seeing.UNSAID else words[number] for words, number in spoken)
    return " ".join(filter(None, (place, color, name)))


def test_every_patch_is_told_in_the_words_of_the_plan(feeder: unified.Feeder) -> None:
    for shown, batch in (next(feeder.pictures(4, LOOKING)), next(feeder.pictures(4, LOOKING))):
        for scene, said, objects in zip(shown, batch.said, batch.objects, strict=True):
            plan = re.sub(" (small|large)", "", scene.plan).split(", ")
            assert {words_of(patch) for patch in said[objects]} == set(plan[:-1])
            assert {words_of(patch) for patch in said[~objects]} == {plan[-1]}
            for item in scene.items:
                top, left, _, _ = item.box
                corner = said.reshape(9, 9, -1)[top, left]
                assert words_of(corner) == item.words.replace(f" {item.size}", "")


def test_a_name_in_a_question_learns_its_place_in_the_image(feeder: unified.Feeder) -> None:
    shown, seen = next(feeder.pictures(4, LOOKING))
    batch = feeder._converse(shown, seen, [6] * 4)  # pyright: ignore[reportPrivateUsage]
    facts = zip(batch.asked.words.tolist(), batch.asked.places, batch.asked.colors, strict=True)
    for (row, position), places, colors in facts:
        heard = feeder.tokenizer.decode(batch.ids[row, : position + 1])
        named = [name for name in OBJECT_NAMES if re.search(f" ({name}|{plural(name)})$", heard)]
        name = max(named, key=len)
        items = [item for item in shown[row].items if item.name == name]
        assert {list(scenes.PLACES)[n] for n in places.nonzero()[:, 0].tolist()} == {item.place for item in items}
        assert {[None, *scenes.COLORS][n] for n in colors.nonzero()[:, 0].tolist()} == {item.color for item in items}
    assert {row for row, _ in batch.asked.words.tolist()} == set(range(4))
    assert batch.asked.places.any() and not batch.asked.places.any(-1).all()  # present, absent


@torch.no_grad()
def test_the_tower_is_right_if_patches_are_near_their_words(feeder: unified.Feeder) -> None:
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
def test_words_that_stand_for_patches_are_what_a_faultless_tower_would_see(
    feeder: unified.Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(feeder.lookings(LOOKING | {"looking_at": "words"}))
    assert batch.seen.pixels is None
    table = torch.randn(len(feeder.tokenizer), 256, generator=torch.Generator().manual_seed(0))
    words, random = seeing.Lexicon(feeder.encode).vectors(table), np.random.default_rng(0)
    unsteady, again = (seeing.spell(batch.seen, words, random) for _ in range(2))
    assert not torch.equal(unsteady, again)
    assert 0.1 < seeing.seeing_loss(unsteady, batch.seen, words, random)[1]["seen_off"] < 0.3
    monkeypatch.setattr(seeing, "UNSTEADY", 0.0)
    steady = seeing.spell(batch.seen, words, random)
    assert seeing.seeing_loss(steady, batch.seen, words, random)[1]["seen_off"] == 0


def test_questions_about_words_train_the_language_model_alone(
    tiny: JanusForConditionalGeneration, feeder: unified.Feeder
) -> None:
    network = copy.deepcopy(tiny).train()
    batch = next(feeder.lookings(LOOKING | {"looking_at": "words"}))
    loss, _ = unified.looking_loss(network, batch, seeing.Lexicon(feeder.encode), np.random.default_rng(0))
    loss.backward()
    taught = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert "language_model" in taught and not {"vision_model", "aligner"} & taught


@pytest.mark.slow
@pytest.mark.parametrize("probed", [False, True])
def test_questions_about_images_train_tower_and_language_model(
    tiny: JanusForConditionalGeneration, feeder: unified.Feeder, probed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.probes.FOUND_LAYER", 2)
    network = copy.deepcopy(tiny).train()
    lexicon, random = seeing.Lexicon(feeder.encode), np.random.default_rng(0)
    probes = Probes(32) if probed else None
    loss, figures = unified.looking_loss(network, next(feeder.lookings(LOOKING)), lexicon, random, probes)
    loss.backward()
    assert ("asked_place" in figures) == probed
    assert {"answers_loss", "description_loss", "seen_off", "looking_right"} <= figures.keys()
    taught = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"vision_model", "aligner", "language_model"} <= taught


def test_training_the_tower_alone_does_not_change_the_language_model(
    tiny: JanusForConditionalGeneration, feeder: unified.Feeder
) -> None:
    network = copy.deepcopy(tiny).train()
    batch, lexicon = next(feeder.seeings(LOOKING)), seeing.Lexicon(feeder.encode)
    words = lexicon.vectors(network.model.language_model.embed_tokens.weight)
    seeing.seeing_loss(unified.look(network, batch), batch, words, np.random.default_rng(0))[0].backward()
    taught = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None}
    assert taught == {"vision_model", "aligner"}


def test_a_code_that_was_never_shown_learns_from_its_shape_and_its_tint() -> None:
    tints, shapes, grounds = len(vq.TINTS), 5, len(GROUNDS)
    parts = unified.Factored()
    torch.manual_seed(0)
    made = [torch.randn(number, 3, requires_grad=True) for number in (grounds, shapes, tints)]
    table = parts(*made)
    assert table.shape == (grounds + shapes * tints, 3)
    assert torch.equal(table[grounds + 2 * tints + 7], made[1][2] + made[2][7])
    again = parts(*parts.right_inverse(table.detach()))
    assert torch.allclose(again, table, atol=1e-6)
    # Training shows shape 2 in tint 3 and shape 4 in tint 7, but not shape 2 in tint 7.
    (table[grounds + 2 * tints + 3] + table[grounds + 4 * tints + 7]).sum().backward()
    with torch.no_grad():
        moved = parts(*(part + part.grad for part in made if part.grad is not None)) - table
    assert moved[grounds + 2 * tints + 7].tolist() == [2, 2, 2]
    assert not moved[grounds + 3 * tints + 8].any()


def test_tables_of_codes_are_plain_where_they_are_shipped(tiny: JanusForConditionalGeneration) -> None:
    settings, network = stage.read_settings(), copy.deepcopy(tiny)
    codes = len(GROUNDS) + 5 * len(vq.TINTS)
    for table in unified.tables_of_codes(network):
        table.weight = torch.nn.Parameter(torch.randn(codes, table.weight.shape[1]))
    plain = [name for name, _ in network.named_parameters()]
    unified.factor(network)
    sums = [table.weight.detach().clone() for table in unified.tables_of_codes(network)]
    assert [name for name, _ in network.named_parameters()] != plain
    unified.multiply_out(network)
    assert sorted(name for name, _ in network.named_parameters()) == sorted(plain)
    for table, weight in zip(unified.tables_of_codes(network), sums, strict=True):
        assert torch.equal(table.weight, weight)
    assert settings["vq"]["codebook"] % len(vq.TINTS) == len(GROUNDS)


@pytest.mark.slow
@torch.no_grad()
def test_plans_of_a_batch_equal_plans_without_cache(
    feeder: unified.Feeder, tiny: JanusForConditionalGeneration
) -> None:
    questions = [feeder.ask(parse_prompt(prompt)) for prompt in ("a dog", "three red cats", "a bed above a blue vase")]
    assert len(set(map(len, questions))) == 3
    expected: list[str] = []
    for ids in questions:
        written: list[int] = []
        while len(written) < LONGEST and feeder.tokenizer.eos_token_id not in written:
            hidden = tiny.model.language_model(input_ids=torch.tensor([ids + written])).last_hidden_state
            written.append(int(tiny.lm_head(hidden[0, -1]).argmax()))
        expected.append(feeder.tokenizer.decode(written, skip_special_tokens=True))
    assert write_plans(tiny, feeder.tokenizer, questions) == expected
    assert len(set(expected)) == 3 and all(expected)


@pytest.fixture
def examiner(feeder: unified.Feeder, tiny: JanusForConditionalGeneration) -> unified.Examiner:
    """An examination that wants half of the plans right; its network's weights are 0.25."""
    network = copy.deepcopy(tiny)
    masters = unified.Masters(unified.trainable(network))
    with torch.no_grad():
        for average in masters.averages:
            average.fill_(0.25)

    def ask_anew(step: int) -> unified.Feeder:
        fresh = copy.copy(feeder)
        fresh.world = make_world(step)
        return fresh

    own = {"examined": 4, "examined_every": 10, "plans_wanted": 0.5}
    return unified.Examiner(network, masters, unified.Feeders(feeder, feeder, feeder, ask_anew), own)


@pytest.fixture
def exams(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[int, ...]], bool]]:
    """The questions of each examination, and whether the averaged network answered; six more are right each time."""
    held: list[tuple[list[tuple[int, ...]], bool]] = []

    def write(network: JanusForConditionalGeneration, _: object, questions: list[list[int]]) -> list[str]:
        held.append((list(map(tuple, questions)), bool((network.lm_head.weight == 0.25).all())))
        return ["right" if number < 6 * len(held) else "wrong" for number in range(len(questions))]

    monkeypatch.setattr(unified, "write_plans", write)
    monkeypatch.setattr(unified, "fulfils", lambda plan, task: plan == "right")
    return held


def test_a_phase_ends_when_the_averaged_weights_plan_well_enough(
    examiner: unified.Examiner, exams: list[tuple[list[tuple[int, ...]], bool]]
) -> None:
    before = examiner.model.lm_head.weight.clone()
    assert [step for step in range(21) if examiner.is_satisfied(step)] == [10, 20]  # 6, 12 and 18 of 20 plans
    assert examiner.right == {"count": 1.0, "two": 1.0, "colors": 1.0, "relation": 1.0, "three": 0.5}
    assert len(exams) == 3 and all(averaged for _, averaged in exams)
    assert torch.equal(examiner.model.lm_head.weight, before), "training goes on with the weights that it had"


def test_examinations_depend_on_the_step_only(
    examiner: unified.Examiner, exams: list[tuple[list[tuple[int, ...]], bool]]
) -> None:
    for step in (10, 20, 10):
        examiner.examine(step)
    (first, _), (other, _), (again, _) = exams
    assert again == first != other and len(set(first)) == len(first) == 20


def test_phases_without_an_examiner_last_until_their_step(
    examiner: unified.Examiner, exams: list[tuple[list[tuple[int, ...]], bool]]
) -> None:
    examiner.own |= {"examined_every": 0, "plans_wanted": 0.0}
    assert not any(examiner.is_satisfied(step) for step in range(40)) and not exams


def test_the_last_phase_alone_is_examined_at_a_rate_that_has_fallen() -> None:
    settings = stage.read_settings()["unified"]
    *others, last = unified.phases(settings)
    assert last["examined_every"] and not any(phase["examined_every"] for phase in others)
    assert others[-1]["until"] == settings["decayed_at"]
    assert unified.schedule(last["until"] - 1, last) == last["lowest_rate"] < 1 == unified.schedule(1000, others[0])


def test_a_sibling_has_the_recipe_with_its_own_sizes() -> None:
    shipped, small = stage.read_settings(), stage.read_settings(size="small")
    assert "sizes" not in shipped and shipped.keys() == small.keys()
    differ = {room for room in shipped if shipped[room] != small[room]}
    assert differ == {"paths", "vq", "model", "export"}
    assert small["unified"] == shipped["unified"] and small["vq"]["codebook"] == shipped["vq"]["codebook"]
    assert small["export"]["folder"] != shipped["export"]["folder"]


@pytest.mark.parametrize("size", [None, "small"])
def test_training_from_nothing_does_not_touch_shipped_files(size: str | None, tmp_path: Path) -> None:
    shipped, anew = stage.read_settings(size=size), stage.read_settings(size=size, into=tmp_path)
    made = [anew["paths"]["build"], anew["paths"]["shapes"], anew["export"]["folder"]]
    made += [critic["folder"] for critic in anew["critics"].values()]
    assert len(set(made)) == len(made) and all(Path(path).parent == tmp_path for path in made)
    for place in (shipped, anew):  # otherwise equal
        del place["paths"], place["export"]["folder"]
        for critic in place["critics"].values():
            del critic["folder"]
    assert anew == shipped


def test_each_round_of_a_critic_rises_and_falls_once() -> None:
    rates = [stage.rate(step % 600, 600, warm=200, floor=0.01) for step in range(1200)]
    assert rates[:600] == rates[600:] and max(rates) <= 1
    top = rates.index(max(rates[:600]))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:600] == sorted(rates[top:600], reverse=True)
    assert rates[0] < 0.01 and rates[599] == pytest.approx(0.01, abs=1e-3)


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    layer, checkpoint = torch.nn.Linear(2, 2), stage.Checkpoint(tmp_path / "a.pt")
    assert checkpoint.load(layer=layer) == 0
    checkpoint.save(3, layer=layer)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    assert checkpoint.load(layer=layer) == 3
    assert torch.equal(layer.weight, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
