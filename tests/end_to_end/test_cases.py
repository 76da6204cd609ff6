"""The cases of `tests/cases`: inputs that people have reported of such programs, through the real command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CASES = ROOT / "tests" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/run.sh"))


def test_every_case_says_what_it_is_about() -> None:
    assert len(NAMES) >= 19
    assert not [name for name in NAMES if not (CASES / name / "README").read_text().strip()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_case_ends_as_its_readme_says(name: str) -> None:
    milr = Path(sys.executable).with_name("milr")
    if shutil.which("bash") is None or not milr.is_file():
        pytest.skip(f"needs bash, and milr beside {sys.executable}: make setup installs it")
    path = os.pathsep.join((str(milr.parent), os.environ["PATH"]))
    surroundings = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", CASES / name / "run.sh"], env=surroundings, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
