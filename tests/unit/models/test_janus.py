"""Janus checkpoints: the embedded one compared with transformers' forward passes, and refused folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import load_model, read_capabilities
from milr.models.base import ImageOutput, ImageRequest, TaskState, TextOutput, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.janus import Janus
from milr.models.prompts import join_parts
from milr.settings import SamplingParams
from milr.tasks import parse_prompt
from milr.types import Reasoning, Task
from training.texts import names_what_is_asked

PROMPT = "a photo of a red apple left of a blue clock"


def ids_of(model: Janus, text: str) -> torch.Tensor:
    return torch.tensor([model.tokenizer(text)["input_ids"]])


def draw(model: Janus, stream: torch.Generator, *, keep_hidden: int = 0, **sampling: object) -> ImageOutput:
    """Draw an image of the prompt after a fixed reasoning."""
    state = TaskState(Task(prompt=PROMPT))
    request = ImageRequest(state, Reasoning("red apple", ()), stream, keep_hidden=keep_hidden)
    return model.draw([request], SamplingParams.model_validate(sampling))[0]


def write(model: Janus, *states: TaskState, offsets: Sequence[torch.Tensor | None] = ()) -> list[TextOutput]:
    """Write greedy texts."""
    added = offsets or [None] * len(states)
    return model.reason([TextRequest(one, offsets=some) for one, some in zip(states, added, strict=True)])


@pytest.fixture(scope="module")
def greedy(embedded: Janus) -> tuple[str, tuple[int, ...], torch.Tensor]:
    """Draw an image at almost no temperature; return prompt, tokens and hidden states."""
    total = embedded.capabilities.image_tokens
    found = draw(embedded, open_stream(0, "any", 0, 0), keep_hidden=total, guidance=3.0, temperature=1e-6)
    assert embedded.profile.image is not None and found.hidden is not None
    prompt = join_parts(embedded.profile.image.write(prompt=PROMPT, reasoning="red apple"))
    return prompt + embedded.tokenizer.boi_token, found.sample.tokens, found.hidden


@pytest.fixture(scope="module")
def plain(embedded: Janus) -> Any:
    """Return transformers' own layers with the same weights."""
    network: Any = JanusForConditionalGeneration.from_pretrained(embedded.folder, dtype=torch.float32)
    return network.eval().requires_grad_(False)


@pytest.mark.slow
def test_the_greedy_image_is_transformers_own(
    embedded: Janus, plain: Any, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    prompt, tokens, _ = greedy
    ids = ids_of(embedded, prompt)
    theirs = plain.generate(
        ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=False, guidance_scale=3.0
    )
    assert tuple(theirs[0].tolist()) == tokens


@pytest.mark.slow
def test_the_sampled_image_is_transformers_own(
    embedded: Janus, plain: Any, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    """Both models get the same random numbers."""
    prompt, likeliest, _ = greedy
    temperature = embedded.defaults["temperature"]  # also in the file that transformers reads
    found = draw(embedded, torch.Generator().manual_seed(3), guidance=3.0, temperature=temperature, sampler="race")
    ids = ids_of(embedded, prompt)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = plain.generate(
            ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=True, guidance_scale=3.0
        )
    assert tuple(theirs[0].tolist()) == found.sample.tokens != likeliest


@pytest.mark.slow
def test_the_cached_states_of_an_image_are_the_uncached_ones(
    embedded: Janus, greedy: tuple[str, tuple[int, ...], torch.Tensor]
) -> None:
    prompt, tokens, hidden = greedy
    ids = ids_of(embedded, prompt)
    padded = ids.clone()
    padded[:, 1:-1] = embedded.tokenizer.pad_token_id  # the unconditional prompt keeps its first and its last token
    image = embedded.network.prepare_embeddings_for_image_generation(torch.tensor(tokens[:-1]))[None]
    for half, prefix in enumerate((ids, padded)):
        row = torch.cat([embedded.network.get_input_embeddings()(prefix), image], dim=1)
        states = embedded.network.model.language_model(inputs_embeds=row, use_cache=False).last_hidden_state
        torch.testing.assert_close(states[0, -len(tokens) :], hidden[:, half], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_reasoning_is_transformers_own(embedded: Janus) -> None:
    (text,) = write(embedded, TaskState(Task(prompt=PROMPT)))
    ids = ids_of(embedded, join_parts(embedded.profile.reasoning.write(prompt=PROMPT)))
    theirs = embedded.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="text",
        do_sample=False,
        max_new_tokens=embedded.profile.max_reasoning_tokens,
        max_length=None,
    )
    assert tuple(theirs[0, ids.shape[1] :].tolist()) == text.tokens
    states = embedded.network.model.language_model(input_ids=theirs[:, :-1], use_cache=False).last_hidden_state
    torch.testing.assert_close(states[0, -len(text.tokens) :], text.hidden, rtol=1e-3, atol=1e-3)
    assert text.reasoning.text == embedded.tokenizer.decode(text.tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("given", [95, 96])
def test_the_prefix_counts_towards_the_longest_text(embedded: Janus, given: int) -> None:
    assert embedded.profile.max_reasoning_tokens == 96
    (word,) = embedded.tokenizer(" red", add_special_tokens=False)["input_ids"]
    (text,) = embedded.reason([TextRequest(TaskState(Task(prompt=PROMPT)), (word,) * given)])
    assert text.tokens[:given] == (word,) * given and len(text.tokens) <= 96


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_answer_is_transformers_own(embedded: Janus, mode: str) -> None:
    side = embedded.capabilities.image_size
    image = Image.linear_gradient("L").resize((side, side)).convert(mode)
    question = "Is there a red apple?"
    processor: Any = JanusProcessor.from_pretrained(embedded.folder)
    text = join_parts(embedded.profile.question.write(image=processor.image_token, question=question))
    inputs = processor(text=text, images=[image.convert("RGB")], return_tensors="pt")
    with torch.inference_mode():
        logits = embedded.network(**inputs).logits[0, -1]
    yes, no = (embedded.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
    assert yes != no
    expected = float(logits[[yes, no]].float().softmax(-1)[0])
    assert embedded.answer([image], [question]) == pytest.approx([expected], abs=1e-4)


def test_answers_depend_on_image_and_question(embedded: Janus) -> None:
    side = embedded.capabilities.image_size
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
    (text,) = model.reason([TextRequest(TaskState(Task(prompt=PROMPT)))])
    assert text.hidden.dtype == torch.float32


# --- what is refused, before any weight is read


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder whose error is found only when weights are read."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "janus"}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def refusal(name: object, **options: str) -> str:
    """Return the user's one-line error."""
    with pytest.raises(UsageError) as caught:
        load_model(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_the_small_embedded_model_reasons_and_draws_like_the_embedded_model(embedded: Janus) -> None:
    sibling = load_model("embedded-small")
    assert isinstance(sibling, Janus) and "embedded-small@" in sibling.name
    ours, theirs = embedded.capabilities, sibling.capabilities
    assert (ours.image_size, ours.image_tokens) == (theirs.image_size, theirs.image_tokens)
    assert theirs.width < ours.width
    assert (ours.image_language, ours.latents) == (theirs.image_language, theirs.latents)
    (text,) = write(sibling, TaskState(Task(prompt=PROMPT)))
    assert names_what_is_asked(text.reasoning.text, parse_prompt(PROMPT))
    assert draw(sibling, open_stream(0, "any", 0, 0), guidance=1.5).sample.image.size == (theirs.image_size,) * 2


def test_a_checkpoint_says_before_it_is_loaded_what_its_images_show(embedded: Janus, checkpoint: Path) -> None:
    assert embedded.capabilities.image_language == "icons" and not embedded.reads_free_prompts
    assert read_capabilities(checkpoint).image_language == "natural"
    (checkpoint / "milr.json").write_text('{"grammar": "icons"}')
    assert read_capabilities(checkpoint).image_language == "icons"


def test_the_settings_file_gives_defaults_and_may_use_old_names(checkpoint: Path) -> None:
    (checkpoint / "milr.json").write_text('{"search": {"guidance": 1.5, "credit": "zero", "max_rows": 4}}')
    found = open_checkpoint(checkpoint).settings.search
    assert found == {"guidance": 1.5, "gradient": "zero", "batch_size": 4}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert f"no model folder '{tmp_path / 'none'}'" in refusal(tmp_path / "none")


def test_a_wrong_name_gets_the_nearest_right_one() -> None:
    assert "did you mean 'embedded'?" in refusal("embeded")


def test_a_folder_without_a_config_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert "has no config.json" in refusal(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_config_that_is_not_an_object_is_refused(checkpoint: Path, text: str) -> None:
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
        ('{"search": {"guidence": 1.5}}', "did you mean 'guidance'?"),
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


def test_cuda_is_refused_if_it_is_absent(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in refusal(checkpoint, device="cuda")


@pytest.mark.slow
def test_offsets_change_the_words_at_their_places_and_zeros_change_none(embedded: Janus) -> None:
    tasks = [Task(prompt="a photo of a red apple left of a blue clock"), Task(prompt="two dogs")]
    plain = write(embedded, *embedded.start(tasks))
    width = embedded.capabilities.width
    zeros = [torch.zeros(3, width), torch.zeros(0, width)]
    for text, same in zip(plain, write(embedded, *embedded.start(tasks), offsets=zeros), strict=True):
        assert text.tokens == same.tokens
    # Moved from the most probable word to another at position 1, it writes that word and continues after it.
    likely = embedded.text_logits(plain[0].hidden[1:2])[0].topk(2).indices
    head = embedded.network.lm_head.weight.float()
    push = torch.zeros(2, width)
    push[1] = 20 * (head[likely[1]] - head[likely[0]])
    states = embedded.start(tasks)
    moved, other = write(embedded, *states, offsets=[push, torch.zeros(0, width)])
    assert moved.tokens[:2] == (plain[0].tokens[0], int(likely[1])) and other.tokens == plain[1].tokens
    (follows,) = embedded.reason([TextRequest(TaskState(tasks[0]), moved.tokens[:2])])
    assert follows.tokens == moved.tokens
    torch.testing.assert_close(moved.hidden, follows.hidden, rtol=1e-3, atol=1e-3)  # the decoder's own states
    (alone,) = write(embedded, TaskState(tasks[0]), offsets=[push])
    assert alone.tokens == moved.tokens
    # A text with offsets is not cached as the model's own text.
    assert write(embedded, *states)[0].tokens == plain[0].tokens
    # Only some requests of a call may have offsets.
    mixed = write(embedded, *embedded.start(tasks), offsets=[push, None])
    assert [text.tokens for text in mixed] == [moved.tokens, plain[1].tokens]
