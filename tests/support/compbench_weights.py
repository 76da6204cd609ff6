"""Tiny random weights in the real classes and file formats, for the scorers of T2I-CompBench and the mixed reward."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = (
    *("a", "an", "the", "red", "blue", "green", "big", "small", "bench", "bowl", "cat", "dog", "plastic", "toy"),
    *("glass", "bottle", "giraffe", "lamp", "is", "this", "are", "there", "two", "s", "left", "right", "on", "of"),
    *("and", "next", "to", "near", "traffic", "light", "stop", "sign", "person", "bed", "clock", "apple"),
)
VOCABULARY = 3098
"""Write a vocabulary; BLIP's two own tokens come after it."""
LABELS = (
    "key,oid_freebase,oid_name,objects365_name,coco_name,mapillary_name\n"
    "Giraffe_giraffe_giraffe,/m/1,Giraffe,giraffe,giraffe,\n"
    "_lamp_,,,lamp,,\n"
    "Table_desk_,/m/2,Table,desk,,\n"
    "Person_person_person,/m/3,Person,person,person,human--person\n"
    "Frog__,/m/4,Frog,,,\n"
)


def write_bert_vocabulary(folder: Path) -> None:
    """Write a vocab.txt with the special tokens at the positions of bert-base-uncased, and some words."""
    tokens = [f"[unused{i}]" for i in range(VOCABULARY)]
    places = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    places |= {2748: "yes", 2053: "no"} | {1100 + i: word for i, word in enumerate(WORDS)}
    for place, token in places.items():
        tokens[place] = token
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def write_clip_vocabulary(folder: Path) -> int:
    """Write CLIP's vocab.json and merges.txt with single letters only; return the number of tokens."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(tokens)


def make_blip_config():
    """Return a tiny version of the converter's config: 32 pixels, width 16."""
    from transformers import BlipConfig

    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BlipConfig(
        text_config={
            **sizes,
            "encoder_hidden_size": 16,
            "vocab_size": VOCABULARY + 2,
            "bos_token_id": VOCABULARY,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6},
        tie_word_embeddings=False,
    )


def write_clip(folder: Path, *, owl: bool = False) -> None:
    """Write a CLIP of 32 pixels, or an OWLv2 of 32 pixels and sixteen text positions."""
    from transformers import CLIPConfig, CLIPModel, Owlv2Config, Owlv2ForObjectDetection

    count = write_clip_vocabulary(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1}
    text = {**sizes, **ids, "vocab_size": count, "max_position_embeddings": 16 if owl else 77}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(3)
    made, config = (Owlv2ForObjectDetection, Owlv2Config) if owl else (CLIPModel, CLIPConfig)
    made(config(text_config=text, vision_config=vision, projection_dim=16)).eval().save_pretrained(folder)


def write_git(folder: Path) -> None:
    """Write a GIT of 28 pixels."""
    from transformers import GitConfig, GitForCausalLM

    write_bert_vocabulary(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(4)
    config = GitConfig(vision_config={**sizes, "image_size": 28, "patch_size": 14}, **sizes, vocab_size=VOCABULARY + 2)
    GitForCausalLM(config).eval().save_pretrained(folder)


def write_grounding_dino(folder: Path) -> None:
    """Write a GroundingDINO of width 32."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    write_bert_vocabulary(folder)
    torch.manual_seed(5)
    swin = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=VOCABULARY + 2
    )
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=text,
        num_queries=20,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        max_text_len=32,
    )
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
