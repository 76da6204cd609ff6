"""The losses of the unified model and its probes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.icon_world import LOOKING, WIDTH, make_drawing_settings, make_feeder, make_model
from training.batches import DrawingBatch
from training.grounds import GRID
from training.losses import (
    ANSWERED,
    CHECKED,
    PROBED,
    checking_loss,
    drawing_loss,
    looking_loss,
    reasoning_loss,
    tower_loss,
)
from training.probes import IGNORED, TOLD_LAYER, Probes
from training.seeing import Lexicon

pytestmark = pytest.mark.usefixtures("one_thread")


def taught_parts(model: nn.Module) -> set[str]:
    """Return the parts of a model that have a gradient."""
    return {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.slow
@pytest.mark.parametrize("thinned", [False, True])
@torch.no_grad()
def test_the_loss_of_a_padded_batch_equals_that_of_its_rows(thinned: bool) -> None:
    model = make_model()
    batch = next(make_feeder().drawings(make_drawing_settings(thinned)))
    losses: list[torch.Tensor] = []
    for row in range(3):
        length, targets = int(batch.lengths[row]), batch.targets[row][batch.targets[row] != IGNORED]
        fed, places = batch.fed[row, : len(targets) - 1], batch.places[row, : len(targets) - 1]
        text = model.get_input_embeddings()(batch.text[row, :length])
        embeddings = torch.cat([text, model.prepare_embeddings_for_image_generation(fed)])[None]
        positions = torch.cat([torch.arange(length), length + places])[None]
        hidden = model.model.language_model(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=torch.ones_like(positions)
        ).last_hidden_state
        logits = model.model.generation_head(hidden[0, length - 1 :])
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
    loss, figures = drawing_loss(model, batch)
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)
    objects = batch.objects[batch.targets != IGNORED]
    assert figures["object_loss"] == pytest.approx(torch.cat(losses)[objects].mean().item(), abs=1e-5)


@torch.no_grad()
def test_half_of_the_probes_loss_is_added_to_a_drawings() -> None:
    model, batch = make_model(), next(make_feeder().drawings(make_drawing_settings(True)))
    alone, figures = drawing_loss(model, batch)
    loss, probed = drawing_loss(model, batch, Probes(WIDTH))
    own = {name: value for name, value in probed.items() if name not in figures}
    assert set(own) == {"place", "color", "row", "column", "cell_name", "cell_color"}
    assert loss.item() == pytest.approx(alone.item() + PROBED * sum(own.values()), rel=1e-5)


@torch.no_grad()
def test_the_losses_of_texts_and_checks_equal_those_of_their_rows() -> None:
    model, feeder = make_model(), make_feeder()
    ids, labels = next(feeder.reasonings({"reasoning_batch": 3}))
    told = [
        F.cross_entropy(model(input_ids=row[None]).logits[0], marks, reduction="none", ignore_index=IGNORED)
        for row, marks in zip(ids, labels, strict=True)
    ]
    expected = torch.stack(told).sum() / (labels != IGNORED).sum()
    assert reasoning_loss(model, ids, labels)[0].item() == pytest.approx(expected.item(), rel=1e-4)
    batch = next(feeder.checks({"checking_batch": 3}))
    logits = torch.stack(
        [model(input_ids=row[None, : at + 1]).logits[0, -1] for row, at in zip(batch.ids, batch.places, strict=True)]
    )
    loss, figures = checking_loss(model, batch)
    answered = F.cross_entropy(logits, batch.answers).item()
    assert loss.item() == pytest.approx(answered + figures["fitting_loss"], rel=1e-4)
    probed, known = checking_loss(model, batch, Probes(WIDTH))
    own = sum(value for name, value in known.items() if name not in figures)
    assert probed.item() == pytest.approx(loss.item() + CHECKED * own, rel=1e-4)
    assert figures["checking_right"] == (logits.argmax(-1) == batch.answers).float().mean().item()


def predict(batch: DrawingBatch) -> torch.Tensor:
    """Return the position that predicts each cell."""
    return batch.lengths[:, None] - 1 + torch.arange(batch.targets.shape[1])[None]


@torch.no_grad()
def test_probes_read_each_fact_at_its_position() -> None:
    """The probe reads states that hold the answer at the right layer and position, not one position later."""
    batch = next(make_feeder().drawings(make_drawing_settings(True, batch=4)))
    facts, probes, where = batch.facts, Probes(64), predict(batch)
    layers = [torch.zeros(4, int(where.max()) + 2, 64) for _ in range(6)]
    codes = torch.eye(64)
    known = facts.cells != IGNORED
    rows = torch.arange(4)[:, None].expand_as(where)[known]
    layers[TOLD_LAYER][rows, where[known]] = 9 * codes[facts.cells[known] // GRID]
    layers[-2][rows, where[known]] = 9 * codes[facts.cell_color[known]]
    for head in (probes.row, probes.column, probes.cell_color):
        head.weight.copy_(codes[: head.out_features])
        nn.init.zeros_(head.bias)
    right, shifted = probes(layers, where, facts)[1], probes(layers, where + 1, facts)[1]
    assert right["row"] < 0.01 < 0.3 < shifted["row"]
    assert right["cell_color"] < 0.01 < 0.3 < shifted["cell_color"]
    assert right["column"] > 1


@torch.no_grad()
def test_probes_read_the_places_of_names_where_a_question_is_answered() -> None:
    batch = next(make_feeder().lookings(LOOKING | {"looking_at": "words", "questions": 6}))
    asked, probes = batch.asked, Probes(64)
    layers = [torch.zeros(*batch.ids.shape, 64) for _ in range(6)]
    for layer, at, truth in ((-2, asked.answering, asked.first), (TOLD_LAYER, asked.words, asked.cells)):
        layers[layer][at[:, 0], at[:, 1], : 2 * GRID] = 2 * truth - 1
    for head in (probes.first, probes.asked_cells, probes.second):
        head.weight.copy_(9 * torch.eye(64)[: 2 * GRID])
        nn.init.zeros_(head.bias)
    figures = probes.look(layers, asked)[1]
    assert figures["first"] < 0.01 and figures["asked_cells"] < 0.01
    assert figures["second"] > 1


def test_probes_of_a_batch_without_texts_and_questions_are_zero_except_for_cells() -> None:
    feeder, probes = make_feeder(), Probes(WIDTH)
    batch = next(feeder.drawings(make_drawing_settings(True, condition_dropout=1.0)))
    layers = [torch.zeros(3, 200, WIDTH) for _ in range(4)]
    loss, figures = probes(layers, predict(batch), batch.facts)
    assert {name for name, value in figures.items() if value} == {"row", "column"} and loss > 0
    silent = next(feeder.lookings(LOOKING | {"looking_at": "words", "described": 1.0}))
    assert not any(probes.look([torch.zeros(*silent.ids.shape, WIDTH)] * 4, silent.asked)[1].values())


def test_questions_about_words_train_the_language_model_alone() -> None:
    model, feeder = make_model().train(), make_feeder()
    batch = next(feeder.lookings(LOOKING | {"looking_at": "words"}))
    loss, figures = looking_loss(model, batch, Lexicon(feeder.encode), np.random.default_rng(0))
    assert loss.item() == pytest.approx(figures["answers_loss"] + figures["description_loss"], rel=1e-5)
    assert figures["answers_loss"] > ANSWERED
    loss.backward()
    taught = taught_parts(model)
    assert "language_model" in taught and not {"vision_model", "aligner"} & taught


@pytest.mark.slow
@pytest.mark.parametrize("probed", [False, True])
def test_questions_about_images_train_tower_and_language_model(probed: bool) -> None:
    model, feeder = make_model().train(), make_feeder()
    lexicon, random = Lexicon(feeder.encode), np.random.default_rng(0)
    probes = Probes(WIDTH) if probed else None
    loss, figures = looking_loss(model, next(feeder.lookings(LOOKING)), lexicon, random, probes)
    loss.backward()
    assert ("asked_cells" in figures) == probed
    assert {"answers_loss", "description_loss", "seen_off", "looking_right"} <= figures.keys()
    assert {"vision_model", "aligner", "language_model"} <= taught_parts(model)


def test_training_the_tower_alone_does_not_change_the_language_model() -> None:
    model, feeder = make_model().train(), make_feeder()
    tower_loss(model, next(feeder.seeings(LOOKING)), Lexicon(feeder.encode), np.random.default_rng(0))[0].backward()
    assert taught_parts(model) == {"vision_model", "aligner"}
