"""`milr info`: all names, their settings and JSON schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.methods import METHODS
from milr.settings import METHOD_SETTINGS, STRATEGIES, RunSettings, SamplingParams
from milr.tasks import OBJECT_NAMES, parse_prompt


def test_info_lists_everything_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {tuple(line.split()[:2]) for line in lines}
    assert {("models", "embedded"), ("rewards", "icons"), ("strategies", "joint"), ("methods", "parm")} <= listed
    assert {("gradients", "zero"), ("samplers", "inverse"), ("noises", "fixed")} <= listed
    (milr,) = (line for line in lines if line.split()[:2] == ["methods", "milr"])
    assert milr.endswith(f"[{', '.join(METHOD_SETTINGS['milr'].model_fields)}]")
    (one_shot,) = (line for line in lines if line.split()[:2] == ["methods", "one-shot"])
    assert "[" not in one_shot
    assert main(["info", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    kinds = set(known) - {"version", "settings", "embedded_model", "from_packages"}
    assert len(lines) == len(listed) == sum(len(known[kind]) for kind in kinds)
    assert Path(known["embedded_model"]).is_absolute()


def test_json_has_a_schema_for_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    schemas = json.loads(capsys.readouterr().out)["settings"]
    assert schemas.keys() == METHODS.keys()
    for method, schema in schemas.items():
        kinds = (METHOD_SETTINGS[method], SamplingParams, RunSettings)
        assert list(schema["properties"]) == [name for kind in kinds for name in kind.model_fields]
        assert all(field["description"] for field in schema["properties"].values())
    assert schemas["milr"]["properties"]["strategy"]["enum"] == list(STRATEGIES)
    assert "steps" not in schemas["one-shot"]["properties"]


def test_words_lists_the_words_that_prompts_may_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--words"]) == 0
    text = capsys.readouterr().out
    assert "in English" in text
    (phone, *_) = (line.split() for line in text.splitlines() if line.startswith("  cell phone "))
    assert {"phone,", "mobile,"} <= set(phone)
    assert main(["info", "--words", "--json"]) == 0
    tables = list(json.loads(capsys.readouterr().out).values())
    assert list(tables[0]) == list(OBJECT_NAMES)
    for table in tables[:2]:
        for name, words in table.items():
            for word in words:
                assert parse_prompt(f"a {word}").include[0].name == name, word
    for table in tables[4:6]:
        for joiner, words in table.items():
            for word in words:
                assert parse_prompt(f"a dog {word} a cat").prompt == f"a dog {joiner} a cat", word
    for word in tables[6]:
        assert parse_prompt(f"a {word} dog").prompt == "a dog", word
