"""`milr plan`: memory from a config alone, a test allocation, devices and number types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from milr.cli.main import main
from milr.errors import UsageError
from milr.models.checkpoint import PROMPT_TOKENS, open_checkpoint
from milr.models.devices import choose_dtype, find_device
from milr.models.janus import Janus
from milr.models.sizing import make_plan, plan_cards
from tests.support.janus_folders import tiny_sizes, write_deepseek, write_settings
from tests.support.plain_janus import TINY, PlainJanus


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    with tiny_sizes():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with config and tokenizer, without weights."""
    write_settings(tmp_path / "model")
    return tmp_path / "model"


def test_the_memory_sums_equal_those_of_the_shapes(folder: Path) -> None:
    made = make_plan(described := open_checkpoint(folder, weights=False).description, dtype="bfloat16")
    assert made is not None
    plain = PlainJanus(TINY)
    unused = sum(parameter.numel() for name, parameter in plain.named_parameters() if "attn_pool" in name)
    assert sum(made.parameters.values()) == sum(parameter.numel() for parameter in plain.parameters()) - unused
    assert made.weights == 2 * sum(made.parameters.values())
    assert made.cache_per_token == 2 * TINY.layers * TINY.width * 2  # keys and values, two bytes each
    assert made.tokens == PROMPT_TOKENS + 512 + 16
    prompts = PROMPT_TOKENS + 512 + PROMPT_TOKENS  # of the image and of the text: cached between steps
    assert made.row == (2 * made.tokens + prompts) * made.cache_per_token + made.latents
    assert made.latents == 5 * 4 * TINY.width * (512 + 2 * 16)
    assert made.rows is not None and made.rows > 0
    assert described.capabilities.image_bytes == made.row  # half precision too


def test_a_reward_reduces_the_batch_and_may_leave_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milr.models.sizing.free_bytes", lambda device: 10**9)
    found = open_checkpoint(folder, weights=False).description
    alone, beside, none = (make_plan(found, reward=reward) for reward in (0, 10**8, 10**10))
    assert alone and beside and none
    assert alone.rows == int((0.8e9 - alone.weights) // alone.row)
    assert alone.rows - beside.rows == pytest.approx(10**8 / alone.row, abs=1)  # pyright: ignore
    assert none.rows == 0


def test_gpus_hold_caches_beside_the_weights(folder: Path) -> None:
    found = open_checkpoint(folder, weights=False).description
    plan, cards = make_plan(found, dtype="bfloat16"), plan_cards(found)
    assert plan is not None
    assert [card.gigabytes for card in cards] == [8, 12, 24, 48, 80]
    for card in cards:
        usable = card.gigabytes * 2**30 * 0.9 - plan.weights
        assert card.rows * plan.row <= usable < (card.rows + 1) * plan.row
        assert card.seconds_alone is not None and card.seconds_together is not None
        assert card.seconds_together < card.seconds_alone
    assert plan_cards(found, reward=9 * 2**30)[0].seconds_alone is None


def test_the_command_needs_no_weights(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["plan", "--model", str(folder), "--profile", "got-r1", "--reward", "self", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == "got-r1" and found["capabilities"]["passes"] == 1
    assert found["tokens"] == PROMPT_TOKENS + 600 + 16
    assert found["reward_bytes"] == 0 and "probe" not in found
    assert (found["device"], found["reward_device"]) == ("cpu", "cpu")
    assert main(["plan", "--model", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "two passes, latents: both" in said and "at a time" in said and "on a card like the A100" in said
    assert "reward      self: 0.0 kB, on cpu" in said  # the default of a model that reads any text
    monkeypatch.setattr("milr.models.sizing.find_device", torch.device)  # "meta" stands for a device that is not here
    assert main(["plan", "--device", "meta", "--reward", "mix:icons+self"]) == 0
    said = capsys.readouterr().out
    assert "on meta (decoder" in said
    assert "reward      mix:icons+self: size not known before it runs, icons: cpu, self: meta" in said
    assert main(["plan", "--model", str(folder), "--reward", "icons"]) == 2
    assert "'icons' reads icons only" in capsys.readouterr().err


@pytest.mark.slow
def test_the_probe_draws_with_random_weights_where_there_are_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", str(folder), "--probe", "--batch-size", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["probe"]
    assert (found["weights"], found["rows"]) == ("random", 2)
    assert found["drawings_per_hour"] > 0


# --- numbers


def test_number_types_follow_one_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype(None, cpu) == torch.float32
    for capability, expected in (((7, 0), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose_dtype(None, cuda) == expected
    for device in (cpu, cuda):
        assert choose_dtype("float16", device) == torch.float16
    with pytest.raises(UsageError, match="did you mean 'float16'"):
        choose_dtype("float61", cpu)
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        find_device("gpu")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_guidance_and_latents_are_float32_for_weights_of_any_type(tmp_path: Path, dtype: str) -> None:
    write_deepseek(tmp_path)
    model = Janus(tmp_path, dtype=dtype)
    latents = torch.randn(3, 2, TINY.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = model.image_logits(latents, 5.0)
    head = model.network.model.generation_head(latents.to(model.network.dtype))
    assert head.dtype == model.network.dtype and found.dtype == torch.float32
    conditional, unconditional = head.float().unbind(1)
    assert torch.equal(found, unconditional + 5.0 * (conditional - unconditional))  # not rounded in between
    (gradient,) = torch.autograd.grad(found.sum(), latents)
    assert gradient.dtype == torch.float32
    assert model.text_logits(latents[:, 0]).dtype == torch.float32


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("language_config", "hidden_size", 3 * 10**9, "hidden_size 3000000000"),
        ("language_config", "vocab_size", 10**12, "vocab_size 1000000000000"),
        ("language_config", "num_hidden_layers", 10**9, "num_hidden_layers 1000000000"),
        ("language_config", "intermediate_size", 0, "intermediate_size 0"),
        ("gen_aligner_config", "depth", 10**9, "num_hidden_layers 1000000000"),
        ("gen_vision_config", "n_embed", 10**10, "embed_dim 10000000000"),
        ("vision_config", "image_size", 10**9, "image_size 1000000000"),
    ],
)
def test_a_dimension_of_billions_is_refused_before_anything_is_allocated(
    folder: Path, part: str, name: str, value: int, said: str
) -> None:
    """Both planning and loading refuse such a folder."""
    described = json.loads((folder / "config.json").read_text())
    inner = described[part].get("params", described[part])
    assert name in inner
    inner[name] = value
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match=said):
        open_checkpoint(folder, weights=False)
