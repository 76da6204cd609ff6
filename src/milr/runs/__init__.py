"""Run folders: everything that a method did, enough to evaluate it again and to show it.

::

    run.json                       the manifest: settings, model, reward, versions, tasks, what was spent
    index.html                     the run to look at, see `milr.runs.page`
    lock                           held by the process that writes
    tasks/0000-<task key>/         one folder per task; `.part` at its end until the task has finished; a prompt's
                                   second image has "-1" at its end, and so on
        records.jsonl              one `StoredStep` per line
        evaluated.jsonl            with an evaluator: one `EvaluatedImage` per line, in the order of drawing
        steps/<step>-<number>.png  every image
        best.png                   the best one
        strip.png                  all of them with their rewards

A packed run (`milr.runs.packing`) is such a folder without its images, compact results (`milr.runs.compact`) are what
numbers are counted from; both are one file.

Format 2. Folders of format 1 (milr 0.1) are read as if they were of format 2, see `milr.runs.upgrade`.
"""

from milr.runs.compact import COMPACT_SUFFIX, compact_runs, is_compact, plain_name, read_compact
from milr.runs.evaluating import check_evaluable, evaluate_run, is_evaluated
from milr.runs.folders import check_folder, default_folder
from milr.runs.layout import NotScored, RunError, check_resumable, read_manifest, say_resume
from milr.runs.packing import SUFFIX, begin_anew, pack_run, read_packed, unpack_run
from milr.runs.page import INDEX, write_page
from milr.runs.reader import Run, RunImage, TaskRun, read_run, read_task
from milr.runs.schema import EvaluatedImage, Manifest, Session, StoredImage, StoredStep
from milr.runs.strip import Frame, draw_strip
from milr.runs.writer import RunFacts, RunWriter

__all__ = [
    "COMPACT_SUFFIX",
    "INDEX",
    "EvaluatedImage",
    "Frame",
    "Manifest",
    "NotScored",
    "Run",
    "RunError",
    "RunFacts",
    "RunImage",
    "RunWriter",
    "SUFFIX",
    "Session",
    "StoredImage",
    "StoredStep",
    "TaskRun",
    "begin_anew",
    "check_evaluable",
    "check_folder",
    "check_resumable",
    "compact_runs",
    "default_folder",
    "draw_strip",
    "evaluate_run",
    "is_compact",
    "is_evaluated",
    "pack_run",
    "plain_name",
    "read_compact",
    "read_manifest",
    "read_packed",
    "read_run",
    "read_task",
    "say_resume",
    "unpack_run",
    "write_page",
]
