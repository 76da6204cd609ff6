"""Tests of the fakes for authors of plug-ins."""

from __future__ import annotations

import torch

from milr.decode.sampling import open_stream
from milr.models.base import ImageRequest, TaskState, TextRequest
from milr.settings import SamplingParams
from milr.testing import FakeModel, FakeReward, read_tokens
from milr.types import ImageSample, Reasoning, Score, Task, Unscored

PROMPTS = ("a red cat", "two dogs", "a big tree", "one")


def draw(model: FakeModel, prompt: str, words: str | None) -> ImageSample:
    """Draw an image, always with the same random stream."""
    reasoning = None if words is None else Reasoning(words, ())
    request = ImageRequest(TaskState(Task(prompt=prompt)), reasoning, open_stream(0, "any", 0, 0))
    return model.draw([request], SamplingParams(guidance=2.0))[0].sample


def texts(model: FakeModel, *prompts: str, prefix: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt's reasoning, prefix included."""
    states = model.start([Task(prompt=prompt) for prompt in prompts])
    return [one.tokens for one in model.reason([TextRequest(state, prefix) for state in states])]


def test_an_image_shows_its_tokens() -> None:
    seen: set[int] = set()
    for prompt in PROMPTS:
        found = draw(FakeModel(), prompt, None)
        assert found.image.size == (FakeModel.capabilities.image_size,) * 2
        assert read_tokens(found.image) == found.tokens
        seen |= set(found.tokens)
    assert min(seen) == 0 and max(seen) == 15


def test_a_text_depends_on_its_prompt_and_on_every_token_of_its_prefix() -> None:
    model = FakeModel()
    assert len(set(texts(model, *PROMPTS))) == 4
    rests = {texts(model, PROMPTS[0], prefix=(token, 2))[0][2:] for token in range(1, 12)}
    assert len(rests) >= 8


def test_an_image_depends_on_prompt_and_reasoning() -> None:
    model = FakeModel()
    drawn = {draw(model, prompt, words).tokens for prompt in PROMPTS for words in (None, "red", "dog", "dog red")}
    assert len(drawn) == 16


def test_models_with_different_seeds_draw_different_images() -> None:
    assert draw(FakeModel(1), PROMPTS[0], None) != draw(FakeModel(2), PROMPTS[0], None)
    assert draw(FakeModel(1), PROMPTS[0], None) == draw(FakeModel(1), PROMPTS[0], None)


def test_a_fake_model_records_its_requests() -> None:
    model = FakeModel()
    texts(model, *PROMPTS)
    draw(model, PROMPTS[0], None)
    assert [task.prompt for task in model.reasoned] == list(PROMPTS)
    assert [request.state.task.prompt for request in model.drawn] == [PROMPTS[0]]


def test_a_fake_models_text_stays_within_its_limit() -> None:
    model = FakeModel(max_reasoning_tokens=3)
    assert max(map(len, texts(model, *PROMPTS))) == 3


def test_a_fake_models_defaults_come_before_the_built_in_ones() -> None:
    settings = FakeModel().settings("milr", guidance=3.0)
    assert (settings.get("learning_rate"), settings.sampling.guidance, settings.get("steps")) == (0.2, 3.0, 20)
    assert FakeModel().settings("one-shot").sampling.guidance == 2.0


def test_a_fake_reward_can_be_down() -> None:
    image = draw(FakeModel(), PROMPTS[0], None).image
    reward = FakeReward(unscored_calls={1})
    kinds = [type(reward([image], [Task(prompt="a")])[0]) for _ in range(3)]
    assert kinds == [Score, Unscored, Score]
    assert reward.calls == 3


def test_a_fake_models_heads_are_differentiable() -> None:
    latents = torch.zeros(2, 2, 8, requires_grad=True)
    FakeModel().image_logits(latents, 2.0)[0, 3].backward()
    assert latents.grad is not None and latents.grad[0].any() and not latents.grad[1].any()
