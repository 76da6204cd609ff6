"""The cases of `tests/cases`: inputs that once made such programs fail, run through milr's command."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.support.forks import ForkServer
from tests.support.paths import ROOT

CASES = ROOT / "tests" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/run.sh"))


def test_every_case_says_what_it_is_about() -> None:
    assert len(NAMES) >= 18
    assert not [name for name in NAMES if not (CASES / name / "README").read_text().strip()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_case_ends_as_its_readme_says(name: str, forks: ForkServer) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path = os.pathsep.join((str(forks.caller("milr", "milr").parent), os.environ["PATH"]))
    surroundings = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", CASES / name / "run.sh"], env=surroundings, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
