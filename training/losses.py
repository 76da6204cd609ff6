"""The losses of the unified model, one for each kind of sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import JanusForConditionalGeneration

from training.batches import AnswerBatch, DrawingBatch, LookingBatch
from training.probes import IGNORED, Probes
from training.seeing import Lexicon, SeenBatch, seeing_loss, spell

Figures = dict[str, float]

PROBED = 0.5  # weight of the probes beside a drawing's loss
CHECKED = 0.5  # weight of the probes beside the answers to checks
LOOKED = 0.2  # weight of the probes beside the answers: each is a sum over 20 rows and columns
ANSWERED = 4.0  # weight of answers beside a description: half of their tokens are ends, which say nothing


def drawing_loss(
    model: JanusForConditionalGeneration, batch: DrawingBatch, probes: Probes | None = None
) -> tuple[torch.Tensor, Figures]:
    """Return the mean cross-entropy of the image tokens plus half of the probes', in nats, and figures."""
    inner = model.model
    # The aligner turns each code into one embedding, so its table is computed once.
    table = inner.generation_aligner(inner.generation_embeddings.weight)  # (codes, d)
    text: torch.Tensor = inner.language_model.embed_tokens(batch.text)  # (B, P, d)
    many = batch.fed.shape[1]
    total = batch.text.shape[1] + many
    lengths = batch.lengths[:, None]
    index = torch.arange(total)[None] - lengths  # (B, T): place among the fed image tokens
    inside = index.clamp(0, many - 1)
    image = F.embedding(batch.fed, table)  # (B, M, d)
    image = image.gather(1, inside[..., None].expand(-1, -1, image.shape[-1]))  # (B, T, d)
    embeddings = torch.where(index[..., None] >= 0, image, F.pad(text, (0, 0, 0, many)))
    positions = torch.where(index >= 0, lengths + batch.places.gather(1, inside), torch.arange(total)[None])
    read: Any = inner.language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        # Without a mask transformers takes every jump in the positions for the border of a packed sequence, and hides
        # all that stands before it: the prompt too.
        attention_mask=torch.ones_like(positions),
        use_cache=False,
        output_hidden_states=probes is not None,
    )
    hidden: torch.Tensor = read.last_hidden_state
    where = lengths - 1 + torch.arange(many + 1)[None]  # (B, M + 1): the position that predicts each target
    chosen = batch.targets != IGNORED
    hidden = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))[chosen]
    losses = F.cross_entropy(inner.generation_head(hidden).float(), batch.targets[chosen], reduction="none")
    objects = batch.objects[chosen]
    figures = {"object_loss": losses[objects].mean().item(), "ground_loss": losses[~objects].mean().item()}
    loss = losses.mean()
    if probes is not None:
        probed, known = probes(read.hidden_states, where, batch.facts)
        loss, figures = loss + PROBED * probed, figures | known
    return loss, figures


def reasoning_loss(
    model: JanusForConditionalGeneration, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, Figures]:
    """Return the mean cross-entropy of the texts' tokens, in nats."""
    hidden: torch.Tensor = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[chosen]).float(), labels[chosen]), {}


def checking_loss(
    model: JanusForConditionalGeneration, batch: AnswerBatch, probes: Probes | None = None
) -> tuple[torch.Tensor, Figures]:
    """Return the mean cross-entropies of yes and no, in nats, added, and the share of right answers.

    Beside the answer, the state after the last layer but one at each object's last word must tell whether the prompt
    asks for the object; the probes are told what it asks for. From the answer alone, checking stayed at chance for
    thousands of steps.
    """
    read = model.model.language_model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
    logits = model.lm_head(read.last_hidden_state[torch.arange(len(batch.places)), batch.places]).float()
    right = (logits.argmax(-1) == batch.answers).float().mean().item()
    loss, figures = F.cross_entropy(logits, batch.answers), {"checking_right": right}
    if len(batch.words):
        row, position = batch.words.unbind(-1)
        early = model.model.language_model.norm(read.hidden_states[-2][row, position])  # (N, d)
        fitting = F.cross_entropy(model.lm_head(early).float(), batch.fitting)
        loss, figures = loss + fitting, figures | {"fitting_loss": fitting.item()}
    if probes is not None:
        probed, known = probes.check(read.hidden_states, batch.words, batch.places, batch.demands)
        loss, figures = loss + CHECKED * probed, figures | known
    return loss, figures


def look(model: JanusForConditionalGeneration, batch: SeenBatch) -> torch.Tensor:
    """Return the tower's vectors of images, in the language model's space: (B, 100, d)."""
    inner = model.model
    assert batch.pixels is not None, "a batch of words alone"
    return inner.aligner(inner.vision_model(batch.pixels.to(inner.dtype)).last_hidden_state)


def tower_loss(
    model: JanusForConditionalGeneration, batch: SeenBatch, lexicon: Lexicon, random: np.random.Generator
) -> tuple[torch.Tensor, Figures]:
    """Return the tower's own loss (`training.seeing.seeing_loss`) and figures."""
    words = lexicon.vectors(model.model.language_model.embed_tokens.weight)
    return seeing_loss(look(model, batch), batch, words, random)


def looking_loss(
    model: JanusForConditionalGeneration,
    batch: LookingBatch,
    lexicon: Lexicon,
    random: np.random.Generator,
    probes: Probes | None = None,
) -> tuple[torch.Tensor, Figures]:
    """Return the sum of the losses of answers, description, tower and probes, in nats, and figures.

    If a batch has no images, words stand for the tower's vectors.
    """
    inner = model.model
    words: Sequence[torch.Tensor] = lexicon.vectors(inner.language_model.embed_tokens.weight)
    seen = spell(batch.seen, words, random) if batch.seen.pixels is None else look(model, batch.seen)
    text: torch.Tensor = inner.language_model.embed_tokens(batch.ids)
    holes = (batch.ids == model.config.image_token_id)[..., None]
    embeddings = text.masked_scatter(holes, seen.to(text.dtype))
    read: Any = inner.language_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=probes is not None)
    hidden: torch.Tensor = read.last_hidden_state
    spoken = [labels != IGNORED for labels in (batch.answers, batch.description)]
    answered, described = (model.lm_head(hidden[chosen]).float() for chosen in spoken)
    answers, description = batch.answers[spoken[0]], batch.description[spoken[1]]
    verdicts = answers != model.config.text_config.eos_token_id  # type: ignore[union-attr]
    losses = {
        "answers_loss": ANSWERED * F.cross_entropy(answered, answers),
        "description_loss": F.cross_entropy(described, description),
    }
    apart, figures = torch.zeros(()), dict[str, float]()
    if batch.seen.pixels is not None:
        apart, figures = seeing_loss(seen, batch.seen, words, random)
    if probes is not None:
        probed, known = probes.look(read.hidden_states, batch.asked)
        apart, figures = apart + LOOKED * probed, figures | known
    return sum(losses.values(), apart), {
        **{name: loss.item() for name, loss in losses.items()},
        **figures,
        "looking_right": (answered.argmax(-1) == answers)[verdicts].float().mean().item(),
    }
