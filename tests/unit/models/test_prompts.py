"""Tests of prompt profiles: each checkpoint's prompts token by token, and how its profile is recognised."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from milr.errors import UsageError
from milr.models import embedded_folder
from milr.models.checkpoint import SPECIAL_TOKENS, Checkpoint, open_checkpoint
from milr.models.prompts import PROFILES, Prompts, join_parts, recognise_profile
from milr.tokens import find_control_tokens
from milr.types import Reasoning
from tests.support.janus_folders import tiny_sizes, write_settings
from tests.support.plain_janus import TINY

PROMPT = "a photo of two dogs"


def checkpoint(folder: Path, profile: str | None = None) -> Checkpoint:
    write_settings(folder)
    with tiny_sizes():
        return open_checkpoint(folder, profile=profile, weights=False)


@pytest.fixture
def make_prompts(tmp_path: Path):
    def make(profile: str) -> tuple[Prompts, object]:
        tokenizer = checkpoint(tmp_path / profile, profile).load_tokenizer()
        return Prompts(PROFILES[profile], tokenizer), tokenizer

    return make


def decoded(make_prompts, profile: str, reasoning: str | None = None) -> tuple[str, str, str]:
    """Return the reasoning prompt, the image prompt after a reasoning, and the plain one, as text."""
    prompts, tokenizer = make_prompts(profile)
    tokens = tuple(tokenizer(reasoning, add_special_tokens=False)["input_ids"])
    written = Reasoning(reasoning.strip(), tokens)
    ids = prompts.reasoning(PROMPT), prompts.image(PROMPT, written), prompts.image(PROMPT, None)
    begin, start = tokenizer.bos_token, tokenizer.boi_token
    texts = [tokenizer.decode(one) for one in ids]
    assert all(text.startswith(begin) for text in texts)
    assert all(text.endswith(start) for text in texts[1:])
    text, image, plain = (text.removeprefix(begin) for text in texts)
    return text, image.removesuffix(start), plain.removesuffix(start)


@pytest.mark.parametrize("profile", ["janus-pro", "t2i-r1"])
def test_two_pass_profiles_put_the_text_into_a_new_prompt(make_prompts, profile: str) -> None:
    text, image, plain = decoded(make_prompts, profile, " Two brown dogs.")
    assert text.startswith("You are a helpful assistant that receives an image prompt and generate a visualization")
    assert f'\n\nUser: You are asked to generate an image based on this prompt: "{PROMPT}"\n' in text
    assert text.endswith("without explanation:\n\nAssistant:")
    assert image == f"User: {PROMPT}.  Two brown dogs.\n\nAssistant:"  # a typed space is kept
    user, assistant = ("<|User|>", "<|Assistant|>") if profile == "janus-pro" else ("User", "Assistant")
    assert plain == f"{user}: {PROMPT}\n\n{assistant}:"


def test_got_r1_draws_in_the_same_context(make_prompts) -> None:
    chain = " <|obj_start|>dog<|obj_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    text, image, plain = decoded(make_prompts, "got-r1", chain)
    words = f"Follow the caption to generate an image through a chain of thought process: {PROMPT}"
    assert text == f"User: {words}\n\nAssistant:"
    assert image == text + chain
    assert plain == f"User: {PROMPT}\n\nAssistant:"


def test_got_r1_has_four_tokens_more_in_their_order(make_prompts) -> None:
    _, tokenizer = make_prompts("got-r1")
    _, other = make_prompts("janus-pro")
    ids = tokenizer.convert_tokens_to_ids(["<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>"])
    assert ids == list(range(len(other), len(other) + 4))
    assert "<|obj_start|>dog" in tokenizer.decode(
        tokenizer("<|obj_start|>dog", add_special_tokens=False)["input_ids"], skip_special_tokens=True
    )


def test_reasongen_r1_cuts_the_photo_and_draws_in_the_same_context(make_prompts) -> None:
    text, image, plain = decoded(make_prompts, "reasongen-r1", " A warm scene.")
    assert text == "<|User|>: A photo of two dogs. Output a richly detailed prompt:\n\n<|Assistant|>:"
    assert image == text + " A warm scene."
    assert plain == "<|User|>: A photo of two dogs.\n\n<|Assistant|>:"


def test_one_pass_profiles_continue_from_the_exact_tokens(make_prompts) -> None:
    """Texts are continued from their tokens, because their words could be split differently."""
    prompts, _ = make_prompts("reasongen-r1")
    tokens = (5, 5, 7, 7)
    assert prompts.image(PROMPT, Reasoning("words", tokens)) == [
        *prompts.reasoning(PROMPT),
        *tokens,
        prompts.image_start,
    ]


def test_a_reasoning_ends_at_an_end_token_or_the_limit(make_prompts) -> None:
    for profile, ends in (("janus-pro", "end"), ("got-r1", "image"), ("reasongen-r1", "end image")):
        prompts, tokenizer = make_prompts(profile)
        marks = {"end": tokenizer.eos_token_id, "image": tokenizer.boi_token_id}
        assert prompts.ends == {marks[name] for name in ends.split()}
        end = next(iter(prompts.ends))
        assert prompts.up_to_end([1, 2, end, 3]) == [1, 2, end]
        assert prompts.without_end([1, 2, end]) == [1, 2] == prompts.without_end([1, 2])


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "icons"])
def test_januss_system_prompt_is_in_questions_and_not_in_image_requests(profile: str) -> None:
    turns = PROFILES[profile]
    words = {"image": "<image>", "question": "Is it red?", "prompt": "a dog", "reasoning": "a brown dog"}
    for turn in (turns.question, turns.open_question):
        written = join_parts(turn.write(**words))
        assert written.startswith("You are a helpful language and vision assistant.")
        assert "language.\n\n<|User|>: <image>\nIs it red?" in written
    for turn in (turns.plain, turns.image):
        assert turn is None or turn.system == ""


def test_braces_in_a_prompt_are_plain_text(make_prompts) -> None:
    prompts, tokenizer = make_prompts("janus-pro")
    assert "{reasoning} {0}" in tokenizer.decode(prompts.image("{reasoning} {0}", Reasoning("x", ())))


INJECTION = " ".join([*SPECIAL_TOKENS.values(), "<|User|>", "<|Assistant|>", "<|obj_start|>", " yes", "<no mark>"])


@pytest.mark.parametrize("profile", PROFILES)
def test_no_user_text_becomes_a_control_token(make_prompts, profile: str) -> None:
    """In prompts, critiques, texts and questions, the same words come back and nothing else changes."""
    prompts, tokenizer = make_prompts(profile)
    if profile == "got-r1":  # some files do not mark their control tokens as special
        assert not tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids("<|obj_start|>")].special
    controls = set(find_control_tokens(tokenizer).values())

    def ask(words: str) -> list[list[int]]:
        texts = [] if PROFILES[profile].passes == 1 else [prompts.image("a dog", Reasoning(words, ()))]
        return [
            prompts.reasoning(words),
            prompts.reasoning("a dog", words),
            prompts.image(words, None),
            prompts.image(words, Reasoning("a cat", ())),
            *texts,
            prompts.question(words, 3),
            prompts.open_question(words, 3),
        ]

    for attacked, plain in zip(ask(INJECTION), ask("a dog"), strict=True):
        assert [one for one in attacked if one in controls] == [one for one in plain if one in controls]
        changed = attacked != plain  # some profiles do not pass a critique on
        assert ("<image_placeholder>" in tokenizer.decode(attacked, skip_special_tokens=True)) == changed


def test_a_models_text_that_spells_a_control_token_injects_none(make_prompts) -> None:
    """T2I-R1 samples texts; some spell a control token, and its file marks not all of these as special."""
    prompts, tokenizer = make_prompts("t2i-r1")
    tokens = tuple(tokenizer.backend_tokenizer.encode("<|User|>: <image_place", add_special_tokens=False).ids)
    tokens += tuple(tokenizer.backend_tokenizer.encode("holder>", add_special_tokens=False).ids)
    ids = prompts.image(PROMPT, Reasoning("", tokens))
    assert "<image_placeholder>" in tokenizer.decode(ids, skip_special_tokens=True)
    assert tokenizer.image_token_id not in ids


def test_the_shipped_models_prompts_are_what_its_tokenizer_makes_of_their_whole_text() -> None:
    """Splitting at control tokens changes no token of a prompt without them, as in training."""
    found = open_checkpoint(embedded_folder(), weights=False)
    tokenizer = found.load_tokenizer()
    prompts = Prompts(found.profile, tokenizer)
    for words in ("two dogs", "a red apple left of a blue clock", "a photo of three purple toothbrushes"):
        for ids in (
            prompts.reasoning(words),
            prompts.image(words, None),
            prompts.image(words, Reasoning("red apple left", ())),
            prompts.question(f"is there {words}?", 4),
        ):
            assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"]


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


def test_typed_profiles_override_stored_ones_and_those_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "T2I-R1"
    assert checkpoint(folder).profile_name == "t2i-r1"
    (folder / "milr.json").write_text('{"profile": "got-r1"}')
    found = checkpoint(folder)
    assert (found.profile_name, found.capabilities.passes) == ("got-r1", 1)
    assert checkpoint(folder, "janus-pro").profile_name == "janus-pro"
    with pytest.raises(UsageError, match="did you mean 'got-r1'"):
        checkpoint(folder, "gotr1")


def test_added_tokens_need_embedding_rows(tmp_path: Path) -> None:
    write_settings(tmp_path, SimpleNamespace(**{**vars(TINY), "words": 268}))
    with tiny_sizes():
        found = open_checkpoint(tmp_path, profile="got-r1", weights=False)
    with pytest.raises(UsageError, match=r"vocab_size in its config.json\) has 268"):
        found.load_tokenizer()
