"""Commands that are killed (SIGKILL) at random moments and resumed give the results of commands that were not.

`test_walks` kills at every change of a file; here a process of its own is killed after a random time.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from milr.runs import read_run
from milr.runs.schema import StoredStep
from tests.robustness.rounds import ROUNDS
from tests.robustness.test_walks import content
from tests.support.forks import ForkServer
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks")]
KILLS = 5 * ROUNDS
"""Number of kills in the middle of a run, over all commands; `make fuzz` has 50."""
FAKE = "tests.support.fake_benchmark"
PROMPTS = ("two dogs", "a red apple", "a cat", "a green clock", "two dogs", "a bird above a car")
COMMANDS: Sequence[tuple[str, Sequence[str]]] = (
    # the program, and its words
    (FAKE, ("generate", *PROMPTS, "--method", "milr", "--steps", "6", "--batch-size", "2")),
    (FAKE, ("benchmark", "icons", "--limit", "12", "--steps", "4", "--method", "best-of-n", "--evaluator", "icons")),
    (FAKE, ("generate", *PROMPTS, "--method", "reflection", "--steps", "9", "--batch-size", "3")),
    (FAKE, ("benchmark", "icons", "--limit", "12", "--steps", "4", "--images-per-prompt", "2", "--evaluator", "icons")),
    (FAKE, ("generate", *PROMPTS, "--method", "consensus", "--steps", "6", "--seed", "4")),
    (FAKE, ("benchmark", "icons", "--limit", "12", "--method", "parm", "--steps", "6")),
    ("milr", ("generate", *PROMPTS[:3], "--model", "embedded-small", "--method", "milr", "--steps", "2")),
)


def split(found: object) -> tuple[object, list[float]]:
    """Return all that must be equal, and the numbers of latents: their update is one computation of all tasks.

    A kill gives a task other neighbours, and sums of floats depend on their order.
    """
    notes, tasks, *rest = found  # type: ignore[misc]
    numbers: list[float] = []
    for steps in tasks:
        for place, step in enumerate(steps):
            assert isinstance(step, StoredStep)
            if step.trace is not None:
                numbers += [step.trace.text_shift, step.trace.image_shift, step.trace.log_probability or 0.0]
                numbers += [shift for _, shift in step.trace.text_shifts]
                trace = replace(step.trace, text_shift=0.0, image_shift=0.0, log_probability=None, text_shifts=())
                steps[place] = step.model_copy(update={"trace": trace})
    return (notes, tasks, *rest), numbers


def test_25_and_more_kills_at_random_moments_change_nothing(
    tmp_path: Path, forks: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(25)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}"}
    programs = {module: str(forks.caller(f"kill-{module}", module)) for module in (FAKE, "milr")}

    def start(module: str, words: Sequence[str], seconds: float | None = None) -> bool:
        """Run a command, or kill it after some seconds; return true if it was killed."""
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen([programs[module], *words], env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
            try:
                _, said = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()  # it has ended only when its streams are closed
                return True
        assert process.returncode == 0, said
        return False

    whole: dict[int, tuple[object, list[float], float]] = {}
    inside: dict[str, int] = {}
    before = number = 0
    while sum(inside.values()) < KILLS:
        place = number % len(COMMANDS)
        module, words = COMMANDS[place]
        if place not in whole:
            began = time.monotonic()
            start(module, [*words, "--out", str(tmp_path / f"whole-{place}")])
            whole[place] = *split(content(tmp_path / f"whole-{place}")), time.monotonic() - began
        expected, numbers, seconds = whole[place]
        folder, number = tmp_path / f"run-{number}", number + 1
        for _ in range(3):
            there = (folder / "run.json").exists()
            again = [words[0], "--resume", str(folder)] if there else [*words, "--out", str(folder)]
            if not start(module, again, dice.uniform(0, seconds)):
                break
            if (folder / "run.json").exists():
                method = f"{words[0]} {read_run(folder).manifest.method}"
                inside[method] = inside.get(method, 0) + 1
            else:
                before += 1
        there = (folder / "run.json").exists()
        if not (there and read_run(folder).manifest.status == "finished"):
            start(module, [words[0], "--resume", str(folder)] if there else [*words, "--out", str(folder)])
        found, found_numbers = split(content(folder))
        assert found == expected, (number, words)
        assert found_numbers == pytest.approx(numbers, rel=1e-6, abs=1e-6), (number, words)
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{sum(inside.values())} kills inside a run ({inside}), {before} before its manifest")
