"""Stage 4, the unified model: reasoning, drawing and looking, trained together in transformers' Janus classes.

Three kinds of sequences, all in Janus-Pro's chat form:

* reasoning: ``<|User|>: plan: {prompt}`` answered by the plan;
* drawing: ``<|User|>: {prompt}. {plan}`` followed by 81 image tokens; the plan is left out now and then, and for
  guidance all words are (pad tokens between the first and the last, as transformers' image mode does). The plan's words
  can be learned here too (``words_weight``): several times the reasoning for the price of one more head;
* looking: a picture, then questions answered by yes or no, then what stands where. The vision tower also learns by
  itself, from every patch (`training/seeing.py`); until it has, the words of what patches show stand for them.

A code's rows, in the embeddings and in the image head, are its shape's plus its tint's while the model is trained
(`Factored`).

Weights are bf16 with float32 masters; hidden matrices are optimised by Muon, the rest by AdamW.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig, PreTrainedTokenizerBase
from transformers.models.janus.configuration_janus import JanusVisionConfig

from milr.tasks import COLORS
from milr.types import Task
from training.icons import GROUNDS
from training.planning import fulfils, request_each_kind, write_plans
from training.probes import IGNORED, NOTHING, AskedFacts, Facts, Probes, color_number, name_number, place_number
from training.scenes import GRID, PLACES, SIZES, TOKEN, Item, Scene, World, render, token_grid
from training.seeing import Lexicon, SeenBatch, seeing_loss, spell, tell_patches
from training.stage import Checkpoint, Settings, log, start_from_shipped
from training.vq import TINTS, Bank, Library, to_pixels, vq_config

IMAGE_TOKENS = GRID * GRID
MOST_POSITIONS = 1024
DESCRIBE = "what is there?"
"""The question that is answered by what stands where."""
HEAD_DEVIATION = 0.05  # of the image head's first weights
PROBED = 0.5  # the probes' share of a drawing's loss
SAVED_EVERY = 100  # steps
EXAMINED_FROM = 1_000_000  # seeds of the worlds that plans are examined on; lessons' are their steps'
ANSWERED = 4.0  # how much more answers count than a description: half of their tokens are ends, which say nothing


def raster_rotation(width: int) -> dict[str, Any]:
    """Rotary positions whose wavelengths fit a raster, in transformers' terms.

    Janus numbers image tokens line by line and tells no one where a line ends. With RoPE's own wavelengths a small
    model learned its row but not its column (docs/experiments.md). Here five wavelengths are exact: a half and the
    whole of a line, and 4, 8 and 16 lines; each takes the place of the nearest one of RoPE's.

    Args:
        width: Of an attention head.
    """
    base = 10000.0
    own = [2 * math.pi * base ** (2 * place / width) for place in range(width // 2)]
    factors = [1.0] * len(own)
    for wanted in (GRID / 2, GRID, 4 * GRID, 8 * GRID, 16 * GRID):
        nearest = min(range(len(own)), key=lambda place: abs(math.log(own[place] / wanted)))
        factors[nearest] = wanted / own[nearest]
    return {
        "rope_type": "longrope",  # a factor for each wavelength; the same ones at every length
        "rope_theta": base,
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": MOST_POSITIONS,
        "factor": 1.0,
        "attention_factor": 1.0,
    }


def build_config(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> JanusConfig:
    """The embedded model's configuration: Janus-Pro's, in miniature."""
    own = settings["model"]
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=own["width"],
        num_hidden_layers=own["layers"],
        num_attention_heads=own["heads"],
        num_key_value_heads=own["heads"],  # Janus has no grouped queries
        intermediate_size=own["feed_forward"],
        max_position_embeddings=MOST_POSITIONS,
        rope_parameters=raster_rotation(own["width"] // own["heads"]),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(
        hidden_size=own["vision_width"],
        num_hidden_layers=own["vision_layers"],
        num_attention_heads=own["vision_heads"],
        image_size=GRID * TOKEN,
        patch_size=TOKEN,
        num_image_tokens=IMAGE_TOKENS,
        projection_dim=own["width"],
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq_config(settings),
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),  # type: ignore[attr-defined]
        tie_word_embeddings=False,
    )


class Factored(nn.Module):
    """A table of codes as sums of parts: each shape's row plus each tint's; the grounds have their own.

    Free rows of codes that training never shows as targets, an object in a colour held out, are only ever pushed down:
    such drawings were right in 0.60 of cases where others were in 0.95 (docs/experiments.md). As a sum, a code is as
    likely as its shape and its tint are.
    """

    def forward(self, grounds: torch.Tensor, shapes: torch.Tensor, tints: torch.Tensor) -> torch.Tensor:
        """(grounds, d), (shapes, d), (tints, d) -> (codes, d), numbered as `training.vq.TINTS` says."""
        return torch.cat([grounds, (shapes[:, None] + tints[None]).flatten(0, 1)])

    def right_inverse(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The parts nearest to a table (codes, d)."""
        grid = table[len(GROUNDS) :].unflatten(0, (-1, len(TINTS)))  # (shapes, tints, d)
        return table[: len(GROUNDS)], grid.mean(1), grid.mean(0) - grid.mean((0, 1))


def tables_of_codes(model: JanusForConditionalGeneration) -> tuple[nn.Module, nn.Module]:
    """The modules whose ``weight`` has a row for every code."""
    return model.model.generation_embeddings, model.model.generation_head.vision_head


def factor(model: JanusForConditionalGeneration) -> None:
    """Make each table of codes a sum of parts, in place."""
    for table in tables_of_codes(model):
        parametrize.register_parametrization(table, "weight", Factored())


def multiply_out(model: JanusForConditionalGeneration) -> None:
    """Make each table of codes plain again, as transformers has it, in place."""
    for table in tables_of_codes(model):
        parametrize.remove_parametrizations(table, "weight")


@dataclass(frozen=True)
class DrawingBatch:
    """Text, then the image tokens that are fed; rows padded on the right. M image tokens fed, P text tokens.

    Plain ground is most of a picture and soon known. A thinned batch leaves most of it out: the rest keeps its true
    positions, so the decoder sees a picture with holes.
    """

    text: torch.Tensor  # (B, P) int64
    lengths: torch.Tensor  # (B,) int64: text tokens of each row
    words: torch.Tensor  # (B, P) int64: the plan's tokens, and what follows it, under the token before; or IGNORED
    fed: torch.Tensor  # (B, M) int64: image tokens fed
    places: torch.Tensor  # (B, M) int64: their raster places
    targets: torch.Tensor  # (B, M + 1) int64: what the last text token and each fed token predict, or IGNORED
    objects: torch.Tensor  # (B, M + 1) bool: targets that are cells of objects, not ground
    weights: torch.Tensor  # (B, M + 1) float32: how many targets each stands for
    facts: Facts  # what hidden states must know


@dataclass(frozen=True)
class _Row:
    """One drawing before it is padded."""

    text: list[int]
    plan: slice  # where the plan's tokens, and the one behind them, stand in the text
    tokens: np.ndarray  # (81,)
    objects: np.ndarray  # (81,) bool
    weights: np.ndarray  # (81,) 0 where a target is left out
    words: list[tuple[int, int, int]]  # position, place and colour of each object's last word in the text
    names: np.ndarray  # (81,) what stands in each cell, or IGNORED
    colors: np.ndarray  # (81,) likewise


@dataclass(frozen=True)
class LookingBatch:
    """Pictures, each with a conversation about it."""

    seen: SeenBatch
    ids: torch.Tensor  # (B, T) int64, with placeholders where the picture stands
    answers: torch.Tensor  # (B, T) int64: yes, no and their ends under the token before; or IGNORED
    description: torch.Tensor  # (B, T) int64: what stands where, likewise
    asked: AskedFacts  # what hidden states must know


Decode = Callable[[torch.Tensor], torch.Tensor]
"""Image tokens (B, 9, 9) -> pixels (B, 3, 144, 144) in [-1, 1]: what the VQ model makes of them."""


class Feeder:
    """Endless batches from a world."""

    def __init__(
        self,
        world: World,
        tokenizer: PreTrainedTokenizerBase,
        bank: Bank,
        library: Library,
        decode: Decode,
    ) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.bank, self.library, self.decode = bank, library, decode
        self.codes = max(int(tokens.max()) for tokens in bank.values()) + 1
        self.behind = self.encode("\n\n<|Assistant|>:<begin_of_image>")[1:]  # what follows a plan
        # (81,) bool: the first row of every place where an object may stand. There it is decided whether one does;
        # an icon whose first row is ground is decided in the second.
        beginnings, decisions = np.zeros((2, GRID, GRID), bool)
        for size in SIZES if world.large else ("small",):
            for place in PLACES:
                top, left, _, right = Item("", None, place, size).box
                beginnings[top, left:right] = True
                decisions[top : top + 2, left:right] = True
        self.beginnings, self.decisions = beginnings.ravel(), decisions.ravel()

    def drawings(self, settings: dict[str, Any]) -> Iterator[DrawingBatch]:
        """Batches of rows of like length: a pool of four batches of one diet is sorted, then dealt out."""
        diets: list[dict[str, Any]] = settings["drawings"]
        random = self.world.random
        while True:
            diet = diets[random.choice(len(diets), p=[one["share"] for one in diets])]
            size = diet["batch"]
            pool = [self._row(settings, diet) for _ in range(4 * size)]
            pool.sort(key=lambda row: len(row.text) + np.count_nonzero(row.weights))
            for index in random.permutation(4):
                yield self._deal(pool[index * size : (index + 1) * size], diet["blurred"])

    def _row(self, settings: dict[str, Any], diet: dict[str, Any]) -> _Row:
        task = self.world.request()
        scene = self.world.scene(task)
        ids, plan = self._tell(task.prompt, scene, settings)
        objects = object_cells(scene).ravel()
        always = np.zeros(IMAGE_TOKENS, bool)
        if diet["objects_kept"] == 1.0:
            always = objects | self.beginnings
            always[1:] |= objects[:-1]  # where an object ends
        always[0] = True
        chance = np.where(objects, diet["objects_kept"], diet["ground_kept"])
        kept = always | (self.world.random.random(IMAGE_TOKENS) < chance)
        # A kept piece of ground speaks for those left out; else objects would seem to be everywhere.
        weights = np.where(always | objects, 1.0, diet["ground_weight"]).astype(np.float32) * kept
        # A few cells are all that tells whether the plan was read; all others follow from their neighbours.
        weights *= np.where(self.decisions, diet["decision_weight"], 1.0)
        grid = token_grid(scene, self.bank).ravel()
        # What a plan does not say cannot be known.
        facts = _cell_facts(scene) if plan.start else np.full((2, IMAGE_TOKENS), IGNORED)
        return _Row(ids, plan, grid, objects, weights, self._last_words(scene, plan), *facts)

    def _last_words(self, scene: Scene, plan: slice) -> list[tuple[int, int, int]]:
        """Position in the text, place and colour of each object's last word; none where the plan was left out."""
        found: list[tuple[int, int, int]] = []
        position = plan.start
        for item in scene.items if plan.start else ():
            position += len(self.encode(f" {item.words}")) - 1  # without the beginning of a sentence
            found.append((position - 1, place_number(item), color_number(item)))
            position += 1  # a comma
        return found

    def _tell(self, prompt: str, scene: Scene, settings: dict[str, Any]) -> tuple[list[int], slice]:
        """The text before a drawing, and where in it the plan stands."""
        random = self.world.random
        planned = random.random() >= settings["plan_dropout"]
        ids = self.encode(f"<|User|>: {prompt}{f'. {scene.plan}' if planned else ''}\n\n<|Assistant|>:<begin_of_image>")
        if random.random() < settings["condition_dropout"]:
            return [ids[0], *([self.tokenizer.pad_token_id] * (len(ids) - 2)), ids[-1]], slice(0, 0)
        if not planned:
            return ids, slice(0, 0)
        return ids, slice(len(self.encode(f"<|User|>: {prompt}.")), len(ids) - len(self.behind) + 1)

    def _blur(self, tokens: np.ndarray, chance: float) -> np.ndarray:
        """Replace fed tokens by random codes: in ``chance`` of the rows all of them or a random share.

        An icon's first cells give its other cells away, so a decoder that always sees them is slow to read the prompt.
        What it cannot see it must read.
        """
        random = self.world.random
        if random.random() >= chance:
            return tokens
        hidden = random.random(len(tokens)) < (1.0 if random.random() < 0.7 else random.random())
        return np.where(hidden, random.integers(self.codes, size=len(tokens)), tokens)

    def _deal(self, rows: list[_Row], blurred: float) -> DrawingBatch:
        text, lengths = self.pad([row.text for row in rows])
        words = torch.full_like(text, IGNORED)
        for line, row in zip(words, rows, strict=True):
            line[row.plan.start - 1 : row.plan.stop - 1] = torch.tensor(row.text[row.plan])
        wanted = [np.flatnonzero(row.weights) for row in rows]
        together = list(zip(rows, wanted, strict=True))
        places = self.pad([(where[1:] - 1).tolist() for where in wanted], 0)[0]
        fed = self.pad([self._blur(row.tokens[where[1:] - 1], blurred).tolist() for row, where in together], 0)[0]
        targets = self.pad([row.tokens[where].tolist() for row, where in together], IGNORED)[0]
        objects = self.pad([row.objects[where].tolist() for row, where in together], 0)[0].bool()
        weights = self.pad([row.weights[where].tolist() for row, where in together], 0)[0].float()
        told = [(place, *word) for place, row in enumerate(rows) for word in row.words]
        facts = torch.tensor(told, dtype=torch.int64).reshape(-1, 4)  # row, position, place, colour
        cells, names, colors = (
            self.pad([of(row)[where].tolist() for row, where in together], IGNORED)[0]
            for of in (lambda row: np.arange(IMAGE_TOKENS), lambda row: row.names, lambda row: row.colors)
        )
        return DrawingBatch(
            text,
            lengths,
            words,
            fed,
            places,
            targets,
            objects,
            weights,
            Facts(facts[:, :2], facts[:, 2], facts[:, 3], cells, names, colors),
        )

    def reasonings(self, settings: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Token ids (B, T) and labels (B, T); labels are the plan and its end, already shifted."""
        while True:
            rows: list[tuple[list[int], int]] = []
            for _ in range(settings["reasoning_batch"]):
                task = self.world.request()
                question = self.ask(task)
                plan = self.encode(f" {self.world.scene(task).plan}")[1:]
                rows.append(([*question, *plan, self.tokenizer.eos_token_id], len(question)))
            yield self.shift(rows)

    def pictures(self, size: int, settings: dict[str, Any]) -> Iterator[tuple[list[Scene], SeenBatch]]:
        """Half of the pictures as rendered, half as the VQ model draws them; the latter are kept for a while.

        Of the drawn ones every so many image tokens are wrong, as a model's own may be.
        """
        random = self.world.random
        drawn: deque[tuple[Scene, torch.Tensor]] = deque(maxlen=settings["decoded_pictures"])
        while True:
            for turn in range(settings["decode_every"]):
                if turn == 0:
                    made = [self.world.scene(self.world.request()) for _ in range(settings["decoded_chunk"])]
                    grids = np.stack([token_grid(scene, self.bank) for scene in made])
                    wrong = random.random(grids.shape) < settings["damaged"]
                    grids = np.where(wrong, random.integers(self.codes, size=grids.shape), grids)
                    drawn.extend(zip(made, self.decode(torch.from_numpy(grids)), strict=True))
                picked = [drawn[i] for i in random.integers(len(drawn), size=size // 2)]
                rendered = [self.world.scene(self.world.request()) for _ in range(size - len(picked))]
                pixels = to_pixels(np.stack([render(scene, self.library) for scene in rendered]))
                shown = [*rendered, *(scene for scene, _ in picked)]
                yield shown, tell_patches(shown, torch.stack([*pixels, *(p for _, p in picked)]))

    def seeings(self, settings: dict[str, Any]) -> Iterator[SeenBatch]:
        """Pictures for the vision tower alone."""
        return (batch for _, batch in self.pictures(settings["seeing_batch"], settings))

    def lookings(self, settings: dict[str, Any]) -> Iterator[LookingBatch]:
        """Pictures that are asked about, or nothing but the words of what they would show."""
        source = self.pictures if settings["looking_at"] == "pictures" else self.wordings
        for shown, seen in source(settings["looking_batch"], settings):
            described = self.world.random.random(len(shown)) < settings["described"]
            yield self._converse(shown, seen, np.where(described, 0, settings["questions"]).tolist())

    def wordings(self, size: int, settings: dict[str, Any]) -> Iterator[tuple[list[Scene], SeenBatch]]:
        """Scenes without their pictures."""
        while True:
            shown = [self.world.scene(self.world.request()) for _ in range(size)]
            yield shown, tell_patches(shown, None)

    def _converse(self, shown: list[Scene], seen: SeenBatch, questions: list[int]) -> LookingBatch:
        """So many questions about each picture first, then the description, which would answer them."""
        end: int = self.tokenizer.eos_token_id  # type: ignore[assignment]
        rows: list[tuple[list[int], list[int], list[int]]] = []
        words: list[tuple[int, int]] = []
        told: list[tuple[list[float], list[float]]] = []
        for scene, many in zip(shown, questions, strict=True):
            ids: list[int] = []
            answers: list[int] = []
            description: list[int] = []
            posed = self.world.questions(scene, many)
            turns = [(q.text, " yes" if q.truth else " no", q.names) for q in posed]
            for number, (question, reply, names) in enumerate([*turns, (DESCRIBE, f" {scene.description}", ())]):
                picture = f"<begin_of_image>{'<image_placeholder>' * IMAGE_TOKENS}<end_of_image>\n" if not ids else ""
                skipped = 1 if ids else 0  # the beginning of a sentence
                asked = self.encode(f"<|User|>: {picture}{question}\n\n<|Assistant|>:")[skipped:]
                end_of_name = 0
                for spelled, name in names:
                    end_of_name = question.index(spelled, end_of_name) + len(spelled)
                    before = self.encode(f"<|User|>: {picture}{question[:end_of_name]}")[skipped:]
                    words.append((len(rows), len(ids) + len(before) - 1))
                    told.append(_shown(scene, name))
                said = [*self.encode(reply)[1:], end]
                ids += [*asked, *said]
                labels = [*([IGNORED] * (len(asked) - 1)), *said, IGNORED]
                nothing = [IGNORED] * len(labels)
                answers += labels if number < len(turns) else nothing
                description += nothing if number < len(turns) else labels
            rows.append((ids, answers, description))
        return LookingBatch(
            seen,
            self.pad([ids for ids, _, _ in rows])[0],
            self.pad([answers for _, answers, _ in rows], IGNORED)[0],
            self.pad([description for _, _, description in rows], IGNORED)[0],
            AskedFacts(
                torch.tensor(words),
                torch.tensor([places for places, _ in told]),
                torch.tensor([colors for _, colors in told]),
            ),
        )

    def ask(self, task: Task) -> list[int]:
        """Token ids that ask for a plan."""
        return self.encode(f"<|User|>: plan: {task.prompt}\n\n<|Assistant|>:")

    def encode(self, text: str) -> list[int]:
        """Token ids with the beginning-of-sentence token."""
        return self.tokenizer(text)["input_ids"]  # type: ignore[return-value]

    def pad(self, rows: list[list[int]], value: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows padded on the right (B, T) and their lengths (B,)."""
        longest = max(map(len, rows))
        value = self.tokenizer.pad_token_id if value is None else value
        padded = torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows])
        return padded, torch.tensor([len(row) for row in rows])

    def shift(self, rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs without the last token; labels without the first, from each row's given start on."""
        ids, _ = self.pad([row[:-1] for row, _ in rows])
        labels, _ = self.pad([[IGNORED] * (start - 1) + row[start:] for row, start in rows], IGNORED)
        return ids, labels


def object_cells(scene: Scene) -> np.ndarray:
    """(9, 9) bool: the cells of objects."""
    cells = np.zeros((GRID, GRID), bool)
    for item in scene.items:
        top, left, bottom, right = item.box
        cells[top:bottom, left:right] = True
    return cells


def _cell_facts(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Names and colours (81,) of what stands in each cell, by the probes' numbers."""
    names, colors = np.full((GRID, GRID), NOTHING), np.zeros((GRID, GRID), np.int64)
    for item in scene.items:
        top, left, bottom, right = item.box
        names[top:bottom, left:right] = name_number(item)
        colors[top:bottom, left:right] = color_number(item)
    return names.ravel(), colors.ravel()


def _shown(scene: Scene, name: str) -> tuple[list[float], list[float]]:
    """Places (9,) and colours (11,) of the objects of one name, as zeros and ones."""
    items = [item for item in scene.items if item.name == name]
    places, colors = {place_number(item) for item in items}, {color_number(item) for item in items}
    return [float(n in places) for n in range(len(PLACES))], [float(n in colors) for n in range(1 + len(COLORS))]


def drawing_loss(
    model: JanusForConditionalGeneration, batch: DrawingBatch, probes: Probes | None = None, words_weight: float = 1.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropy of the image tokens and, weighed, of the plan's words, and half of the probes', in nats.

    Of a thinned batch, the image's is an estimate of the whole one's.
    """
    inner = model.model
    # The aligner turns each code into one embedding, so its table is computed once.
    table = inner.generation_aligner(inner.generation_embeddings.weight)  # (codes, d)
    text = inner.language_model.embed_tokens(batch.text)  # (B, P, d)
    width, many = batch.text.shape[1], batch.fed.shape[1]
    total = width + many
    lengths = batch.lengths[:, None]
    index = torch.arange(total)[None] - lengths  # (B, T): place among the fed image tokens
    inside = index.clamp(0, many - 1)
    image = F.embedding(batch.fed, table)  # (B, M, d)
    image = image.gather(1, inside[..., None].expand(-1, -1, image.shape[-1]))  # (B, T, d)
    embeddings = torch.where(index[..., None] >= 0, image, F.pad(text, (0, 0, 0, many)))
    positions = torch.where(index >= 0, lengths + batch.places.gather(1, inside), torch.arange(total)[None])
    read = inner.language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        # Without a mask transformers takes every jump in the positions for the border of a packed sequence, and hides
        # all that stands before it: the prompt too.
        attention_mask=torch.ones_like(positions),
        use_cache=False,
        output_hidden_states=probes is not None,
    )
    hidden = read.last_hidden_state
    where = lengths - 1 + torch.arange(many + 1)[None]  # (B, M + 1): the position that predicts each target
    chosen = batch.targets != IGNORED
    spoken = batch.words != IGNORED
    words = F.cross_entropy(model.lm_head(hidden[:, :width][spoken]).float(), batch.words[spoken])
    hidden = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))[chosen]
    losses = F.cross_entropy(inner.generation_head(hidden).float(), batch.targets[chosen], reduction="none")
    objects, weights = batch.objects[chosen], batch.weights[chosen]
    loss = (losses * weights).sum() / weights.sum() + words_weight * words
    figures = {
        "object_loss": losses[objects].mean().item(),
        "ground_loss": losses[~objects].mean().item(),
        "words_loss": words.item(),
    }
    if probes is not None:
        probed, known = probes(read.hidden_states, where, batch.facts)
        loss, figures = loss + PROBED * probed, figures | known
    return loss, figures


def reasoning_loss(
    model: JanusForConditionalGeneration, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropy of the plan's tokens, in nats."""
    hidden = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[chosen]).float(), labels[chosen]), {}


def look(model: JanusForConditionalGeneration, batch: SeenBatch) -> torch.Tensor:
    """What the tower makes of pictures, in the language model's space (B, 81, d)."""
    inner = model.model
    assert batch.pixels is not None, "a batch of words alone"
    return inner.aligner(inner.vision_model(batch.pixels.to(inner.dtype)).last_hidden_state)


def looking_loss(
    model: JanusForConditionalGeneration,
    batch: LookingBatch,
    lexicon: Lexicon,
    random: np.random.Generator,
    probes: Probes | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropies of answers and description, the tower's own loss and the probes', in nats; their sum.

    The answers' counts several times. Where a batch has no pictures, words stand for what the tower would see.
    """
    inner = model.model
    words = lexicon.vectors(inner.language_model.embed_tokens.weight)
    seen = spell(batch.seen, words, random) if batch.seen.pixels is None else look(model, batch.seen)
    text = inner.language_model.embed_tokens(batch.ids)
    holes = (batch.ids == model.config.image_token_id)[..., None]
    embeddings = text.masked_scatter(holes, seen.to(text.dtype))
    read = inner.language_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=probes is not None)
    hidden = read.last_hidden_state
    spoken = [labels != IGNORED for labels in (batch.answers, batch.description)]
    answered, described = (model.lm_head(hidden[chosen]).float() for chosen in spoken)
    answers, description = batch.answers[spoken[0]], batch.description[spoken[1]]
    verdicts = answers != model.config.text_config.eos_token_id
    losses = {
        "answers_loss": ANSWERED * F.cross_entropy(answered, answers),
        "description_loss": F.cross_entropy(described, description),
    }
    apart, figures = torch.zeros(()), dict[str, float]()
    if batch.seen.pixels is not None:
        apart, figures = seeing_loss(seen, batch.seen, words, random)
    if probes is not None:
        probed, known = probes.look(read.hidden_states, batch.asked)
        apart, figures = apart + probed, figures | known
    return sum(losses.values(), apart), {
        **{name: loss.item() for name, loss in losses.items()},
        **figures,
        "looking_right": (answered.argmax(-1) == answers)[verdicts].float().mean().item(),
    }


class Masters(nn.Module):
    """Float32 masters of bf16 parameters, and their moving average (the weights that are shipped)."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.live = parameters
        self.masters = nn.ParameterList([p.detach().float().clone() for p in parameters.values()])
        self.averages = nn.ParameterList([p.detach().float().clone() for p in parameters.values()])
        self.averages.requires_grad_(False)

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names of the live parameters with their masters."""
        yield from zip(self.live, self.masters, strict=True)

    def take_gradients(self) -> None:
        """Move the live gradients to the masters."""
        for live, master in zip(self.live.values(), self.masters, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None

    @torch.no_grad()
    def give_back(self, decay: float) -> None:
        """Copy the masters into the live weights and update the moving average."""
        for live, master, average in zip(self.live.values(), self.masters, self.averages, strict=True):
            live.copy_(master)
            average.lerp_(master, 1 - decay)

    @torch.no_grad()
    def write_averages(self) -> None:
        """Put the moving average into the live weights."""
        for live, average in zip(self.live.values(), self.averages, strict=True):
            live.copy_(average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average in the live weights, for a while."""
        self.write_averages()
        try:
            yield
        finally:
            self.give_back(1.0)


class Optimiser:
    """Muon for the hidden matrices of the language model, AdamW for all else and for the probes, one schedule."""

    def __init__(self, masters: Masters, probes: Probes, settings: dict[str, Any]) -> None:
        hidden: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in masters.named():
            (hidden if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
        rate = settings["learning_rate"]
        self.probes = torch.optim.AdamW(probes.parameters(), lr=rate, weight_decay=0.0)
        self.muon = torch.optim.Muon(hidden, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
        self.rate = rate

    def step(self, factor: float) -> None:
        """One step at ``factor`` times the learning rate."""
        for optimiser in (self.muon, self.adamw, self.probes):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * factor
            optimiser.step()
        self.probes.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All three states."""
        return {name: getattr(self, name).state_dict() for name in ("muon", "adamw", "probes")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All three states."""
        for name, own in state.items():
            getattr(self, name).load_state_dict(own)


def schedule(step: int, settings: dict[str, Any]) -> float:
    """Warm-up, a plateau, and a linear decay: the plateau can be prolonged at any time."""
    left = settings["decayed_at"] - step
    return min(1.0, (step + 1) / settings["warmup_steps"], max(settings["lowest_rate"], left / settings["decay_steps"]))


def phases(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The common settings with each phase's own over them, in order.

    A phase lasts until its step, or until its examiner is satisfied.
    """
    for phase in settings["phases"]:
        yield settings | phase


def to_bfloat16(model: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """Parameters alone: the frequencies of rotary positions stay float32, as they are wherever the model is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def trainable(model: JanusForConditionalGeneration) -> dict[str, nn.Parameter]:
    """All but the VQ model, which stays as its own stage left it."""
    return {n: p for n, p in model.named_parameters() if not n.startswith("model.vqmodel.")}


def train(
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    make_feeder: Callable[[dict[str, Any], int], Feeder],
    codes: torch.Tensor,
    folder: Path,
) -> None:
    """Train through all phases, from the last checkpoint.

    Args:
        settings: Of all stages.
        tokenizer: Of the model.
        make_feeder: World settings and a seed -> what feeds a phase.
        codes: (codes, embed_dim) the VQ model's codebook.
        folder: Holds the checkpoint.
    """
    own: dict[str, Any] = settings["unified"]
    torch.manual_seed(own["seed"])
    model = JanusForConditionalGeneration(build_config(settings, tokenizer))
    with torch.no_grad():  # a code's embedding begins as the code itself; what begins alike is also predicted alike
        model.model.generation_embeddings.weight.copy_(codes)
        head = model.model.generation_head.vision_head.weight  # (codes, d)
        head.copy_(HEAD_DEVIATION * codes @ torch.randn(codes.shape[1], head.shape[1]))
    start_from_shipped(model, Path(settings["export"]["folder"]))  # a checkpoint, where there is one, goes before
    factor(model)
    model.set_attn_implementation("eager")  # the fused kernel's backward takes a third of a step on a CPU
    model = to_bfloat16(model).train()
    masters, probes = Masters(trainable(model)), Probes(settings["model"]["width"])
    optimiser = Optimiser(masters, probes, own)
    checkpoint = Checkpoint(folder / "unified.pt")
    step = checkpoint.load(masters=masters, probes=probes, optimiser=optimiser)
    masters.give_back(1.0)
    for phase in phases(own):
        if step < phase["until"]:
            feeder = make_feeder(phase["world"], own["seed"] + step)
            thinker = make_feeder(phase["reasoning_world"], own["seed"] + step)
            watcher = make_feeder(phase["looking_world"], own["seed"] + step)
            feeders = Feeders(feeder, thinker, watcher, lambda step: make_feeder(own["world"], EXAMINED_FROM + step))
            step = _train_phase(step, model, masters, probes, optimiser, feeders, phase, checkpoint)


@dataclass(frozen=True)
class Feeders:
    """What each kind of sequence is made from: their worlds differ."""

    drawing: Feeder
    reasoning: Feeder
    looking: Feeder
    examining: Callable[[int], Feeder]
    """Of a step: fresh requests for its plans."""


@dataclass(frozen=True)
class Lesson:
    """One kind of batch, and what is learned from it: a loss and figures."""

    name: str
    batches: Iterator[Any]
    learn: Callable[[Any], tuple[torch.Tensor, dict[str, float]]]


class Examiner:
    """Ends a phase as soon as the model plans as well as is wanted.

    How well a model plans after so many prompts is a matter of chance (docs/experiments.md). So it is measured as
    training goes on, on fresh requests, of the weights that would ship.
    """

    def __init__(
        self, model: JanusForConditionalGeneration, masters: Masters, feeders: Feeders, own: dict[str, Any]
    ) -> None:
        self.model, self.masters, self.feeders, self.own = model, masters, feeders, own
        self.right: dict[str, float] = {}
        """By kind, what the last examination found."""

    def is_satisfied(self, step: int) -> bool:
        """Examine, if it is this step's turn, and say whether the mean of the kinds is as high as is wanted."""
        every = self.own["examined_every"]
        if not every or step % every:
            return False
        with self.masters.averaged():
            self.right = self.examine(step)
        return sum(self.right.values()) / len(self.right) >= self.own["plans_wanted"]

    def examine(self, step: int) -> dict[str, float]:
        """By kind, the share of requests whose greedy plan does what they ask; the requests hang on the step alone."""
        feeder = self.feeders.examining(step)
        asked = request_each_kind(feeder.world, self.own["examined"])
        questions = [feeder.ask(task) for tasks in asked.values() for task in tasks]
        plans = iter(write_plans(self.model, feeder.tokenizer, questions))
        return {kind: sum(fulfils(next(plans), task) for task in tasks) / len(tasks) for kind, tasks in asked.items()}


def _train_phase(
    step: int,
    model: JanusForConditionalGeneration,
    masters: Masters,
    probes: Probes,
    optimiser: Optimiser,
    feeders: Feeders,
    own: dict[str, Any],
    checkpoint: Checkpoint,
) -> int:
    lexicon, random = Lexicon(feeders.drawing.encode), feeders.looking.world.random
    table = model.model.language_model.embed_tokens.weight
    examiner = Examiner(model, masters, feeders, own)
    lessons = (
        Lesson(
            "drawing",
            feeders.drawing.drawings(own),
            lambda batch: drawing_loss(model, batch, probes, own["words_weight"]),
        ),
        Lesson("reasoning", feeders.reasoning.reasonings(own), lambda batch: reasoning_loss(model, *batch)),
        Lesson(
            "looking", feeders.looking.lookings(own), lambda batch: looking_loss(model, batch, lexicon, random, probes)
        ),
        Lesson(
            "seeing",
            feeders.looking.seeings(own),
            lambda batch: seeing_loss(look(model, batch), batch, lexicon.vectors(table), random),
        ),
    )
    started, sums = time.time(), dict[str, list[float]]()
    while step < own["until"] and not examiner.is_satisfied(step):
        for lesson in lessons:
            every = own[f"{lesson.name}_every"]
            if every and step % every == 0:
                loss, figures = lesson.learn(next(lesson.batches))
                (own[f"{lesson.name}_weight"] * loss).backward()
                for name, value in {f"{lesson.name}_loss": loss.item(), **figures}.items():
                    sums.setdefault(name, []).append(value)
        masters.take_gradients()
        nn.utils.clip_grad_norm_(masters.masters.parameters(), 1.0)
        optimiser.step(schedule(step, own))
        masters.give_back(min(own["average"], (step + 1) / (step + 10)))
        step += 1
        if step % 25 == 0:
            seconds = (time.time() - started) / 25
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            right = {f"plans_{kind}": share for kind, share in examiner.right.items()}
            log("unified", step=step, **means, **right, seconds=seconds)
            started, sums = time.time(), {}
        if step % SAVED_EVERY == 0 and step < own["until"]:
            checkpoint.save(step, masters=masters, probes=probes, optimiser=optimiser)
    checkpoint.save(step, masters=masters, probes=probes, optimiser=optimiser)
    return step


def load(settings: Settings, tokenizer: PreTrainedTokenizerBase, folder: Path) -> JanusForConditionalGeneration:
    """The moving average of the last checkpoint, or the shipped weights, in bf16; its VQ part is not filled."""
    model = JanusForConditionalGeneration(build_config(settings, tokenizer))
    start_from_shipped(model, Path(settings["export"]["folder"]))
    factor(model)
    masters = Masters(trainable(to_bfloat16(model)))
    Checkpoint(folder / "unified.pt").load(masters=masters)
    masters.write_averages()
    multiply_out(model)
    return model.eval()
