"""Run folders: everything a search did, enough to score it again and to show it.

::

    run.json                       the manifest: config, model, reward, versions, tasks, what was spent
    lock                           held by the process that writes
    tasks/0000-<task key>/         one folder a task; `.part` at its end until the task has finished; a prompt's second
                                   image has "-1" at its end, and so on
        records.jsonl              one `StoredStep` a line
        judged.jsonl               where there is a judge: one `EvaluatedImage` a line, in the order of drawing
        steps/<step>-<drawing>.png every picture
        best.png                   the best one
        strip.png                  all of them with their rewards
"""

from milr.runs.judging import check_judgeable, judge_run
from milr.runs.layout import RunError, read_manifest
from milr.runs.packing import pack_run, read_packed, unpack_run
from milr.runs.reader import Run, RunImage, TaskRun, read_run, read_task
from milr.runs.schema import EvaluatedImage, Manifest, Session, StoredImage, StoredStep
from milr.runs.strip import Frame, draw_strip
from milr.runs.writer import RunFacts, RunWriter, check_folder, default_folder

__all__ = [
    "Frame",
    "EvaluatedImage",
    "Manifest",
    "Run",
    "RunError",
    "RunFacts",
    "RunWriter",
    "RunImage",
    "Session",
    "StoredImage",
    "StoredStep",
    "TaskRun",
    "check_folder",
    "check_judgeable",
    "default_folder",
    "draw_strip",
    "judge_run",
    "pack_run",
    "read_manifest",
    "read_packed",
    "read_run",
    "read_task",
    "unpack_run",
]
