"""A model without some latents: a setting for them is refused with alternatives, and a default becomes a note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from PIL import Image

from milr import search
from milr.decode.sampling import derive_stream, open_stream
from milr.errors import UsageError
from milr.methods import METHODS
from milr.methods.needs import check_able
from milr.models.absent import check_latents
from milr.models.base import Capabilities, ImageOutput, ImageRequest
from milr.settings import SamplingParams
from milr.testing import FakeModel, FakeReward
from milr.testing.contracts import check_model
from milr.types import Task

ABLE = FakeModel.capabilities
NOISE = Capabilities(64, 0, 0, "none", reads_images=False, writes_text=False, noise_shape=(4, 8, 8))
TOKENS = replace(ABLE, latents="image", writes_text=False, branches=1)


@pytest.mark.parametrize(("there", "absent"), [("image", ["text"]), ("text", ["image"])])
def test_a_search_moves_existing_latents_and_names_absent_ones(there: str, absent: list[str]) -> None:
    model = FakeModel()
    model.capabilities = replace(model.capabilities, latents=there)
    settings = model.settings("milr", steps=2, text_ratio=0.5, image_ratio=0.2, stop_at=1.0)
    records = list(search([Task(prompt="two dogs")], model, FakeReward(), settings))
    assert records[0].notes == tuple(f"{name}: this model has no {name} latents, so none move" for name in absent)
    assert not any(record.notes for record in records[1:])
    first, *later = [record.trace for record in records]
    assert first is not None
    assert (first.text_latents == 0) == ("text" in absent)
    assert (first.image_latents == 0) == ("image" in absent)
    for trace in later:
        assert trace is not None and trace.moved and not set(absent) & set(trace.moved)


def test_a_ratio_without_effect_is_refused() -> None:
    image_only = replace(ABLE, latents="image")
    with pytest.raises(UsageError, match="text_ratio 0.2: this model has no text latents"):
        check_latents({"text_ratio": 0.2}, image_only)
    check_latents({"text_ratio": 0.0, "image_ratio": 0.1}, image_only)
    check_latents({}, image_only)
    check_latents({"text_ratio": 0.2}, ABLE)


@pytest.mark.parametrize(
    ("able", "working"),
    [
        (ABLE, set(METHODS)),
        (NOISE, {"one-shot", "best-of-n"}),
        (TOKENS, {"one-shot", "best-of-n", "parm", "keep-right", "grid-prune", "milr"}),
        (replace(ABLE, latents="none"), set(METHODS) - {"milr"}),
    ],
)
def test_a_method_with_unmet_needs_is_refused_and_alternatives_are_named(able: Capabilities, working: set[str]) -> None:
    for method in METHODS:
        if method in working:
            check_able(method, {}, able)
            continue
        with pytest.raises(UsageError, match=f"the method '{method}' needs ") as refused:
            check_able(method, {}, able)
        assert set(str(refused.value).partition("--method ")[2].split(" or ")) == working


def test_a_strategy_needs_its_latents() -> None:
    for strategy in ("joint", "alt", "t2v", "no-text"):
        check_able("milr", {"strategy": strategy}, TOKENS)
    with pytest.raises(UsageError, match=r"needs text latents \(strategy 'steer'\), and this model has image latents"):
        check_able("milr", {"strategy": "steer"}, TOKENS)


def test_guidance_needs_a_branch_and_sampling_needs_tokens() -> None:
    with pytest.raises(UsageError, match="guidance 5.0: this model has no branch without the prompt"):
        check_able("one-shot", {"guidance": 5.0}, TOKENS)
    check_able("one-shot", {"guidance": 1.0}, TOKENS)
    check_able("one-shot", {"guidance": 5.0}, NOISE)
    check_able("one-shot", {"guidance": 5.0}, replace(NOISE, branches=1, guidance_input=True))
    with pytest.raises(UsageError, match="temperature 0.9: this model samples no image tokens"):
        check_able("one-shot", {"temperature": 0.9}, NOISE)
    model = FakeModel()
    model.capabilities = replace(ABLE, branches=1)
    with pytest.raises(UsageError, match="guidance 2.0"):  # the run's settings, from any caller
        search("two dogs", model, FakeReward(), method="one-shot", guidance=2.0)


def test_capabilities_do_not_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="image latents need image tokens"):
        replace(NOISE, latents="image")
    with pytest.raises(ValueError, match="text latents need a model that writes text"):
        replace(TOKENS, latents="both")


def test_a_model_without_reasoning_is_never_asked_for_a_text() -> None:
    model = FakeModel()
    model.capabilities = replace(ABLE, latents="image", writes_text=False)
    settings = model.settings("milr", steps=2, image_ratio=0.2, stop_at=1.0)
    records = list(search("two dogs", model, FakeReward(), settings))
    assert model.reasoned == [] and all(record.reasoning.text == "" for record in records)
    trace = records[-1].trace
    assert trace is not None and trace.moved == ("image",)


class NoisyDecoder(FakeModel):
    """A fake model whose image decoder draws random numbers of its own after the tokens are known."""

    def __init__(self, open_noise: Callable[[torch.Generator], torch.Generator]) -> None:
        super().__init__()
        self.open_noise = open_noise

    def draw(self, requests: Sequence[ImageRequest], sampling: SamplingParams) -> list[ImageOutput]:
        return [self._blur(*pair) for pair in zip(requests, super().draw(requests, sampling), strict=True)]

    def _blur(self, request: ImageRequest, made: ImageOutput) -> ImageOutput:
        noise = torch.rand(made.sample.image.size, generator=self.open_noise(request.stream))
        grey = Image.fromarray((255 * noise).byte().numpy()).convert("RGB")
        return replace(made, sample=replace(made.sample, image=Image.blend(made.sample.image, grey, 0.2)))


def test_a_derived_random_stream_depends_on_the_request_alone() -> None:
    stream = open_stream(0, "key", 0, 0)
    first = torch.rand(3, generator=derive_stream(stream, "decoder"))
    torch.rand(100, generator=stream)
    assert torch.equal(first, torch.rand(3, generator=derive_stream(stream.clone_state(), "decoder")))
    others = (derive_stream(stream, "other"), derive_stream(open_stream(0, "key", 1, 0), "decoder"), stream)
    assert not any(torch.equal(first, torch.rand(3, generator=other)) for other in others)
    # the contract of models holds for a decoder that draws from it, and fails for one with a generator of its own
    check_model(NoisyDecoder(lambda stream: derive_stream(stream, "decoder")))
    own = torch.Generator()
    with pytest.raises(AssertionError):
        check_model(NoisyDecoder(lambda stream: own))


@pytest.mark.parametrize("family", ["llamagen:LlamaGen", "diffusers:Diffusers", "openai_images:OpenAIImages"])
def test_model_families_that_only_draw_refuse_other_calls_with_one_message(family: str) -> None:
    module, name = family.split(":")
    kind = getattr(import_module(f"milr.{'remote' if '_' in module else 'models'}.{module}"), name)
    model = kind.__new__(kind)
    model.name = "made"
    calls: dict[str, tuple[object, ...]] = {
        "reason": ([],),
        "spell": ([],),
        "text_logits": (torch.zeros(1, 1),),
        "answer": ([], []),
        "reply": ([], [], 1),
    }
    if name != "LlamaGen":
        calls["image_logits"] = (torch.zeros(1, 2, 1), 1.0)
    for call, arguments in calls.items():
        with pytest.raises(
            UsageError, match="^made (writes no text|reads no images|has no latents): milr info --model"
        ):
            getattr(model, call)(*arguments)
