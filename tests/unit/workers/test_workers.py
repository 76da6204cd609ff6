"""Workers: a run is the same for any number of them, and whatever happens to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from milr.cli.status import describe
from milr.errors import MilrError, UsageError
from milr.jobs import Job, begin_run, resume_run
from milr.models.devices import Placement
from milr.parts import Names
from milr.runs import read_manifest, read_run
from milr.runs.layout import RECORDS
from milr.runs.strip_images import StripImages
from milr.tasks import tasks_from_prompts
from milr.workers import WorkerChoice, load_team, read_workers
from milr.workers.choice import make_backend
from milr.workers.processes import Processes
from tests.support.worker_parts import LOADER, load

PROMPTS = ("two dogs", "a red apple", "two dogs", "three cats", "fog")
SETTINGS = {"steps": 3, "batch_size": 2, "seed": 4, "stop_at": 1.0}
METHODS = ("milr", "grid-prune")
PERILOUS = "tests.support.worker_parts:Perilous"


def make_job(folder: Path, choice: WorkerChoice | None, names: Names, prompts: Sequence[str], **more: Any) -> Job:
    given = {**SETTINGS, **more}
    if names.method == "grid-prune":
        del given["seed"]
    parts = load(names) if choice is None else load_team(names, Placement(), choice, settings=given)
    tasks = tasks_from_prompts(prompts, free=True)
    settings = parts.model.settings(names.method, **given)
    writer = begin_run(folder, tasks, settings, parts, names, Placement(), images_per_prompt=2, deterministic=True)
    return Job(parts, writer)


def answers(folder: Path) -> list[Any]:
    """Return everything of a run but its times: the records of each task, and the bytes of all its other files."""
    run = read_run(folder)
    assert not run.damaged
    return [
        (
            task.index,
            task.image,
            [step.model_dump(exclude={"seconds"}) for step in task.steps],
            {
                str(file.relative_to(task.folder)): file.read_bytes()
                for file in task.folder.rglob("*")
                if file.is_file() and file.name != RECORDS
            },
        )
        for task in run.tasks
    ]


def whole(folder: Path, names: Names, prompts: Sequence[str] = PROMPTS, **more: Any) -> list[Any]:
    list(make_job(folder, None, names, prompts, **more).run())
    return answers(folder)


NAMES = {method: Names("fake", "icons", method, None, "icons-judge", ("icons-soft",)) for method in METHODS}


@pytest.mark.slow  # each worker imports torch
@pytest.mark.parametrize(("many", "method"), [(1, "milr"), (2, "milr"), (3, "grid-prune")])
def test_a_run_is_the_same_for_any_number_of_processes(
    many: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if many != 1:  # a process of its own, as users have it, once
        request.getfixturevalue("forked_python")
    job = make_job(tmp_path / "spread", WorkerChoice(many, loader=LOADER), NAMES[method], PROMPTS)
    with monkeypatch.context() as patch:
        patch.delattr(StripImages, "draw")  # workers draw the strips, in their own processes
        records = list(job.run())
    assert answers(tmp_path / "spread") == whole(tmp_path / "one", NAMES[method])
    assert len(answers(tmp_path / "spread")) == 2 * len(PROMPTS) and len(records) >= 4 * len(PROMPTS)
    session = read_manifest(tmp_path / "spread").sessions[-1]
    assert session.machine["workers"] == many and session.machine["backend"] == "processes"
    assert job.parts.report()[0].startswith("workers:") and len(job.parts.report()) == many + 1


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_tasks_of_a_worker_that_dies_continue_from_their_last_step(tmp_path: Path) -> None:
    names, prompts = Names("fake", PERILOUS, "milr"), [*PROMPTS, f"once {tmp_path / 'dead'}"]
    job = make_job(tmp_path / "spread", WorkerChoice(2, loader=LOADER), names, prompts)
    list(job.run())
    assert (tmp_path / "dead").exists() and not job.set_aside
    assert answers(tmp_path / "spread") == whole(tmp_path / "one", names, prompts)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_tasks_that_fail_twice_are_set_aside_and_the_run_ends_with_all_others(tmp_path: Path) -> None:
    names, prompts = Names("fake", PERILOUS, "best-of-n"), ["a poison", "two dogs", "a fault", "fog"]
    job = make_job(tmp_path / "run", WorkerChoice(1, loader=LOADER), names, prompts)
    list(job.run())
    assert {index for index, _ in job.set_aside} == {0, 2}
    assert "SIGKILL" in job.set_aside[0, 0] and "a fault in the reward" in job.set_aside[2, 1]
    assert [(task.index, task.image) for task in read_run(tmp_path / "run").tasks] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    manifest = read_manifest(tmp_path / "run")
    assert manifest.status == "stopped" and manifest.tasks_finished == 4
    shown = [line.strip() for line in describe(tmp_path / "run", datetime.now().astimezone())[-4:]]
    tasks = ("a poison: worker ", "a poison, image 1: worker ", "a fault: ", "a fault, image 1: RuntimeError")
    assert all(line.startswith(f"failed twice and set aside: {task}") for line, task in zip(shown, tasks, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_an_interrupted_run_resumes_with_other_workers(tmp_path: Path) -> None:
    names = NAMES["milr"]
    job = make_job(tmp_path / "spread", WorkerChoice(2, loader=LOADER), names, PROMPTS)
    with closing(job.run()) as records:
        for _ in range(9):
            next(records)
    manifest = read_manifest(tmp_path / "spread")
    assert manifest.status == "interrupted"
    parts = load(names)
    list(Job(parts, resume_run(tmp_path / "spread", manifest, parts, names)).run())
    assert answers(tmp_path / "spread") == whole(tmp_path / "one", names)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_a_total_limit_stops_all_workers_and_resuming_draws_the_rest(tmp_path: Path) -> None:
    names = NAMES["milr"]
    job = make_job(tmp_path / "spread", WorkerChoice(2, loader=LOADER), names, PROMPTS, total_drawings=12, steps=6)
    list(job.run())
    assert job.stopped == "out of drawings"
    spent = read_manifest(tmp_path / "spread").drawings
    assert 12 <= spent <= 12 + 2 * 2 * 2  # by the steps in progress and those on their way
    ends = {task.last.finished for task in read_run(tmp_path / "spread").tasks}
    assert "out of drawings" in ends and ends <= {"out of drawings", "out of steps"}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_an_error_while_a_worker_loads_is_the_commands_error() -> None:
    with pytest.raises(MilrError, match="tests.support.worker_parts has no 'lod'"):
        load_team(NAMES["milr"], Placement(), WorkerChoice(1, loader="tests.support.worker_parts:lod"))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_python")
def test_workers_end_with_a_coordinator_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.unit.workers.test_workers import *\n"
        "job = make_job(Path(sys.argv[1]), WorkerChoice(2, loader=LOADER), NAMES['milr'], PROMPTS)\n"
        "records = job.run(); next(records)\n"
        "print(*[one.handle.process.pid for one in job.parts.team.members], flush=True)\ntime.sleep(600)\n"
    )
    import subprocess
    import sys

    words = [sys.executable, "-c", program, str(tmp_path / "run")]
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}) as one:
        assert one.stdout is not None
        workers = [int(word) for word in one.stdout.readline().split()]
        assert len(workers) == 2
        files = [os.pidfd_open(worker) for worker in workers]
        one.kill()
    import select

    for file in files:  # readable once the process has ended
        assert select.select([file], [], [], 60)[0]
        os.close(file)


@pytest.mark.parametrize(
    ("text", "gpus", "said"),
    [
        ("0", None, "give a number of processes, for instance 4, or ray"),
        ("ray:none", None, "--workers ray:none"),
        ("many", None, "--workers many"),
        (None, 1.0, "give --workers too"),
    ],
)
def test_wrong_workers_are_refused(text: str | None, gpus: float | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_workers(text, gpus)


@pytest.mark.parametrize(
    ("choice", "device", "said"),
    [
        (WorkerChoice(2, gpus=1), "cpu", "give --device cuda"),
        (WorkerChoice(2, gpus=0.5), "cuda", "processes have whole GPUs"),
    ],
)
def test_gpus_that_do_not_fit_are_refused(choice: WorkerChoice, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_team(NAMES["milr"], Placement(device), choice)


def test_no_process_is_started_before_it_is_needed() -> None:
    assert Processes(3, [{}] * 3).receive(0) == [] and signal.getsignal(signal.SIGINT) is not None


def test_workers_take_the_cards_from_the_named_one_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    choice = WorkerChoice(2)
    backend = make_backend(choice, 1, 1, first=1)
    assert isinstance(backend, Processes)
    cards = [one["CUDA_VISIBLE_DEVICES"] for one in backend._environments]  # pyright: ignore[reportPrivateUsage]
    assert cards == ["5", "6"]
    with pytest.raises(UsageError, match="needs 2, and 1 are here from cuda:2 on: give fewer"):
        make_backend(choice, 1, 1, first=2)
