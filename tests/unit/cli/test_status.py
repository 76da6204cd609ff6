"""`milr status`: how far a run is, in progress, killed or finished."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from milr.cli.status import describe
from milr.runs import RunWriter, read_manifest
from milr.runs.workers_file import WorkersFile
from milr.settings import make_settings
from milr.tasks import tasks_from_prompts
from milr.testing import fake_records

TASKS = tasks_from_prompts(["two dogs", "a red apple", "fog"], free=True)


def begin(folder: Path) -> RunWriter:
    return RunWriter(folder, tasks=TASKS, settings=make_settings("milr"), model="fake", reward="bright@1")


def test_a_run_in_progress_shows_its_tasks_its_speed_and_the_time_left(tmp_path: Path) -> None:
    records = list(fake_records(TASKS, [(0.95,), (0.25, 0.5), (0.25, 0.5)]))
    with begin(tmp_path / "run") as writer:
        for record in records[:3]:
            writer.write(record)
        started = read_manifest(tmp_path / "run").sessions[-1].started
        for file in (tmp_path / "run").rglob("records.jsonl"):
            os.utime(file, times=(started.timestamp(), started.timestamp() + 15))
        lines = describe(tmp_path / "run", started + timedelta(seconds=60), 8)
        for record in records[3:]:
            writer.write(record)
    assert lines[0].endswith("run: 3 prompts, milr, fake")
    assert "running in process" in lines[1] and "1 of 3 tasks finished (33%)" in lines[1]
    assert "  about 2 min left at this speed" in lines
    assert "  last record 0:00:45 ago" in lines  # so that a user sees a run that no longer advances
    assert lines[-1].endswith(": 1 step")
    lines = describe(tmp_path / "run", started)
    assert lines[1] == "  finished; 3 of 3 tasks finished (100%)" and not any("left" in line for line in lines)


def test_workers_are_shown_during_a_run_and_set_aside_tasks_after_it(tmp_path: Path) -> None:
    run, aside = tmp_path / "run", ["failed twice and set aside: fog: out\nof memory"]
    with begin(run) as writer:
        file = WorkersFile(run)
        file.update(lambda: [], lambda: aside)
        assert not (run / "workers.txt").exists(), "one process has no workers"
        file.update(lambda: ["workers: 2 of 2 ready", "worker 1: 3 tasks in progress"], lambda: aside)
        file.update(lambda: ["too early"], lambda: [])
        written = (run / "workers.txt").stat().st_mtime
        now = datetime.fromtimestamp(written + 15).astimezone()
        lines = describe(run, now)
        place = lines.index("  workers, 0:00:15 ago:")
        assert lines[place + 1 : place + 4] == [
            "    workers: 2 of 2 ready",
            "    worker 1: 3 tasks in progress",
            "    failed twice and set aside: fog: out of memory",
        ]
        file.end(aside)
        writer.write(next(iter(fake_records(TASKS, [(0.95,)] * 3))))
    assert describe(run, now)[-1] == "    failed twice and set aside: fog: out of memory"
    file.end([])
    assert not (run / "workers.txt").exists()


def test_a_killed_runs_status_says_how_to_resume_it(tmp_path: Path) -> None:
    with begin(tmp_path / "run"):
        killed = (tmp_path / "run/run.json").read_bytes()
    (tmp_path / "run/run.json").write_bytes(killed)
    lines = describe(tmp_path / "run", read_manifest(tmp_path / "run").sessions[-1].started)
    assert f"killed, nobody works on it (milr generate --resume {tmp_path / 'run'} goes on)" in lines[1]
