"""The tutorial's Python code, run as printed against a server with the embedded model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from milr.rewards import load_reward
from milr.serve.drawing import Loaded
from milr.serve.offers import make_offer
from tests.end_to_end.test_documents import BLOCKS, SERVED
from tests.serve.conftest import open_site


@pytest.mark.slow
def test_the_tutorial_draws_what_its_prompts_ask_for(
    embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The tutorial names no seed, so the server draws one: always the same one here, or what is printed would vary.
    monkeypatch.setattr("milr.serve.asked.secrets", SimpleNamespace(randbelow=lambda below: 0))
    offer = replace(make_offer("embedded"), load=lambda: Loaded(embedded, load_reward("icons"), {}))
    with open_site(tmp_path / "runs", [offer]) as site:
        exec(compile(BLOCKS[SERVED].replace("http://127.0.0.1:8000", site.url), SERVED, "exec"), {})
    with Image.open("cats.png") as image:
        assert image.width == embedded.capabilities.image_size
    printed = capsys.readouterr().out
    assert "'finished': 'met'" in printed
    assert printed.endswith("image_generation.partial_image 0.0\nimage_generation.completed 1.0\n")
