"""The policy gradient and one step of it, compared with formulas written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import milr.methods.latents as latents_module
from milr.methods.latents import GradientError, Latents, Update, advantages, count_latents, take_step, take_steps
from milr.settings import GRADIENTS, MilrSettings, SamplingParams
from milr.testing import FakeModel
from tests.support.pretended_device import DEVICE, pretended_device

MODEL = FakeModel()
WIDTH = MODEL.capabilities.width
TEXT_HEAD = MODEL.text_logits(torch.eye(WIDTH))  # (d, V): the fake's heads are linear
IMAGE_HEAD = MODEL.image_logits(torch.stack([torch.eye(WIDTH), torch.zeros(WIDTH, WIDTH)], dim=1), 1.0)  # (d, V)
BOTH = ("text", "image")


def make_latents(text: int = 3, image: int = 2, seed: int = 5) -> Latents:
    """Return the same latents every time."""
    draw = torch.Generator().manual_seed(seed)
    text_states = torch.randn(text, WIDTH, generator=draw)
    return Latents(text_states, torch.randn(image, 2, WIDTH, generator=draw))


def likely(latents: Latents, guidance: float = 5.0) -> tuple[list[int], list[int]]:
    """Return the argmax tokens of text and image."""
    image = MODEL.image_logits(latents.now["image"], guidance)
    return MODEL.text_logits(latents.now["text"]).argmax(-1).tolist(), image.argmax(-1).tolist()


@dataclass(frozen=True)
class RolledOut:
    """Tokens and rewards as a test chooses them."""

    text: tuple[int, ...]
    images: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]


def seen(*rewards: float, text: Sequence[int] = (3, 1, 4), images: Sequence[Sequence[int]] = ((5, 2),)) -> RolledOut:
    """Return the rollout."""
    return RolledOut(tuple(text), tuple(tuple(image) for image in images), rewards)


def split_settings(settings: dict[str, Any]) -> tuple[MilrSettings, SamplingParams]:
    sampling = {name: settings.pop(name) for name in list(settings) if name in SamplingParams.model_fields}
    return MilrSettings.model_validate({"learning_rate": 0.1} | settings), SamplingParams.model_validate(sampling)


def step(
    latents: Latents, rolled: RolledOut, *, moves: Sequence[str] = BOTH, stream: int = 0, **settings: Any
) -> float:
    """Take one step, with random directions from that stream; return log p before the step."""
    numbers = torch.Generator().manual_seed(stream)
    update = Update(latents, rolled.text, rolled.images, rolled.rewards, tuple(moves), numbers)
    (log_p,) = take_step(MODEL, [update], *split_settings(settings))
    if isinstance(log_p, GradientError):
        raise log_p
    return log_p


def gradient(latents: Latents, name: str) -> torch.Tensor:
    """Return the gradient of the first step from Adam's state."""
    return latents.moments[name].mean / (1 - 0.9)


def moved(latents: Latents, name: str) -> torch.Tensor:
    return latents.now[name] - latents.start[name]


def off_target(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Return one-hot minus softmax, (n, V): the gradient of the tokens' log p with respect to the logits."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), logits.shape[-1]) - logits.softmax(-1)


def test_the_tokens_of_these_tests_are_not_the_most_probable() -> None:
    text, image = likely(make_latents())
    assert all(a != b for a, b in zip(text, seen(0.0).text, strict=True))
    assert all(a != b for a, b in zip(image, seen(0.0).images[0], strict=True))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 5.0, 1000.0])  # the last one has gradients that clipping would change
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("reward", [0.0, 0.75])
def test_the_gradient_is_the_formula(guidance: float, temperature: float, reward: float) -> None:
    latents = make_latents()
    rolled = seen(reward)
    step(latents, rolled, guidance=guidance, temperature=temperature)

    # loss = -(R - 1) log p; text logits = z H; image logits = (u + w (c - u)) H / T.
    text = (1 - reward) * off_target(latents.start["text"] @ TEXT_HEAD, rolled.text) @ TEXT_HEAD.T
    conditional, unconditional = latents.start["image"].unbind(1)
    mixed = (unconditional + guidance * (conditional - unconditional)) @ IMAGE_HEAD / temperature
    image = (1 - reward) * off_target(mixed, rolled.images[0]) @ IMAGE_HEAD.T / temperature
    pair = torch.stack([guidance * image, (1 - guidance) * image], dim=1)
    torch.testing.assert_close(gradient(latents, "text"), text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(latents, "image"), pair, rtol=1e-3, atol=1e-3)


def test_a_wrong_image_lowers_the_probability_of_its_own_tokens() -> None:
    latents = make_latents()
    rolled = seen(0.0)
    best_text, best_image = likely(latents)
    best = seen(0.0, text=best_text, images=[best_image])
    log_p_rolled = step(latents, rolled)
    assert step(latents, rolled, gradient="zero") < log_p_rolled
    log_p_best = step(make_latents(), best, gradient="zero")
    assert step(latents, best, gradient="zero") > log_p_best


def test_the_value_returned_is_log_p_before_the_step() -> None:
    latents = make_latents()
    images = ((5, 2), (7, 7))
    value = step(latents, seen(0.25, 0.5, images=images), guidance=3.0, temperature=0.5)
    text = (latents.start["text"] @ TEXT_HEAD).log_softmax(-1)
    image = (MODEL.image_logits(latents.start["image"], 3.0) / 0.5).log_softmax(-1)
    expected = sum(float(text[i, token]) for i, token in enumerate((3, 1, 4)))
    expected += sum(float(image[i, token]) for tokens in images for i, token in enumerate(tokens)) / 2
    assert value == pytest.approx(expected, abs=1e-4)


def test_a_reward_of_one_gives_no_gradient() -> None:
    latents = make_latents()
    step(latents, seen(1.0))
    for name in BOTH:
        assert not gradient(latents, name).any()
        assert torch.equal(latents.now[name], latents.start[name])


def test_a_lower_reward_gives_a_larger_step() -> None:
    gradients: list[torch.Tensor] = []
    for reward in (0.75, 0.5, 0.0):
        latents = make_latents()
        step(latents, seen(reward))
        gradients.append(gradient(latents, "image"))
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    torch.testing.assert_close(gradients[2], 4 * gradients[0])


def test_the_first_step_has_the_learning_rate_as_its_size_everywhere() -> None:
    latents = make_latents()
    step(latents, seen(0.9), learning_rate=0.1)
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
def test_images_are_compared_with_their_mean(rewards: tuple[float, ...], text: float, images: list[float]) -> None:
    text_advantage, image_advantages = advantages(rewards)
    assert text_advantage == pytest.approx(text)
    assert image_advantages.tolist() == pytest.approx(images)


def test_the_better_of_two_images_becomes_more_probable() -> None:
    worse, better = (5, 2), (7, 7)
    latents = make_latents()
    step(latents, seen(0.25, 0.75, images=(worse, better)), moves=("image",))
    # mean over images of -(advantage) d log p: -(-0.25 d worse + 0.25 d better) / 2
    logits = MODEL.image_logits(latents.start["image"], 5.0)
    push = 0.125 * (off_target(logits, worse) - off_target(logits, better)) @ IMAGE_HEAD.T
    torch.testing.assert_close(gradient(latents, "image")[:, 0], 5.0 * push, rtol=1e-4, atol=1e-4)


def test_the_advantage_of_a_text_is_the_mean_of_its_images() -> None:
    several, one = make_latents(), make_latents()
    step(several, seen(0.25, 0.75, images=((5, 2), (7, 7))), moves=("text",))
    step(one, seen(0.5), moves=("text",))
    torch.testing.assert_close(gradient(several, "text"), gradient(one, "text"))


def test_gradient_zero_changes_no_bit() -> None:
    latents = make_latents()
    for _ in range(3):
        step(latents, seen(0.0), gradient="zero")
    for name in BOTH:
        assert torch.equal(latents.now[name], latents.start[name])


def test_gradient_random_has_the_same_step_length_in_another_direction() -> None:
    real, randomly = make_latents(), make_latents()
    step(real, seen(0.25))
    step(randomly, seen(0.25), gradient="random")
    for name in BOTH:
        a, b = moved(real, name), moved(randomly, name)
        assert float(b.norm()) == pytest.approx(float(a.norm()), rel=1e-4)
        assert abs(float((a * b).sum() / (a.norm() * b.norm()))) < 0.7
        assert float(b.abs().std()) > 0.01  # its own direction, not Adam's step with shuffled signs


def test_gradient_random_is_keyed_by_its_stream() -> None:
    first, again, other = make_latents(), make_latents(), make_latents()
    for latents, stream in ((first, 1), (again, 1), (other, 2)):
        step(latents, seen(0.25), gradient="random", stream=stream)
    for name in BOTH:
        assert torch.equal(first.now[name], again.now[name])
        assert not torch.allclose(first.now[name], other.now[name], atol=1e-3)


def test_gradient_random_does_not_step_where_there_is_no_gradient() -> None:
    latents = make_latents()
    step(latents, seen(1.0), gradient="random")
    assert torch.equal(latents.now["text"], latents.start["text"])


def test_gradient_negated_is_the_mirror_of_the_real_step() -> None:
    real, negated = make_latents(), make_latents()
    step(real, seen(0.25))
    step(negated, seen(0.25), gradient="negated")
    for name in BOTH:
        torch.testing.assert_close(moved(negated, name), -moved(real, name), rtol=0, atol=1e-6)


def test_every_gradient_that_settings_may_name_has_a_rule() -> None:
    for name in GRADIENTS:
        assert MilrSettings.model_validate({"gradient": name}).gradient == name
    with pytest.raises(ValueError, match="gradient"):
        MilrSettings.model_validate({"gradient": "none"})


def test_l2_pulls_back_to_the_start() -> None:
    latents = make_latents()
    away = torch.full_like(latents.start["image"], 0.5)
    latents.now["image"] += away
    step(latents, seen(1.0), l2=0.25)
    torch.testing.assert_close(gradient(latents, "image"), 2 * 0.25 * away)
    assert bool((moved(latents, "image") < away).all())
    assert torch.equal(latents.now["text"], latents.start["text"])


def test_without_l2_nothing_pulls_back() -> None:
    assert MilrSettings().l2 == 0
    latents = make_latents()
    latents.now["image"] += 0.5
    before = latents.now["image"].clone()
    step(latents, seen(1.0))
    assert torch.equal(latents.now["image"], before)


@pytest.mark.parametrize("mover", BOTH)
def test_latents_that_are_not_named_do_not_move(mover: str) -> None:
    latents = make_latents()
    for _ in range(3):
        step(latents, seen(0.0), l2=0.1, moves=(mover,))
    (rester,) = set(BOTH) - {mover}
    assert torch.equal(latents.now[rester], latents.start[rester])
    assert bool((moved(latents, mover) != 0).all())


def test_each_modality_has_its_own_adam() -> None:
    later, at_once = make_latents(), make_latents()
    for _ in range(5):
        step(later, seen(0.0), moves=("text",))
    step(later, seen(0.0), moves=("image",))
    step(at_once, seen(0.0), moves=("image",))
    assert torch.equal(later.now["image"], at_once.now["image"])


def test_naming_a_modality_without_latents_moves_nothing() -> None:
    latents = make_latents(text=0)
    log_p = step(latents, seen(0.0, text=()), moves=("text",))
    assert torch.equal(latents.now["image"], latents.start["image"])
    assert math.isfinite(log_p)
    step(latents, seen(0.0, text=()), moves=BOTH)
    assert bool((moved(latents, "image") != 0).all())


def test_a_text_that_ended_inside_its_prefix_moves_by_its_own_tokens() -> None:
    short, whole = make_latents(), make_latents()
    step(short, seen(0.0, text=(3,)))
    step(whole, seen(0.0, text=(3, 1, 4)))
    torch.testing.assert_close(gradient(short, "text")[0], gradient(whole, "text")[0])
    assert not gradient(short, "text")[1:].any()
    assert gradient(whole, "text")[1:].any()


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    latents = make_latents()
    good = latents.now["image"].clone()
    latents.now["image"][1, 0, 0] = math.nan
    before = {name: value.clone() for name, value in latents.now.items()}
    with pytest.raises(GradientError):
        step(latents, seen(0.0))
    for name in BOTH:
        torch.testing.assert_close(latents.now[name], before[name], rtol=0, atol=0, equal_nan=True)

    latents.now["image"] = good  # afterwards it steps as if nothing had happened
    fresh = make_latents()
    for one in (latents, fresh):
        step(one, seen(0.0))
        step(one, seen(0.5))
    for name in BOTH:
        assert torch.equal(latents.now[name], fresh.now[name])


def test_latents_are_a_float32_copy() -> None:
    text = torch.ones(2, WIDTH, dtype=torch.bfloat16)
    image = torch.ones(1, 2, WIDTH)
    latents = Latents(text, image)
    image += 1
    assert latents.now["text"].dtype == torch.float32
    assert bool((latents.now["image"] == 1).all()) and bool((latents.start["image"] == 1).all())
    step(latents, seen(0.0, text=(3, 1), images=((5,),)))
    assert bool((latents.start["image"] == 1).all())


# --- many tasks at once


def make_updates(seed: int = 0) -> list[Update]:
    """Return updates of tasks that differ in every way that is possible."""
    numbers = torch.Generator().manual_seed(100 + seed)

    def tokens(many: int, most: int = 12) -> tuple[int, ...]:
        return tuple(torch.randint(most, (many,), generator=numbers).tolist())

    shapes: list[tuple[int, int, int, int, tuple[str, ...]]] = [
        # text latents, text tokens (fewer: the text ended inside its prefix), image latents, M, moves
        (3, 3, 2, 1, BOTH),
        (7, 4, 5, 3, BOTH),
        (0, 0, 4, 2, ("image",)),
        (5, 5, 0, 2, ("text",)),
        (2, 2, 3, 4, ("text",)),
        (4, 1, 3, 1, ("image",)),
        (3, 3, 3, 2, ()),
        (0, 0, 0, 1, ()),
    ]
    return [
        Update(
            make_latents(text, image, seed=place),
            tokens(written),
            tuple(tokens(image, 16) for _ in range(many)),
            tuple(torch.rand(many, generator=numbers).tolist()),
            moves,
            torch.Generator().manual_seed(place),
        )
        for place, (text, written, image, many, moves) in enumerate(shapes)
    ]


def go_on(updates: Sequence[Update], seed: int) -> list[Update]:
    """Return updates of the same latents from new tokens and rewards."""
    return [
        Update(old.latents, new.text, new.images, new.rewards, old.moves, old.stream)
        for old, new in zip(updates, make_updates(seed), strict=True)
    ]


def log_p_of(results: Sequence[float | GradientError]) -> list[float]:
    assert not any(isinstance(one, GradientError) for one in results)
    return [one for one in results if isinstance(one, float)]


def assert_same(together: Latents, alone: Latents, atol: float = 1e-6) -> None:
    for name in BOTH:
        torch.testing.assert_close(together.now[name], alone.now[name], rtol=0, atol=atol)
        torch.testing.assert_close(together.moments[name].mean, alone.moments[name].mean, rtol=1e-5, atol=atol)
        assert together.moments[name].steps == alone.moments[name].steps


@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_joint_step_of_many_tasks_equals_single_steps(rule: str) -> None:
    settings, sampling = split_settings({"gradient": rule, "l2": 0.1, "guidance": 3.0, "temperature": 0.7})
    batch, single = make_updates(), make_updates()
    for round in range(4):  # each task has its own Adam state
        together = log_p_of(take_step(MODEL, batch, settings, sampling))
        alone = [log_p_of(take_step(MODEL, [one], settings, sampling))[0] for one in single]
        assert together == pytest.approx(alone, abs=1e-4)
        for place, (one, other) in enumerate(zip(batch, single, strict=True)):
            assert_same(one.latents, other.latents)
            for name in BOTH:
                moves = name in one.moves and len(one.latents.now[name])
                assert one.latents.moments[name].steps == (round + 1 if moves else 0)
                still = not moves or (rule == "zero" and round == 0)  # then l2 pulls back to the start
                assert bool(moved(one.latents, name).any()) != (still or rule == "zero"), (place, name)
        batch, single = go_on(batch, round + 1), go_on(single, round + 1)


def test_a_task_without_a_finite_gradient_does_not_change_others() -> None:
    settings, sampling = split_settings({"l2": 0.1})
    batch, single = make_updates(), make_updates()
    sick = 1
    for round in range(3):
        if round == 1:  # after a good step, which is in Adam's state
            good = batch[sick].latents.now["image"].clone()
            batch[sick].latents.now["image"][2, 1, 0] = math.inf
            before = {name: batch[sick].latents.now[name].clone() for name in BOTH}
            kept = {name: batch[sick].latents.moments[name].mean.clone() for name in BOTH}
        found = take_step(MODEL, batch, settings, sampling)
        for place, one in enumerate(single):
            if (place, round) != (sick, 1):
                take_step(MODEL, [one], settings, sampling)
        if round == 1:
            assert [isinstance(one, GradientError) for one in found] == [place == sick for place in range(len(batch))]
            for name in BOTH:
                assert torch.equal(batch[sick].latents.now[name], before[name]), "no bit of it moved"
                assert torch.equal(batch[sick].latents.moments[name].mean, kept[name])
                assert batch[sick].latents.moments[name].steps == 1
            batch[sick].latents.now["image"] = good
        else:
            log_p_of(found)
        for one, other in zip(batch, single, strict=True):
            assert_same(one.latents, other.latents)
        batch, single = go_on(batch, round + 1), go_on(single, round + 1)


def test_non_finite_values_in_unmoved_latents_are_no_error() -> None:
    updates = make_updates()
    updates[4].latents.now["image"][0, 0, 0] = math.nan  # its text moves
    found = take_step(MODEL, updates, *split_settings({}))
    assert not any(isinstance(one, GradientError) for one in found)
    assert bool((moved(updates[4].latents, "text") != 0).all())


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of updates in each call of `take_step`."""
    sizes: list[int] = []

    def watch(model: Any, updates: Sequence[Update], *rest: Any) -> list[float | GradientError]:
        sizes.append(len(updates))
        return take_step(model, updates, *rest)

    monkeypatch.setattr(latents_module, "take_step", watch)
    return sizes


@pytest.mark.parametrize(
    ("most", "deterministic", "expected"),
    [
        (2048, False, [8]),
        (12, False, [1, 1, 2, 2, 2]),  # rows: 5, 12, 4, 5, 5, 7, 6, 0
        (1, False, [1] * 8),  # a task with more rows than the limit has its own step
        (2048, True, [1] * 8),
    ],
)
def test_a_batch_of_updates_is_split_by_rows(
    most: int, deterministic: bool, expected: list[int], parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents_module, "_ROWS_AT_ONCE", most)
    model = FakeModel()
    model.deterministic = deterministic
    settings, sampling = split_settings({"l2": 0.1})
    batch, single = make_updates(), make_updates()
    together = log_p_of(take_steps(model, batch, settings, sampling))
    assert parts == expected
    for place, (one, other) in enumerate(zip(batch, single, strict=True)):
        assert together[place] == pytest.approx(log_p_of(take_step(MODEL, [other], settings, sampling))[0], abs=1e-4)
        assert_same(one.latents, other.latents, 0.0 if deterministic else 1e-6)


def test_no_updates_take_no_step(parts: list[int]) -> None:
    assert take_steps(MODEL, [], *split_settings({})) == []
    assert parts == []


def test_shift_is_relative_to_the_start() -> None:
    latents = make_latents(text=0)
    latents.now["image"] *= 1.5
    assert latents.shifts() == (0.0, pytest.approx(0.5), [])


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


def test_an_empty_text_that_no_model_wrote_goes_with_image_latents_of_another_device() -> None:
    nothing, image = torch.zeros(0, WIDTH), torch.ones(2, 2, WIDTH)
    with pretended_device():
        latents = Latents(nothing, image.to(DEVICE))
        latents.anchor("text", nothing)
        latents.now["image"] *= 3
        assert latents.now["text"].device == DEVICE
        assert latents.shifts() == (0, 2, [])
