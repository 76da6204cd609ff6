"""Makes `src/milr/assets/compbench/phrases.json`: what spaCy says of T2I-CompBench's 1,800 prompts.

Made once, in an environment of its own that holds nothing but spaCy, since its versions disagree about one prompt in
ten (see docs/t2i-compbench.md)::

    python training/compbench_phrases.py PROMPTS PIPELINE

PROMPTS is the folder of the benchmark's prompt files, PIPELINE the folder of a spaCy pipeline (the one with its
config.cfg), read by path so that no package's loader runs. The table holds no prompt: for each, the first sixteen
digits of its SHA-256, the list that it stands in, a letter a token (N noun, P proper noun, A adjective, "." other),
where each token begins and ends, and the first and last token of each noun phrase. A prompt that ends in a dot is there
without it as well, since many systems name their files so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "src" / "milr" / "assets" / "compbench" / "phrases.json"
LISTS = {
    "color_val": "color",
    "shape_val": "shape",
    "texture_val": "texture",
    "spatial_val": "spatial",
    "non_spatial_val": "non_spatial",
    "complex_val_spatial": "complex:spatial",
    "complex_val_action": "complex:action",
    "complex_val_spatialaction": "complex:spatialaction",
}
"""File -> the list as the table names it. The three complex files partition complex_val."""
OFFICIAL = "spaCy 3.5.3 with en_core_web_sm 3.5.0"
TAGS = {"NOUN": "N", "PROPN": "P", "ADJ": "A"}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the prompts, ask the pipeline, write the table."""
    import spacy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--out", type=Path, default=TABLE, help="default: the package's own table")
    given = parser.parse_args(argv)
    nlp = spacy.load(given.pipeline)
    rows: dict[str, list[Any]] = {}
    for file, name in LISTS.items():
        for prompt in read_prompts(given.prompts / f"{file}.txt"):
            for text in dict.fromkeys((prompt, prompt.rstrip("."))):
                if rows.setdefault(key_of(text), [name, *describe(nlp(text))])[0] != name:
                    raise SystemExit(f"{text!r} stands in {name} and in another list")
    made = {
        "spacy": spacy.__version__,
        "pipeline": f"{nlp.meta['lang']}_{nlp.meta['name']} {nlp.meta['version']}",
        "official": OFFICIAL,
        "python": platform.python_version(),
        "pipeline_files": {str(path.relative_to(given.pipeline)): hash_file(path) for path in files_of(given.pipeline)},
        "prompt_files": {f"{file}.txt": hash_file(given.prompts / f"{file}.txt") for file in LISTS},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(row, separators=(',', ':'))}" for key, row in sorted(rows.items())]
    text = '{"made": ' + json.dumps(made, indent=1) + ',\n"prompts": {\n' + ",\n".join(lines) + "\n}}\n"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(given.out)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one a line."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def describe(document: Any) -> tuple[str, list[int], list[int]]:
    """A parsed prompt as tags, starts and ends of tokens, first and last token of each noun phrase."""
    tags = "".join(TAGS.get(token.pos_, ".") for token in document)
    spans = [place for token in document for place in (token.idx, token.idx + len(token.text))]
    phrases = [place for chunk in document.noun_chunks for place in (chunk.start, chunk.end - 1)]
    return tags, spans, phrases


def key_of(prompt: str) -> str:
    """Sixteen hex digits of the prompt's SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hash_file(path: Path) -> str:
    """The file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
