"""The four example plug-ins, installed with milr's wheel in a separate environment, used from CLI and Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PLUGINS = {"milr-warmth": "reward", "milr-longest-text": "method", "milr-paper": "model", "milr-sunsets": "benchmark"}
PYTHON = """
import milr
from milr.cli.main import main
from pathlib import Path
drawn = ["--model", "paper", "--reward", "warmth", "--method", "longest-text", "--set", "texts=2", "--steps", "2"]
assert main(["generate", "a sunset", *drawn, "--stop-at", "1", "--json"]) == 0
searched = ["--model", "paper", "--steps", "3", "--evaluator", "warmth:left", "--out", "run"]
assert main(["benchmark", "sunsets", *searched]) == 0
model = milr.load_model("paper")
assert milr.load_benchmark("sunsets").prompts == 6
reward = milr.load_reward("warmth:left")
*_, last = milr.search("a sunset", model, reward, method="longest-text", texts=2, steps=2)
assert "site-packages" in milr.__file__ and Path(milr.__file__).is_relative_to(ENVIRONMENT), milr.__file__
assert last.best_score.reward == "warmth@1" and last.best_score.regions[0].name == "warm"
print("found", last.best_score.value)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new virtual environment with milr's wheel and the plug-ins, and this environment's dependencies."""
    root = tmp_path_factory.mktemp("plugins")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", root], cwd=ROOT, check=True)
    shutil.copytree(ROOT / "examples" / "plugins", root / "plugins")
    venv.create(root / "venv", symlinks=True)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", root / "venv" / "bin" / "python", "install", "--no-deps"]
    alone = ["--no-index", "--no-build-isolation", "--ignore-installed", "--quiet"]
    subprocess.run(
        [*install, *alone, *root.glob("milr-*.whl"), *(root / "plugins" / name for name in PLUGINS)], check=True
    )
    return root


def call(environment: Path, *words: str) -> str:
    """Run a program of the environment outside the repository; return its output."""
    done = subprocess.run(
        [environment / "venv" / "bin" / words[0], *words[1:]], cwd=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_plugins_work_beside_the_wheel(environment: Path) -> None:
    listed = json.loads(call(environment, "milr", "info", "--json"))["from_packages"]
    assert {entry["package"]: kind for kind, entries in listed.items() for entry in entries} == {
        f"{package} 1.0": f"{kind}s" for package, kind in PLUGINS.items()
    }
    said = call(environment, "python", "-c", f"ENVIRONMENT = {str(environment)!r}\n{PYTHON}")
    outcome, end = json.JSONDecoder().raw_decode(said)
    assert outcome["finished"] == "out of steps" and outcome["drawings"] == 3
    table = said[end:]
    assert "6 of 6 prompts" in table and "evaluated by warmth@1" in table
    assert "found 0." in table


@pytest.mark.slow
def test_each_example_plugin_keeps_its_contract(environment: Path) -> None:
    tests = [str(environment / "plugins" / name / "test_contract.py") for name in PLUGINS]
    assert "4 passed" in call(environment, "python", "-m", "pytest", "-q", "--import-mode=importlib", *tests)
