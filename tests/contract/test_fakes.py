"""The fakes that plug-in authors test with."""

from __future__ import annotations

import torch

from milr.decode.sampling import open_stream
from milr.models.base import ImageRequest, TaskState
from milr.testing import FakeModel, FakeReward, read_tokens
from milr.types import ImageSample, Reasoning, Score, Task, Unscored

PROMPTS = ("a red cat", "two dogs", "a big tree", "one")


def draw(model: FakeModel, prompt: str, words: str | None) -> ImageSample:
    """A drawing whose stream is always the same."""
    reasoning = None if words is None else Reasoning(words, ())
    request = ImageRequest(TaskState(Task(prompt=prompt)), reasoning, open_stream(0, "any", 0, 0))
    return model.draw([request], guidance=2.0, temperature=1.0, keep=0)[0].drawing


def test_a_picture_tells_its_tokens() -> None:
    seen: set[int] = set()
    for prompt in PROMPTS:
        drawing = draw(FakeModel(), prompt, None)
        assert drawing.picture.size == (FakeModel.capabilities.picture_size,) * 2
        assert read_tokens(drawing.picture) == drawing.tokens
        seen |= set(drawing.tokens)
    assert min(seen) == 0 and max(seen) == 15


def test_a_text_depends_on_its_prompt_and_on_every_token_of_its_prefix() -> None:
    model = FakeModel()
    first = model.reason(model.start([Task(prompt=prompt) for prompt in PROMPTS]), [()] * 4)
    assert len({thought.written for thought in first}) == 4
    task = Task(prompt=PROMPTS[0])
    rests = {model.reason(model.start([task]), [(token, 2)])[0].written[2:] for token in range(1, 12)}
    assert len(rests) >= 8


def test_a_drawing_depends_on_prompt_and_reasoning() -> None:
    model = FakeModel()
    drawn = {draw(model, prompt, words).tokens for prompt in PROMPTS for words in (None, "red", "dog", "dog red")}
    assert len(drawn) == 16


def test_models_of_other_seeds_are_other_models() -> None:
    assert draw(FakeModel(1), PROMPTS[0], None) != draw(FakeModel(2), PROMPTS[0], None)
    assert draw(FakeModel(1), PROMPTS[0], None) == draw(FakeModel(1), PROMPTS[0], None)


def test_a_fake_model_tells_what_it_was_asked() -> None:
    model = FakeModel()
    tasks = [Task(prompt=prompt) for prompt in PROMPTS]
    model.reason(model.start(tasks), [()] * 4)
    draw(model, PROMPTS[0], None)
    assert model.reasoned == tasks
    assert [request.row.task for request in model.drawn] == tasks[:1]


def test_a_fake_models_limit_is_kept() -> None:
    model = FakeModel(max_reasoning_tokens=3)
    assert max(len(model.reason(model.start([Task(prompt=prompt)]), [()])[0].written) for prompt in PROMPTS) == 3


def test_a_fake_reward_can_be_down() -> None:
    picture = draw(FakeModel(), PROMPTS[0], None).picture
    reward = FakeReward(unscored_calls={1})
    kinds = [type(reward([picture], [Task(prompt="a")])[0]) for _ in range(3)]
    assert kinds == [Score, Unscored, Score]
    assert reward.calls == 3


def test_a_fake_models_heads_are_differentiable() -> None:
    latents = torch.zeros(2, 2, 8, requires_grad=True)
    FakeModel().image_logits(latents, 2.0)[0, 3].backward()
    assert latents.grad is not None and latents.grad[0].any() and not latents.grad[1].any()
