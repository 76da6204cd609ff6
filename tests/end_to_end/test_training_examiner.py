"""Examinations end a phase when greedy texts are as good as wanted."""

from __future__ import annotations

import pytest
import torch
from transformers import JanusForConditionalGeneration

from milr.tasks import parse_prompt
from tests.support.icon_world import make_feeder, make_model, make_tokenizer, make_world
from training import examiner
from training.examiner import KINDS, LONGEST, Examiner, kind_of, request_each_kind, write_texts
from training.model import trainable
from training.optimiser import Masters

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]  # they train a network

Exams = list[tuple[list[tuple[int, ...]], bool]]


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a photo of a red cat", None),
        ("three blue cats", "count"),
        ("a cat and two dogs", "count"),
        ("a cat and a red dog", "two"),
        ("a blue cat and a red dog", "colors"),
        ("a blue cat above a red dog", "relation"),
        ("a cat, a dog and a bed", "three"),
    ],
)
def test_the_kind_of_a_request_is_recognised(prompt: str, kind: str | None) -> None:
    assert kind_of(parse_prompt(prompt)) == kind


def test_each_kind_gets_as_many_requests() -> None:
    asked = request_each_kind(make_world(3), 7)
    assert tuple(asked) == KINDS
    for kind, tasks in asked.items():
        assert list(map(kind_of, tasks)) == [kind] * 7


@pytest.mark.slow
@torch.no_grad()
def test_texts_of_a_batch_equal_texts_without_cache() -> None:
    model, feeder = make_model(), make_feeder()
    questions = [feeder.ask(parse_prompt(prompt)) for prompt in ("a dog", "three red cats", "a bed above a blue vase")]
    assert len(set(map(len, questions))) == 3
    expected: list[str] = []
    for ids in questions:
        written: list[int] = []
        while len(written) < LONGEST and feeder.end not in written:
            hidden = model.model.language_model(input_ids=torch.tensor([ids + written])).last_hidden_state
            written.append(int(model.lm_head(hidden[0, -1]).argmax()))
        expected.append(str(feeder.tokenizer.decode(written, skip_special_tokens=True)))
    # A row may be written longer than another by the difference of their questions.
    for text, own in zip(write_texts(model, make_tokenizer(), questions), expected, strict=True):
        assert text.startswith(own)
    assert len(set(expected)) == 3 and all(expected)


@pytest.fixture
def examined() -> Examiner:
    """Return an examiner that wants half of the texts right; the average of its model's weights is 0.25."""
    model = make_model()
    masters = Masters(trainable(model))
    with torch.no_grad():
        for average in masters.averages:
            average.fill_(0.25)
    return Examiner(model, masters, make_feeder, {"examined": 4, "examined_every": 10, "texts_wanted": 0.5})


@pytest.fixture
def exams(monkeypatch: pytest.MonkeyPatch) -> Exams:
    """Return the questions of each examination, and if the averaged model answered; six more are right each time."""
    held: Exams = []

    def write(model: JanusForConditionalGeneration, _: object, questions: list[list[int]]) -> list[str]:
        held.append((list(map(tuple, questions)), bool((model.lm_head.weight == 0.25).all())))
        return ["right" if number < 6 * len(held) else "wrong" for number in range(len(questions))]

    monkeypatch.setattr(examiner, "write_texts", write)
    monkeypatch.setattr(examiner, "names_what_is_asked", lambda text, task: text == "right")
    return held


def test_a_phase_ends_when_the_averaged_weights_write_well_enough(examined: Examiner, exams: Exams) -> None:
    before = examined.model.lm_head.weight.clone()
    assert [step for step in range(21) if examined.is_satisfied(step)] == [10, 20]  # 6, 12 and 18 of 20 texts
    assert examined.right == {"count": 1.0, "two": 1.0, "colors": 1.0, "relation": 1.0, "three": 0.5}
    assert len(exams) == 3 and all(averaged for _, averaged in exams)
    assert torch.equal(examined.model.lm_head.weight, before), "training goes on with the weights that it had"


def test_examinations_depend_on_the_step_only(examined: Examiner, exams: Exams) -> None:
    for step in (10, 20, 10):
        examined.examine(step)
    (first, _), (other, _), (again, _) = exams
    assert again == first != other and len(set(first)) == len(first) == 20


def test_phases_without_an_examiner_last_until_their_step(examined: Examiner, exams: Exams) -> None:
    examined.own |= {"examined_every": 0, "texts_wanted": 0.0}
    assert not any(examined.is_satisfied(step) for step in range(40)) and not exams
