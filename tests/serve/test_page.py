"""The page is complete, needs this server only, obeys its own security policy, and starts in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from milr.serve.front import FOLDER
from tests.serve.conftest import Site

FILES = sorted(FOLDER.iterdir())


def test_every_part_of_the_page_is_served(site: Site) -> None:
    assert site.http.get("/").content == (FOLDER / "index.html").read_bytes()
    for file in FILES:
        response = site.http.get(f"/page/{file.name}")
        assert response.content == file.read_bytes() and response.headers["cache-control"] == "no-cache"
    for name in ("none.js", "..%2fapp.py", "%2e%2e/app.py"):
        assert site.http.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_part_needs_no_other_server_and_obeys_the_security_policy(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    for target in re.findall(r"from \"(.+?)\"", text):
        assert (FOLDER / target).is_file()
    assert "innerHTML" not in text and "eval(" not in text and "style=" not in text
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=\"", text)


@pytest.mark.slow
@pytest.mark.parametrize(("view", "shown"), [("watch", "Watch a search"), ("race", "The race"), ("runs", "Runs")])
def test_a_view_opens_in_a_browser_without_a_fault(site: Site, tmp_path: Path, view: str, shown: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    site.result(site.search("an easy cat"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", f"{site.url}/#/{view}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert f"<h2>{shown}</h2>" in done.stdout and "Loading" not in done.stdout
    assert ":CONSOLE" not in done.stderr, done.stderr
