"""Evaluators in WISE's form with our own words, because WISE's may not be distributed."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from milr.sources import SOURCES

PROGRAM = '''"""Never run: only read."""
raise SystemExit("nobody runs this")


def build(prompt_data, image_base64):
    return [
        {{"role": "system", "content": [{{"type": "text", "text": "You look at pictures for {name}."}}]}},
        {{
            "role": "user",
            "content": [
                {{
                    "type": "text",
                    "text": f"""Say what {name} wants to know, in {{{{braces}}}} or not.\\\\n
PROMPT: "{{prompt_data['Prompt']}}"
EXPLANATION: "{{prompt_data['Explanation']}}"
That is all.""",
                }},
                {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{image_base64}}"}}}},
            ],
        }},
    ]
'''

GENEVAL2 = """raise SystemExit("nobody runs this")

def score(question, answer):
    return send("{} {}".format(answer, "x"), '{} One word, please.'.format(question))
"""
COREBENCH = """raise SystemExit("nobody runs this")
TEMPLATE = "You tick boxes, {yes} or {no}."
for METADATA in ():
    TEXT = f'For "{METADATA["Prompt"]}": {QUESTION["question"]}'
"""


def use_made_up_words(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put them where `milr data get` puts the official ones, and accept them in their place."""
    patch.setenv("MILR_DATA", str(folder))
    programs = {name: PROGRAM.format(name=name) for name in ("wise", "wise-legacy")}
    for name, program in {**programs, "geneval2": GENEVAL2, "t2i-corebench": COREBENCH}.items():
        source = SOURCES[name]
        assert source.judge is not None
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / source.judge.name).write_text(program, encoding="utf-8")
        known = replace(source.judge, sha256=sha256(program.encode()).hexdigest())
        patch.setitem(SOURCES, name, replace(source, judge=known))  # type: ignore[misc]
