"""Janus checkpoints: the embedded one against transformers' own forward passes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import load_model
from milr.models.base import ImageRequest, TaskState
from milr.models.janus import Janus
from milr.types import Reasoning, Task

PROMPT = "a photo of a red apple left of a blue clock"


def ids_of(model: Janus, text: str) -> torch.Tensor:
    return torch.tensor([model.tokenizer(text)["input_ids"]])


@pytest.fixture(scope="module")
def greedy(embedded: Janus) -> tuple[str, tuple[int, ...], torch.Tensor]:
    """A drawing at next to no temperature: what the model was told, its tokens, its hidden states."""
    request = ImageRequest(TaskState(Task(prompt=PROMPT)), Reasoning("red apple", ()), open_stream(0, "any", 0, 0))
    (sketch,) = embedded.draw([request], guidance=3.0, temperature=1e-6, keep=embedded.capabilities.image_tokens)
    assert embedded.profile.drawing is not None and sketch.hidden is not None
    told = embedded.profile.drawing.write(prompt=PROMPT, reasoning="red apple")
    return told + embedded.tokenizer.boi_token, sketch.drawing.tokens, sketch.hidden


@pytest.fixture(scope="module")
def plain(embedded: Janus) -> Any:
    """The same weights in transformers' own layers."""
    network: Any = JanusForConditionalGeneration.from_pretrained(embedded.folder, dtype=torch.float32)
    return network.eval().requires_grad_(False)


@pytest.mark.slow
def test_the_greedy_drawing_is_transformers_own(
    embedded: Janus, plain: Any, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    told, tokens, _ = greedy
    ids = ids_of(embedded, told)
    theirs = plain.generate(
        ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=False, guidance_scale=3.0
    )
    assert tuple(theirs[0].tolist()) == tokens


@pytest.mark.slow
def test_the_sampled_drawing_is_transformers_own(
    embedded: Janus, plain: Any, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    """Through the same random numbers."""
    told, likeliest, _ = greedy
    request = ImageRequest(TaskState(Task(prompt=PROMPT)), Reasoning("red apple", ()), torch.Generator().manual_seed(3))
    (sketch,) = embedded.draw([request], guidance=3.0, temperature=1.0, keep=0)
    ids = ids_of(embedded, told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = plain.generate(
            ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=True, guidance_scale=3.0
        )
    assert tuple(theirs[0].tolist()) == sketch.drawing.tokens != likeliest


@pytest.mark.slow
def test_the_cached_states_of_a_drawing_are_the_uncached_ones(
    embedded: Janus, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    told, tokens, hidden = greedy
    ids = ids_of(embedded, told)
    blank = ids.clone()
    blank[:, 1:-1] = embedded.tokenizer.pad_token_id  # the unconditional prompt keeps its first and its last token
    drawn = embedded.network.prepare_embeddings_for_image_generation(torch.tensor(tokens[:-1]))[None]
    for half, prompt in enumerate((ids, blank)):
        row = torch.cat([embedded.network.get_input_embeddings()(prompt), drawn], dim=1)
        states = embedded.network.model.language_model(inputs_embeds=row, use_cache=False).last_hidden_state
        torch.testing.assert_close(states[0, -len(tokens) :], hidden[:, half], rtol=1e-3, atol=1e-3)


def test_the_reasoning_is_transformers_own(embedded: Janus) -> None:
    (thought,) = embedded.reason(embedded.start([Task(prompt=PROMPT)]), [()])
    ids = ids_of(embedded, embedded.profile.reasoning.write(prompt=PROMPT))
    theirs = embedded.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="text",
        do_sample=False,
        max_new_tokens=embedded.profile.max_reasoning_tokens,
        max_length=None,
    )
    assert tuple(theirs[0, ids.shape[1] :].tolist()) == thought.written
    states = embedded.network.model.language_model(input_ids=theirs[:, :-1], use_cache=False).last_hidden_state
    torch.testing.assert_close(states[0, -len(thought.written) :], thought.hidden, rtol=1e-3, atol=1e-3)
    assert thought.reasoning.text == embedded.tokenizer.decode(thought.written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_answer_is_transformers_own(embedded: Janus, mode: str) -> None:
    side = embedded.capabilities.picture_size
    picture = Image.linear_gradient("L").resize((side, side)).convert(mode)
    question = "Is there a red apple?"
    processor: Any = JanusProcessor.from_pretrained(embedded.folder)
    text = embedded.profile.question.write(picture=processor.image_token, question=question)
    inputs = processor(text=text, images=[picture.convert("RGB")], return_tensors="pt")
    with torch.inference_mode():
        logits = embedded.network(**inputs).logits[0, -1]
    yes, no = (embedded.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
    assert yes != no
    expected = float(logits[[yes, no]].float().softmax(-1)[0])
    assert embedded.answer([picture], [question]) == pytest.approx([expected], abs=1e-4)


def test_answers_depend_on_picture_and_question(embedded: Janus) -> None:
    side = embedded.capabilities.picture_size
    black, red = Image.new("RGB", (side, side)), Image.new("RGB", (side * 2, side), "red")
    questions = ["Is there a red apple?", "Is there a red apple?", "Is there a clock?"]
    values = embedded.answer([black, red, red], questions)
    assert len(set(values)) == 3


def test_the_weights_are_frozen(embedded: Janus) -> None:
    assert not embedded.network.training
    assert not any(parameter.requires_grad for parameter in embedded.network.parameters())


def test_half_precision_weights_still_give_float32_logits(embedded: Janus) -> None:
    model = load_model(dtype="bfloat16")
    width = model.capabilities.width
    latents = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0))
    for found, expected in (
        (model.text_logits(latents[:, 0]), embedded.text_logits(latents[:, 0])),
        (model.image_logits(latents, 3.0), embedded.image_logits(latents, 3.0)),
    ):
        assert found.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    (thought,) = model.reason(model.start([Task(prompt=PROMPT)]), [()])
    assert thought.hidden.dtype == torch.float32


# --- what is refused, before any weight is read


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that looks right until its weights are read."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "janus"}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def refusal(name: object, **options: str) -> str:
    """The one line that a user sees."""
    with pytest.raises(UsageError) as caught:
        load_model(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_the_sibling_speaks_and_draws_as_the_embedded_model_does(embedded: Janus) -> None:
    sibling = load_model("embedded-small")
    assert isinstance(sibling, Janus) and "embedded-small@" in sibling.name
    ours, theirs = embedded.capabilities, sibling.capabilities
    assert (ours.picture_size, ours.image_tokens) == (theirs.picture_size, theirs.image_tokens)
    assert theirs.width < ours.width
    (thought,) = sibling.reason(sibling.start([Task(prompt=PROMPT)]), [()])
    assert "apple" in thought.reasoning.text and thought.reasoning.text.endswith(" ground")
    request = ImageRequest(TaskState(Task(prompt=PROMPT)), thought.reasoning, open_stream(0, "any", 0, 0))
    (sketch,) = sibling.draw([request], guidance=1.5, temperature=1.0, keep=0)
    assert sketch.drawing.picture.size == (theirs.picture_size,) * 2


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert f"no model folder '{tmp_path / 'none'}'" in refusal(tmp_path / "none")


def test_a_wrong_name_gets_the_nearest_right_one() -> None:
    assert "did you mean 'embedded'?" in refusal("embeded")


def test_a_folder_without_a_config_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert "has no config.json" in refusal(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_config_that_is_no_object_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert "is not a JSON object" in refusal(checkpoint)


def test_pickled_weights_are_not_opened(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    message = refusal(checkpoint)
    assert "has no *.safetensors" in message and "pickle" in message


def test_another_type_of_model_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "'llama'" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('{"profile": "janus-por"}', "did you mean 'janus-pro'?"),
        ('{"profil": "icons"}', "milr.json: profil"),
        ('{"grammar": "latin"}', "milr.json: grammar"),
        ("{", "milr.json"),
    ],
)
def test_wrong_settings_are_named(checkpoint: Path, settings: str, expected: str) -> None:
    (checkpoint / "milr.json").write_text(settings)
    assert expected in refusal(checkpoint)


def test_an_unknown_dtype_is_refused(checkpoint: Path) -> None:
    assert "did you mean 'float16'?" in refusal(checkpoint, dtype="float61")


def test_an_unknown_device_is_refused(checkpoint: Path) -> None:
    assert "unknown device 'gpu'" in refusal(checkpoint, device="gpu")


def test_cuda_is_refused_where_there_is_none(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in refusal(checkpoint, device="cuda")


def test_offsets_move_the_words_they_stand_at_and_zeros_move_none(embedded: Janus) -> None:
    tasks = [Task(prompt="a photo of a red apple left of a blue clock"), Task(prompt="two dogs")]
    plain = embedded.reason(embedded.start(tasks), [(), ()])
    width = embedded.capabilities.width
    zeros = [torch.zeros(3, width), torch.zeros(0, width)]
    for thought, same in zip(plain, embedded.reason(embedded.start(tasks), [(), ()], offsets=zeros), strict=True):
        assert thought.written == same.written
    # Pushed from the likeliest word to another one at place 1, it says that word there and goes on after it.
    likely = embedded.text_logits(plain[0].hidden[1:2])[0].topk(2).indices
    head = embedded.network.lm_head.weight.float()
    push = torch.zeros(2, width)
    push[1] = 20 * (head[likely[1]] - head[likely[0]])
    rows = embedded.start(tasks)
    moved, other = embedded.reason(rows, [(), ()], offsets=[push, torch.zeros(0, width)])
    assert moved.written[:2] == (plain[0].written[0], int(likely[1])) and other.written == plain[1].written
    follows = embedded.reason(embedded.start(tasks[:1]), [moved.written[:2]])[0]
    assert follows.written == moved.written
    torch.testing.assert_close(moved.hidden, follows.hidden, rtol=1e-3, atol=1e-3)  # the decoder's own states
    (alone,) = embedded.reason(embedded.start(tasks[:1]), [()], offsets=[push])
    assert alone.written == moved.written
    # What was pushed is not taken for what the model says by itself.
    assert embedded.reason(rows, [(), ()])[0].written == plain[0].written
