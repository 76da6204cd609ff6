"""The policy gradient and one step of it, against formulas written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milr.config import SearchConfig
from milr.methods.latents import CREDITS, GradientError, Latents, RolledOut, assign_credit, count_latents, take_step
from milr.testing import FakeModel

MODEL = FakeModel()
WIDTH = MODEL.capabilities.width
TEXT_HEAD = MODEL.text_logits(torch.eye(WIDTH))  # (d, V): the fake's heads are linear
IMAGE_HEAD = MODEL.image_logits(torch.stack([torch.eye(WIDTH), torch.zeros(WIDTH, WIDTH)], dim=1), 1.0)  # (d, V)
BOTH = ("text", "image")


def make_latents(text: int = 3, image: int = 2, learning_rate: float = 0.1) -> Latents:
    """The same latents every time."""
    draw = torch.Generator().manual_seed(5)
    text_states = torch.randn(text, WIDTH, generator=draw)
    return Latents(text_states, torch.randn(image, 2, WIDTH, generator=draw), learning_rate)


def likely(latents: Latents, guidance: float = 5.0) -> tuple[list[int], list[int]]:
    """The argmax tokens of text and image."""
    image = MODEL.image_logits(latents.now["image"], guidance)
    return MODEL.text_logits(latents.now["text"]).argmax(-1).tolist(), image.argmax(-1).tolist()


def seen(*rewards: float, text: Sequence[int] = (3, 1, 4), images: Sequence[Sequence[int]] = ((5, 2),)) -> RolledOut:
    """What was rolled out, tokens chosen at will."""
    return RolledOut(tuple(text), tuple(tuple(image) for image in images), rewards)


def step(
    latents: Latents, rolled: RolledOut, config: SearchConfig, moves: Sequence[str] = BOTH, stream: int = 0
) -> float:
    """One step whose random directions, where there are any, come from that stream."""
    return take_step(MODEL, latents, rolled, moves, config, torch.Generator().manual_seed(stream))


def moved(latents: Latents, name: str) -> torch.Tensor:
    return latents.now[name].detach() - latents.start[name]


def off_target(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """One-hot minus softmax, (n, V): the gradient of log p of the tokens in the logits."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), logits.shape[-1]) - logits.softmax(-1)


def test_the_tokens_of_these_tests_are_not_the_likeliest() -> None:
    text, image = likely(make_latents())
    assert all(a != b for a, b in zip(text, seen(0.0).text, strict=True))
    assert all(a != b for a, b in zip(image, seen(0.0).images[0], strict=True))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 5.0, 1000.0])  # the last: gradients that clipping would cut
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("reward", [0.0, 0.75])
def test_the_gradient_is_the_formula(guidance: float, temperature: float, reward: float) -> None:
    latents = make_latents()
    rolled = seen(reward)
    step(latents, rolled, SearchConfig(guidance=guidance, temperature=temperature))

    # loss = -(R - 1) log p; text logits = z H; image logits = (u + w (c - u)) H / T.
    text = (1 - reward) * off_target(latents.start["text"] @ TEXT_HEAD, rolled.text) @ TEXT_HEAD.T
    conditional, unconditional = latents.start["image"].unbind(1)
    mixed = (unconditional + guidance * (conditional - unconditional)) @ IMAGE_HEAD / temperature
    image = (1 - reward) * off_target(mixed, rolled.images[0]) @ IMAGE_HEAD.T / temperature
    pair = torch.stack([guidance * image, (1 - guidance) * image], dim=1)
    torch.testing.assert_close(latents.now["text"].grad, text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.now["image"].grad, pair, rtol=1e-3, atol=1e-3)


def test_a_wrong_picture_makes_its_own_tokens_less_likely_not_the_likeliest_ones() -> None:
    latents, config = make_latents(), SearchConfig()
    rolled = seen(0.0)
    best_text, best_image = likely(latents)
    log_p_rolled = step(latents, rolled, config)
    still = SearchConfig(credit="zero")
    assert step(latents, rolled, still) < log_p_rolled
    log_p_best = step(make_latents(), seen(0.0, text=best_text, images=[best_image]), still)
    assert step(latents, seen(0.0, text=best_text, images=[best_image]), still) > log_p_best


def test_the_value_returned_is_log_p_before_the_step() -> None:
    latents = make_latents()
    images = ((5, 2), (7, 7))
    value = step(latents, seen(0.25, 0.5, images=images), SearchConfig(guidance=3.0, temperature=0.5))
    text = (latents.start["text"] @ TEXT_HEAD).log_softmax(-1)
    image = (MODEL.image_logits(latents.start["image"], 3.0) / 0.5).log_softmax(-1)
    expected = sum(float(text[i, token]) for i, token in enumerate((3, 1, 4)))
    expected += sum(float(image[i, token]) for tokens in images for i, token in enumerate(tokens)) / 2
    assert value == pytest.approx(expected, abs=1e-4)


def test_a_reward_of_one_gives_no_gradient() -> None:
    latents = make_latents()
    step(latents, seen(1.0), SearchConfig())
    for name in BOTH:
        assert not latents.now[name].grad.any()
        assert torch.equal(latents.now[name], latents.start[name])


def test_the_lower_the_reward_the_harder_the_push() -> None:
    gradients: list[torch.Tensor] = []
    for reward in (0.75, 0.5, 0.0):
        latents = make_latents()
        step(latents, seen(reward), SearchConfig())
        gradients.append(latents.now["image"].grad)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    torch.testing.assert_close(gradients[2], 4 * gradients[0])


def test_the_first_step_has_the_learning_rate_as_its_size_everywhere() -> None:
    latents = make_latents(learning_rate=0.1)
    step(latents, seen(0.9), SearchConfig())
    for name in BOTH:
        torch.testing.assert_close(moved(latents, name).abs(), torch.full_like(latents.start[name], 0.1))


@pytest.mark.parametrize(
    ("rewards", "text", "images"),
    [
        ((0.25,), -0.75, [-0.75]),
        ((0.25, 0.75), -0.5, [-0.25, 0.25]),
        ((0.0, 0.5, 1.0), -0.5, [-0.5, 0.0, 0.5]),
        ((0.75, 0.75), -0.25, [-0.25, -0.25]),  # all equal: R - 1
        ((1.0, 1.0), 0.0, [0.0, 0.0]),
    ],
)
def test_drawings_are_compared_with_their_mean(rewards: tuple[float, ...], text: float, images: list[float]) -> None:
    text_credit, image_credits = assign_credit(rewards)
    assert text_credit == pytest.approx(text)
    assert image_credits.tolist() == pytest.approx(images)


def test_the_better_of_two_drawings_becomes_likelier() -> None:
    worse, better = (5, 2), (7, 7)
    latents = make_latents()
    step(latents, seen(0.25, 0.75, images=(worse, better)), SearchConfig(), moves=("image",))
    # mean over drawings of -(credit) d log p: -(-0.25 d worse + 0.25 d better) / 2
    logits = MODEL.image_logits(latents.start["image"], 5.0)
    push = 0.125 * (off_target(logits, worse) - off_target(logits, better)) @ IMAGE_HEAD.T
    torch.testing.assert_close(latents.now["image"].grad[:, 0], 5.0 * push, rtol=1e-4, atol=1e-4)


def test_the_text_of_several_drawings_is_credited_with_their_mean() -> None:
    several, one = make_latents(), make_latents()
    step(several, seen(0.25, 0.75, images=((5, 2), (7, 7))), SearchConfig(), moves=("text",))
    step(one, seen(0.5), SearchConfig(), moves=("text",))
    torch.testing.assert_close(several.now["text"].grad, one.now["text"].grad)


def test_credit_zero_leaves_every_bit() -> None:
    latents = make_latents()
    for _ in range(3):
        step(latents, seen(0.0), SearchConfig(credit="zero"))
    for name in BOTH:
        assert torch.equal(latents.now[name], latents.start[name])


def test_credit_random_steps_as_far_elsewhere() -> None:
    real, randomly = make_latents(), make_latents()
    step(real, seen(0.25), SearchConfig())
    step(randomly, seen(0.25), SearchConfig(credit="random"))
    for name in BOTH:
        a, b = moved(real, name), moved(randomly, name)
        assert float(b.norm()) == pytest.approx(float(a.norm()), rel=1e-4)
        assert abs(float((a * b).sum() / (a.norm() * b.norm()))) < 0.7
        assert float(b.abs().std()) > 0.01  # a direction of its own, not the signs of Adam's step shuffled


def test_credit_random_is_keyed_by_its_stream() -> None:
    first, again, other = make_latents(), make_latents(), make_latents()
    for latents, stream in ((first, 1), (again, 1), (other, 2)):
        step(latents, seen(0.25), SearchConfig(credit="random"), stream=stream)
    for name in BOTH:
        assert torch.equal(first.now[name], again.now[name])
        assert not torch.allclose(first.now[name], other.now[name], atol=1e-3)


def test_credit_random_does_not_step_where_there_is_no_gradient() -> None:
    latents = make_latents()
    step(latents, seen(1.0), SearchConfig(credit="random"))
    assert torch.equal(latents.now["text"], latents.start["text"])


def test_credit_negated_is_the_mirror_of_the_real_step() -> None:
    real, negated = make_latents(), make_latents()
    step(real, seen(0.25), SearchConfig())
    step(negated, seen(0.25), SearchConfig(credit="negated"))
    for name in BOTH:
        torch.testing.assert_close(moved(negated, name), -moved(real, name), rtol=0, atol=1e-6)


def test_every_credit_that_a_config_may_name_has_a_rule() -> None:
    for credit in CREDITS:
        assert SearchConfig.model_validate({"credit": credit}).credit == credit
    with pytest.raises(ValueError, match="credit"):
        SearchConfig.model_validate({"credit": "none"})


def test_l2_pulls_back_to_the_start() -> None:
    latents = make_latents()
    away = torch.full_like(latents.start["image"], 0.5)
    latents.now["image"].data += away
    step(latents, seen(1.0), SearchConfig(l2=0.25))
    torch.testing.assert_close(latents.now["image"].grad, 2 * 0.25 * away)
    assert bool((moved(latents, "image") < away).all())
    assert torch.equal(latents.now["text"], latents.start["text"])


def test_without_l2_nothing_pulls_back() -> None:
    assert SearchConfig().l2 == 0
    latents = make_latents()
    latents.now["image"].data += 0.5
    before = latents.now["image"].detach().clone()
    step(latents, seen(1.0), SearchConfig())
    assert torch.equal(latents.now["image"], before)


@pytest.mark.parametrize("mover", BOTH)
def test_what_is_not_named_rests(mover: str) -> None:
    latents = make_latents()
    for _ in range(3):
        step(latents, seen(0.0), SearchConfig(l2=0.1), moves=(mover,))
    (rester,) = set(BOTH) - {mover}
    assert torch.equal(latents.now[rester], latents.start[rester])
    assert bool((moved(latents, mover) != 0).all())


def test_each_modality_has_an_adam_of_its_own() -> None:
    later, at_once = make_latents(), make_latents()
    for _ in range(5):
        step(later, seen(0.0), SearchConfig(), moves=("text",))
    step(later, seen(0.0), SearchConfig(), moves=("image",))
    step(at_once, seen(0.0), SearchConfig(), moves=("image",))
    assert torch.equal(later.now["image"], at_once.now["image"])


def test_naming_a_modality_without_latents_moves_nothing() -> None:
    latents = make_latents(text=0)
    log_p = step(latents, seen(0.0, text=()), SearchConfig(), moves=("text",))
    assert torch.equal(latents.now["image"], latents.start["image"])
    assert math.isfinite(log_p)
    step(latents, seen(0.0, text=()), SearchConfig(), moves=BOTH)
    assert bool((moved(latents, "image") != 0).all())


def test_a_text_that_ended_inside_its_prefix_credits_what_it_wrote() -> None:
    short, whole = make_latents(), make_latents()
    step(short, seen(0.0, text=(3,)), SearchConfig())
    step(whole, seen(0.0, text=(3, 1, 4)), SearchConfig())
    torch.testing.assert_close(short.now["text"].grad[0], whole.now["text"].grad[0])
    assert not short.now["text"].grad[1:].any()
    assert whole.now["text"].grad[1:].any()


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    latents, config = make_latents(), SearchConfig()
    good = latents.now["image"].detach().clone()
    latents.now["image"].data[1, 0, 0] = math.nan
    before = {name: value.detach().clone() for name, value in latents.now.items()}
    with pytest.raises(GradientError):
        step(latents, seen(0.0), config)
    for name in BOTH:
        torch.testing.assert_close(latents.now[name].detach(), before[name], rtol=0, atol=0, equal_nan=True)

    latents.now["image"].data = good  # mended, it steps as if nothing had happened
    fresh = make_latents()
    for one in (latents, fresh):
        step(one, seen(0.0), config)
        step(one, seen(0.5), config)
    for name in BOTH:
        assert torch.equal(latents.now[name], fresh.now[name])


def test_latents_are_a_float32_copy() -> None:
    text = torch.ones(2, WIDTH, dtype=torch.bfloat16)
    image = torch.ones(1, 2, WIDTH)
    latents = Latents(text, image, 0.1)
    image += 1
    assert latents.now["text"].dtype == torch.float32
    assert bool((latents.now["image"] == 1).all()) and bool((latents.start["image"] == 1).all())
    step(latents, seen(0.0, text=(3, 1), images=((5,),)), SearchConfig())
    assert bool((latents.start["image"] == 1).all())


def test_shift_is_relative_to_the_start() -> None:
    latents = make_latents(text=0)
    latents.now["image"].data *= 1.5
    assert latents.shift("image") == pytest.approx(0.5)
    assert latents.shift("text") == 0.0


@pytest.mark.parametrize(
    ("ratio", "length", "count"),
    [
        (0.02, 576, 11),  # the paper's
        (0.02, 256, 5),
        (0.2, 9, 1),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (0.57, 100, 57),
        (0.7, 10, 7),
        (0.999, 10, 9),
        (1.0, 7, 7),
        (0.0, 100, 0),
        (0.5, 0, 0),
    ],
)
def test_count_latents_rounds_down(ratio: float, length: int, count: int) -> None:
    assert count_latents(ratio, length) == (count, None)


@pytest.mark.parametrize(("ratio", "length"), [(0.001, 25), (0.2, 4), (0.99, 1)])
def test_a_ratio_that_rounds_to_none_moves_one_and_says_so(ratio: float, length: int) -> None:
    count, note = count_latents(ratio, length)
    assert count == 1
    assert note is not None and f"{ratio:g}" in note and str(length) in note


@given(st.integers(0, 1000), st.integers(0, 1024))
def test_count_latents_is_exact_for_every_ratio_of_three_digits(thousandths: int, length: int) -> None:
    exact = math.floor(Decimal(thousandths) / 1000 * length)
    count, note = count_latents(thousandths / 1000, length)
    lifted = exact == 0 and thousandths > 0 and length > 0
    assert count == (1 if lifted else exact)
    assert (note is not None) == lifted
