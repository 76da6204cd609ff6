"""Prompt profiles: what each checkpoint is told, token by token, and how its profile is recognised."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from milr.errors import UsageError
from milr.models.checkpoint import Checkpoint, open_checkpoint
from milr.models.prompts import PROFILES, Prompts, recognise_profile
from milr.types import Reasoning
from tests.support.janus_folders import tiny_sizes, write_settings
from tests.support.plain_janus import TINY

ASKED = "a photo of two dogs"


def checkpoint(folder: Path, profile: str | None = None) -> Checkpoint:
    write_settings(folder)
    with tiny_sizes():
        return open_checkpoint(folder, profile=profile, weights=False)


@pytest.fixture
def speaker(tmp_path: Path):
    def make(profile: str) -> tuple[Prompts, object]:
        tokenizer = checkpoint(tmp_path / profile, profile).load_tokenizer()
        return Prompts(PROFILES[profile], tokenizer), tokenizer

    return make


def said(speaker, profile: str, reasoning: str | None = None) -> tuple[str, str, str]:
    """The reasoning prompt, the drawing prompt after a reasoning, and the plain one, as text."""
    prompts, tokenizer = speaker(profile)
    tokens = tuple(tokenizer(reasoning, add_special_tokens=False)["input_ids"])
    thought = Reasoning(reasoning.strip(), tokens)
    ids = prompts.reasoning(ASKED), prompts.drawing(ASKED, thought), prompts.drawing(ASKED, None)
    begin, start = tokenizer.bos_token, tokenizer.boi_token
    texts = [tokenizer.decode(one) for one in ids]
    assert all(text.startswith(begin) for text in texts)
    assert all(text.endswith(start) for text in texts[1:])
    asked, drawn, plain = (text.removeprefix(begin) for text in texts)
    return asked, drawn.removesuffix(start), plain.removesuffix(start)


@pytest.mark.parametrize("profile", ["janus-pro", "t2i-r1"])
def test_two_passes_put_the_words_into_a_new_prompt(speaker, profile: str) -> None:
    asked, drawn, plain = said(speaker, profile, " Two brown dogs.")
    assert asked.startswith("You are a helpful assistant that receives an image prompt and generate a visualization")
    assert f'\n\nUser: You are asked to generate an image based on this prompt: "{ASKED}"\n' in asked
    assert asked.endswith("without explanation:\n\nAssistant:")
    assert drawn == f"User: {ASKED}.  Two brown dogs.\n\nAssistant:"  # the blank that was written stays
    user, assistant = ("<|User|>", "<|Assistant|>") if profile == "janus-pro" else ("User", "Assistant")
    assert plain == f"{user}: {ASKED}\n\n{assistant}:"


def test_got_r1_draws_in_the_same_context(speaker) -> None:
    chain = " <|obj_start|>dog<|obj_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    asked, drawn, plain = said(speaker, "got-r1", chain)
    words = f"Follow the caption to generate an image through a chain of thought process: {ASKED}"
    assert asked == f"User: {words}\n\nAssistant:"
    assert drawn == asked + chain
    assert plain == f"User: {ASKED}\n\nAssistant:"


def test_got_r1_has_four_tokens_more_in_their_order(speaker) -> None:
    _, tokenizer = speaker("got-r1")
    _, other = speaker("janus-pro")
    ids = tokenizer.convert_tokens_to_ids(["<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>"])
    assert ids == list(range(len(other), len(other) + 4))
    assert "<|obj_start|>dog" in tokenizer.decode(
        tokenizer("<|obj_start|>dog", add_special_tokens=False)["input_ids"], skip_special_tokens=True
    )


def test_reasongen_r1_cuts_the_photo_and_draws_in_the_same_context(speaker) -> None:
    asked, drawn, plain = said(speaker, "reasongen-r1", " A warm scene.")
    assert asked == "<|User|>: A photo of two dogs. Output a richly detailed prompt:\n\n<|Assistant|>:"
    assert drawn == asked + " A warm scene."
    assert plain == "<|User|>: A photo of two dogs.\n\n<|Assistant|>:"


def test_one_pass_goes_on_from_the_very_tokens(speaker) -> None:
    """Not from their words: those could be split in another way."""
    prompts, _ = speaker("reasongen-r1")
    tokens = (5, 5, 7, 7)
    assert prompts.drawing(ASKED, Reasoning("words", tokens)) == [
        *prompts.reasoning(ASKED),
        *tokens,
        prompts.image_start,
    ]


def test_what_ends_a_reasoning(speaker) -> None:
    for profile, ends in (("janus-pro", "end"), ("got-r1", "image"), ("reasongen-r1", "end image")):
        prompts, tokenizer = speaker(profile)
        marks = {"end": tokenizer.eos_token_id, "image": tokenizer.boi_token_id}
        assert prompts.ends == {marks[name] for name in ends.split()}
        end = next(iter(prompts.ends))
        assert prompts.up_to_end([1, 2, end, 3]) == [1, 2, end]
        assert prompts.without_end([1, 2, end]) == [1, 2] == prompts.without_end([1, 2])


def test_braces_in_a_prompt_are_words(speaker) -> None:
    prompts, tokenizer = speaker("janus-pro")
    assert "{reasoning} {0}" in tokenizer.decode(prompts.drawing("{reasoning} {0}", Reasoning("x", ())))


@pytest.mark.parametrize(
    ("names", "tokens", "expected"),
    [
        (["models--CaraJ--T2I-R1", "snapshots", "12ab"], [], "t2i-r1"),
        (["GoT_R1-7B"], [], "got-r1"),
        (["ReasonGen-R1-SFT"], [], "reasongen-r1"),
        (["Janus-Pro-7B"], [], "janus-pro"),
        (["my-model"], ["<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>"], "got-r1"),
        (["my-model"], ["<|box_start|>"], "janus-pro"),
        ([], [], "janus-pro"),
    ],
)
def test_a_profile_is_recognised(names: list[str], tokens: list[str], expected: str) -> None:
    assert recognise_profile(names, tokens) == expected


def test_what_is_asked_for_goes_before_the_settings_and_those_before_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "T2I-R1"
    assert checkpoint(folder).profile_name == "t2i-r1"
    (folder / "milr.json").write_text('{"profile": "got-r1"}')
    found = checkpoint(folder)
    assert (found.profile_name, found.capabilities.passes) == ("got-r1", 1)
    assert checkpoint(folder, "janus-pro").profile_name == "janus-pro"
    with pytest.raises(UsageError, match="did you mean 'got-r1'"):
        checkpoint(folder, "gotr1")


def test_added_tokens_need_room(tmp_path: Path) -> None:
    write_settings(tmp_path, SimpleNamespace(**{**vars(TINY), "words": 268}))
    with tiny_sizes():
        found = open_checkpoint(tmp_path, profile="got-r1", weights=False)
    with pytest.raises(UsageError, match="has room for 268"):
        found.load_tokenizer()
