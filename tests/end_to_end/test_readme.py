"""Every command of README.md, in order, in one folder, as a new user types them after installing.

A folder of small random weights replaces Janus-Pro, the CPU replaces CUDA, and the VLM server is local.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from milr.cli.main import main
from tests.support.janus_folders import tiny_sizes, write_deepseek
from tests.support.paths import ROOT
from tests.support.vlm_servers import JudgeServer, say

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) for line in block.splitlines()]
INSTALL = ["python3 -m venv .venv", "source .venv/bin/activate", "pip install ."]
SHORTER = {"generate": ["--steps", "1"], "benchmark": ["--steps", "1", "--limit", "2"]}


def test_readme_is_short_and_every_line_is_known() -> None:
    assert len(README.splitlines()) < 120
    assert LINES[:3] == INSTALL
    assert not [line for line in LINES if line not in INSTALL and not re.match(r"(make|milr) ", line)]
    assert sum(line.startswith("milr ") for line in LINES) >= 6


WORKFLOW = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
MADE = {line for line in LINES if line.startswith("make ")} | set(re.findall(r"run: (make [\w-]+)", WORKFLOW))


@pytest.mark.parametrize("line", sorted(MADE))
def test_make_has_every_documented_target(line: str) -> None:
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_of_all_documents_have_targets() -> None:
    found = {
        (path, link.partition("#")[0])
        for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")]
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
        if "://" not in link and not link.startswith("#")
    }
    assert len(found) > 40
    assert not [(str(path), link) for path, link in found if not (path.parent / link).exists()]


@pytest.mark.slow
def test_every_command_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Image.new("RGB", (160, 160), "white").save("best.png")  # made by the Python example, which test_documents.py runs
    with tiny_sizes(), JudgeServer(say("0")) as server:
        write_deepseek(Path("Janus-Pro-1B"))
        for line in LINES:
            if not line.startswith("milr "):
                continue
            here = line.replace("deepseek-community/Janus-Pro-1B", "./Janus-Pro-1B")
            here = here.replace("--device cuda", "--device cpu").replace("http://localhost:8000/v1", server.url)
            words = shlex.split(here)[1:]
            code = main([*words, *SHORTER.get(words[0], [])])
            printed = capsys.readouterr()
            # `self` cannot read the answers of random weights: all images are drawn and none is scored.
            unread = "Janus" in line and "--vlm-url" not in line and "no one Score in the answer" in printed.out
            assert code == (3 if unread else 0), f"{line}\n{printed.out}{printed.err}"
            assert printed.out
        assert server.asked
