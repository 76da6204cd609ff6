"""Tokenizers of rewards read a prompt as plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from milr.rewards.pretrained import load_tokenizer


@pytest.mark.parametrize("name", ["BertTokenizer", "CLIPTokenizer"])
def test_a_prompt_injects_no_special_token(name: str, tmp_path: Path) -> None:
    kind = getattr(pytest.importorskip("transformers"), name)
    if name == "BertTokenizer":
        marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        (tmp_path / "vocab.txt").write_text("\n".join([*marks, "a", "dog", "[", "]", "sep", "mask", "cls"]) + "\n")
    else:
        marks = ["<|startoftext|>", "<|endoftext|>"]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = [*alphabet, *(letter + "</w>" for letter in alphabet), *marks]
        (tmp_path / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = load_tokenizer(kind, tmp_path, "way out")
    plain = tokenizer("a dog")["input_ids"]
    attacked = tokenizer(f"a {' '.join(marks)} dog")["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert [one for one in attacked if one in special] == [one for one in plain if one in special] != []
    assert len(attacked) > len(plain) + len(marks)  # each of them is spelled out
