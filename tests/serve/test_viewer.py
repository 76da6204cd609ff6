"""A run in one file: the page's own viewer, which sends no request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from milr.cli.main import main
from milr.serve.viewer import MODULES, PAGE, bundle
from tests.serve.conftest import Site


def write_viewer(site: Site, file: Path) -> dict[str, Any]:
    """Write a run of two prompts as a file; return what it holds."""
    search = site.search("</script><b>two dogs", "an easy cat", method="milr", settings={"steps": 2, "seed": 5})
    assert site.result(search)["state"] == "finished"
    assert main(["report", str(site.settings.data / search), "--viewer", "--out", str(file)]) == 0
    (data,) = re.findall(r'<script id="run" type="application/json">(.*?)</script>', file.read_text(), re.S)
    return json.loads(data)


def test_a_run_is_one_file_with_the_pages_viewer(site: Site, tmp_path: Path) -> None:
    held = write_viewer(site, tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text()
    assert [(one["task"], one["step"]) for one in held["steps"]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    wanted = {image["url"] for step in held["steps"] for image in [*step["images"], step["best"]]}
    assert wanted == held["files"].keys() and len(wanted) == 4
    assert all(url.startswith("data:image/webp;base64,") for url in held["files"].values())
    assert held["steps"][-1]["panel"]["bright"]["best"] is not None, "the evaluator that only watches"
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count("</script>") == 2 and "<b>two" not in text
    assert (PAGE / "chart.js").read_text().partition("export function")[2] in text, "the page's own code"


def test_the_modules_are_bundled_without_duplicate_names() -> None:
    code = bundle()
    assert not re.search(r"^(import|export)\b", code, re.M)
    names = re.findall(r"^(?:async )?(?:const|let|function|class)\*? (\w+)", code, re.M)
    names += [name for found in re.findall(r"^const \{(.*?)\} =", code, re.M) for name in found.split(", ")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    for name in MODULES:  # what a module imports comes before it
        for other in re.findall(r'from "\./(\w+\.js)"', (PAGE / name).read_text()):
            other = other.replace("api.js", "offline.js")
            assert MODULES.index(other) < MODULES.index(name)


def test_invalid_viewer_options_are_refused(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(site.settings.data / site.search("an easy cat"))
    for words, told in (
        ([run, "--viewer"], "add --out run.html"),
        ([run, run, "--viewer", "--out", "x.html"], "--viewer shows one run, and 2 are given"),
        ([str(tmp_path), "--viewer", "--out", "x.html"], "no run"),
    ):
        assert main(["report", *words]) == 2
        assert told in capsys.readouterr().err
