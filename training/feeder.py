"""Endless batches for the unified model's training, made from a world.

Four kinds of sequences, all in Janus-Pro's chat form:

* reasoning: ``<|User|>: plan: {prompt}`` answered by a text;
* drawing: ``<|User|>: {prompt}. {text}`` followed by 100 image tokens. In half of them the prompt asks for one of the
  objects alone, so that the text must be read; the text is left out now and then, and all words are for guidance (pad
  tokens between the first and the last, as in transformers' image mode);
* checking: does a text meet a prompt, yes or no;
* looking: an image, then questions answered by yes or no, then a description. Until the vision tower has learned, the
  words for each patch stand for the image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from milr.tasks import COLORS
from milr.types import Task
from training.batches import AnswerBatch, DrawingBatch, LookingBatch, Row, pad
from training.grounds import GRID
from training.model import IMAGE_TOKENS
from training.probes import (
    IGNORED,
    NOTHING,
    AskedFacts,
    DemandFacts,
    Facts,
    color_number,
    covered,
    name_number,
    shown_colors,
)
from training.questions import Question, ask_questions
from training.scenes import (
    PLACES,
    Bank,
    Library,
    Mentions,
    Scene,
    describe,
    name_item,
    object_cells,
    render,
    token_grid,
    write_text,
)
from training.seeing import SeenBatch, tell_patches
from training.text_checks import read_demands, sample_check, text_question
from training.vq import to_pixels
from training.world import World

DESCRIBE = "what is there?"
"""The question that is answered by a description."""
AFTER_TEXT = "\n\n<|Assistant|>:<begin_of_image>"

Decode = Callable[[torch.Tensor], torch.Tensor]
"""Decodes image tokens (B, 10, 10) to pixels (B, 3, 160, 160) in [-1, 1]."""


class Feeder:
    """Makes batches from a world."""

    def __init__(
        self, world: World, tokenizer: PreTrainedTokenizerBase, bank: Bank, library: Library, decode: Decode
    ) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.bank, self.library, self.decode = bank, library, decode
        self.codes = max(int(tokens.max()) for tokens in bank.values()) + 1
        self.end: int = tokenizer.eos_token_id  # type: ignore[assignment]
        self.padding: int = tokenizer.pad_token_id  # type: ignore[assignment]

    def encode(self, text: str) -> list[int]:
        """Return token ids with the beginning-of-sentence token."""
        return self.tokenizer(text)["input_ids"]  # type: ignore[return-value]

    def ask(self, task: Task) -> list[int]:
        """Return the token ids that ask for a text."""
        return self.encode(f"<|User|>: plan: {task.prompt}\n\n<|Assistant|>:")

    # Drawing

    def drawings(self, settings: dict[str, Any]) -> Iterator[DrawingBatch]:
        """Yield batches of rows of similar length: four batches of one kind are sorted, then cut."""
        kinds: list[dict[str, Any]] = settings["drawings"]
        random = self.world.random
        while True:
            kind = kinds[random.choice(len(kinds), p=[one["share"] for one in kinds])]
            size = kind["batch"]
            rows = [self._row(settings, kind) for _ in range(4 * size)]
            rows.sort(key=lambda row: len(row.text) + np.count_nonzero(row.kept))
            for index in random.permutation(4):
                yield self._collate(rows[index * size : (index + 1) * size], kind["blurred"])

    def _row(self, settings: dict[str, Any], kind: dict[str, Any]) -> Row:
        random = self.world.random
        task = self.world.request()
        scene = self.world.scene(task)
        told = random.random() >= settings["text_dropout"]
        asked = self.world.reduce(task) if told and random.random() < settings["reduced"] else task
        text, words = self._write(asked.prompt, scene, self.world.mention(scene) if told else None)
        if random.random() < settings["condition_dropout"]:
            text, words, told = [text[0], *([self.padding] * (len(text) - 2)), text[-1]], [], False
        objects = object_cells(scene).ravel()
        kept: np.ndarray = random.random(IMAGE_TOKENS) < np.where(objects, kind["objects_kept"], kind["ground_kept"])
        kept[0] = True
        # Nothing is known of a cell without a text.
        facts = _cell_facts(scene) if told else np.full((2, IMAGE_TOKENS), IGNORED)
        return Row(text, token_grid(scene, self.bank).ravel(), objects, kept, words, *facts)

    def _write(
        self, prompt: str, scene: Scene, mentions: Mentions | None
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Return the token ids before an image, and position, place and colour of each object's last word."""
        if mentions is None:
            return self.encode(f"<|User|>: {prompt}{AFTER_TEXT}"), []
        ids = self.encode(f"<|User|>: {prompt}. {write_text(scene, mentions)}{AFTER_TEXT}")
        words: list[tuple[int, int, int]] = []
        position = len(self.encode(f"<|User|>: {prompt}."))
        for item, placed, sized in zip(scene.items, mentions.placed, mentions.sized, strict=True):
            position += len(self.encode(f" {name_item(item, placed, sized)}")) - 1  # without the beginning of sentence
            words.append((position - 1, PLACES.index(item.place) if placed else IGNORED, color_number(item.color)))
            position += 1  # a comma
        return ids, words

    def _blur(self, tokens: np.ndarray, chance: float) -> np.ndarray:
        """Replace fed tokens by random codes: in ``chance`` of the rows all of them or a random share.

        An icon's first cells tell its other cells, so a decoder that always sees them is slow to read the text.
        """
        random = self.world.random
        if random.random() >= chance:
            return tokens
        hidden = random.random(len(tokens)) < (1.0 if random.random() < 0.7 else random.random())
        return np.where(hidden, random.integers(self.codes, size=len(tokens)), tokens)

    def _collate(self, rows: list[Row], blurred: float) -> DrawingBatch:
        kept = [np.flatnonzero(row.kept) for row in rows]
        together = list(zip(rows, kept, strict=True))

        def column(read: Callable[[Row], np.ndarray]) -> torch.Tensor:
            return pad([read(row)[where].tolist() for row, where in together], IGNORED)

        facts = [(number, *word) for number, row in enumerate(rows) for word in row.words]
        words = torch.tensor(facts, dtype=torch.int64).reshape(-1, 4)  # row, position, place, colour
        places = np.arange(IMAGE_TOKENS)
        return DrawingBatch(
            text=pad([row.text for row in rows], self.padding),
            lengths=torch.tensor([len(row.text) for row in rows]),
            fed=pad([self._blur(row.tokens[where[1:] - 1], blurred).tolist() for row, where in together], 0),
            places=pad([(where[1:] - 1).tolist() for where in kept], 0),
            targets=column(lambda row: row.tokens),
            objects=pad([row.objects[where].tolist() for row, where in together], 0).bool(),
            facts=Facts(
                words[:, :2],
                words[:, 2],
                words[:, 3],
                column(lambda row: places),
                column(lambda row: row.names),
                column(lambda row: row.colors),
            ),
        )

    # Reasoning and checking

    def reasonings(self, settings: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield token ids (B, T) and labels (B, T): the text and its end, under the token before."""
        while True:
            rows: list[tuple[list[int], int]] = []
            for _ in range(settings["reasoning_batch"]):
                task = self.world.request()
                scene = self.world.scene(task)
                question = self.ask(task)
                text = self.encode(f" {write_text(scene, self.world.mention(scene))}")[1:]
                rows.append(([*question, *text, self.end], len(question)))
            labels = [[IGNORED] * (start - 1) + ids[start:] for ids, start in rows]
            yield pad([ids[:-1] for ids, _ in rows], self.padding), pad(labels, IGNORED)

    def checks(self, settings: dict[str, Any]) -> Iterator[AnswerBatch]:
        """Yield questions whether a text meets a prompt."""
        yes, no = (self.encode(f" {word}")[1] for word in ("yes", "no"))
        while True:
            rows: list[list[int]] = []
            answers: list[int] = []
            words: list[tuple[int, int, int]] = []
            demands: list[tuple[int, int, int]] = []
            missing: list[int] = []
            for row in range(settings["checking_batch"]):
                prompt, text, truth = sample_check(self.world)
                rows.append(self.encode(f"<|User|>: {text_question(prompt, text)}\n\n<|Assistant|>:"))
                answers.append(yes if truth else no)
                asked, parts = read_demands(prompt, text), text.split(", ")
                missing.append(asked.missing if asked else IGNORED)
                for number, demand in enumerate(asked.objects if asked else (), 1):
                    read = self.encode(f"<|User|>: {text_question(prompt, ', '.join(parts[:number]))}")
                    words.append((row, len(read) - 1, yes if demand.fits else no))
                    known = (color_number(demand.color), demand.side) if demand.count else (IGNORED, IGNORED)
                    demands.append((demand.count, *known))
            facts = torch.tensor(words, dtype=torch.int64).reshape(-1, 3)
            demanded = torch.tensor(demands, dtype=torch.int64).reshape(-1, 3)
            places = torch.tensor([len(row) - 1 for row in rows])
            known_facts = DemandFacts(*demanded.unbind(-1), torch.tensor(missing))
            yield AnswerBatch(
                pad(rows, self.padding), places, torch.tensor(answers), facts[:, :2], facts[:, 2], known_facts
            )

    # Looking

    def images(self, size: int, settings: dict[str, Any]) -> Iterator[tuple[list[Scene], SeenBatch]]:
        """Yield scenes and their images, half of them rendered, half decoded by the VQ model and kept for a while.

        A share of the decoded images' tokens is wrong, as a model's own may be.
        """
        random = self.world.random
        decoded: deque[tuple[Scene, torch.Tensor]] = deque(maxlen=settings["decoded_images"])
        while True:
            for turn in range(settings["decode_every"]):
                if turn == 0:
                    made = [self.world.scene(self.world.request()) for _ in range(settings["decoded_chunk"])]
                    grids = np.stack([token_grid(scene, self.bank) for scene in made])
                    wrong = random.random(grids.shape) < settings["damaged"]
                    grids = np.where(wrong, random.integers(self.codes, size=grids.shape), grids)
                    decoded.extend(zip(made, self.decode(torch.from_numpy(grids)), strict=True))
                picked = [decoded[i] for i in random.integers(len(decoded), size=size // 2)]
                rendered = [self.world.scene(self.world.request()) for _ in range(size - len(picked))]
                pixels = to_pixels(np.stack([render(scene, self.library) for scene in rendered]))
                shown = [*rendered, *(scene for scene, _ in picked)]
                yield shown, tell_patches(shown, torch.stack([*pixels, *(image for _, image in picked)]))

    def wordings(self, size: int, settings: dict[str, Any]) -> Iterator[tuple[list[Scene], SeenBatch]]:
        """Yield scenes without their images."""
        while True:
            shown = [self.world.scene(self.world.request()) for _ in range(size)]
            yield shown, tell_patches(shown, None)

    def seeings(self, settings: dict[str, Any]) -> Iterator[SeenBatch]:
        """Yield images for the vision tower alone."""
        return (batch for _, batch in self.images(settings["seeing_batch"], settings))

    def lookings(self, settings: dict[str, Any]) -> Iterator[LookingBatch]:
        """Yield images, or the words for their patches, with conversations about them."""
        source = self.images if settings["looking_at"] == "images" else self.wordings
        random = self.world.random
        for shown, seen in source(settings["looking_batch"], settings):
            described = random.random(len(shown)) < settings["described"]
            asked = [
                [] if only else ask_questions(random, scene, settings["questions"], settings["relations"])
                for scene, only in zip(shown, described, strict=True)
            ]
            yield self.converse(shown, seen, asked)

    def converse(self, shown: list[Scene], seen: SeenBatch, asked: list[list[Question]]) -> LookingBatch:
        """Return conversations: the questions about each image first, then the description, which would answer them."""
        rows: list[tuple[list[int], list[int], list[int]]] = []
        facts = _AskedFacts()
        for number, (scene, questions) in enumerate(zip(shown, asked, strict=True)):
            ids: list[int] = []
            answers: list[int] = []
            description: list[int] = []
            turns = [(q.text, " yes" if q.truth else " no") for q in questions]
            for turn, (question, reply) in enumerate([*turns, (DESCRIBE, f" {describe(scene)}")]):
                image = f"<begin_of_image>{'<image_placeholder>' * IMAGE_TOKENS}<end_of_image>\n" if not ids else ""
                skipped = 1 if ids else 0  # the beginning of a sentence
                before = f"<|User|>: {image}"
                words = self.encode(f"{before}{question}\n\n<|Assistant|>:")[skipped:]
                if turn < len(turns):
                    names = questions[turn].names
                    facts.answer(scene, [name for _, name in names], (number, len(ids) + len(words) - 1))
                    end = len(question)
                    for spelled, name in reversed(names):  # from the end: an orange may be orange
                        end = question.rindex(spelled, 0, end)
                        read = self.encode(f"{before}{question[:end]}{spelled}")[skipped:]
                        facts.name(scene, name, (number, len(ids) + len(read) - 1))
                said = [*self.encode(reply)[1:], self.end]
                ids += [*words, *said]
                labels = [*([IGNORED] * (len(words) - 1)), *said, IGNORED]
                nothing = [IGNORED] * len(labels)
                answers += labels if turn < len(turns) else nothing
                description += nothing if turn < len(turns) else labels
            rows.append((ids, answers, description))
        return LookingBatch(
            seen,
            pad([ids for ids, _, _ in rows], self.padding),
            pad([answers for _, answers, _ in rows], IGNORED),
            pad([description for _, _, description in rows], IGNORED),
            facts.stack(),
        )


class _AskedFacts:
    """Collects the truths about a batch's questions."""

    def __init__(self) -> None:
        self.names: list[tuple[tuple[int, int], list[float], list[float], int]] = []
        self.answers: list[tuple[tuple[int, int], list[float], list[float], int]] = []

    def name(self, scene: Scene, name: str, place: tuple[int, int]) -> None:
        """Note a name in a question, by the place (row, position) of its last token."""
        self.names.append((place, covered(scene, name), shown_colors(scene, name), _count(scene, name)))

    def answer(self, scene: Scene, names: list[str], place: tuple[int, int]) -> None:
        """Note a question about one or two names, by the place (row, position) that predicts its answer."""
        cells = [covered(scene, name) for name in names]
        second = cells[1] if len(cells) > 1 else [0.0] * (2 * GRID)
        self.answers.append((place, cells[0], second, _count(scene, names[0])))

    def stack(self) -> AskedFacts:
        """Return the truths as tensors."""
        return AskedFacts(
            torch.tensor([one[0] for one in self.names], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([one[1] for one in self.names]).reshape(-1, 2 * GRID),
            torch.tensor([one[2] for one in self.names]).reshape(-1, 1 + len(COLORS)),
            torch.tensor([one[3] for one in self.names], dtype=torch.int64),
            torch.tensor([one[0] for one in self.answers], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([one[1] for one in self.answers]).reshape(-1, 2 * GRID),
            torch.tensor([one[2] for one in self.answers]).reshape(-1, 2 * GRID),
            torch.tensor([one[3] for one in self.answers], dtype=torch.int64),
        )


def _count(scene: Scene, name: str) -> int:
    return sum(item.name == name for item in scene.items)


def _cell_facts(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return names and colours (100,) of the objects in each cell, by the probes' numbers."""
    names, colors = np.full((GRID, GRID), NOTHING), np.zeros((GRID, GRID), np.int64)
    for item in scene.items:
        top, left, bottom, right = item.box
        names[top:bottom, left:right] = name_number(item)
        colors[top:bottom, left:right] = color_number(item.color)
    return names.ravel(), colors.ravel()
