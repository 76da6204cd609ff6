"""Run folders: everything a search did, enough to score it again and to show it.

::

    run.json                       the manifest: config, model, reward, versions, tasks, what was spent
    tasks/0000-<task key>/         one folder a task; `.part` at its end until the task has finished
        records.jsonl              one `StoredStep` a line
        steps/<step>-<drawing>.png every picture
        best.png                   the best one
        strip.png                  all of them with their rewards
"""

from milr.runs.reader import Run, TaskRun, read_run
from milr.runs.schema import Manifest, StoredDrawing, StoredStep
from milr.runs.strip import Frame, draw_strip
from milr.runs.writer import RunWriter, check_folder, default_folder

__all__ = [
    "Frame",
    "Manifest",
    "Run",
    "RunWriter",
    "StoredDrawing",
    "StoredStep",
    "TaskRun",
    "check_folder",
    "default_folder",
    "draw_strip",
    "read_run",
]
