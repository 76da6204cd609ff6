"""A run as one file that opens anywhere: the page's own viewer, with the run's steps and images in it."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from milr.errors import UsageError
from milr.runs import Run, StoredStep, TaskRun
from milr.serve.steps import describe_step, find_best, link_image
from milr.types import Score, say_count

PAGE = Path(__file__).parent / "page"
MODULES = ("dom.js", "offline.js", "chart.js", "viewer.js", "runview.js", "report.js")
"""The page's modules that show a run, each after those that it imports; `offline.js` is in the place of `api.js`."""
_QUALITY = 90


def draw_viewer(run: Run) -> str:
    """Return a run as HTML that needs no other file and no network.

    Raises:
        UsageError: The run has no finished search, or its images are gone.
    """
    if not run.tasks:
        raise UsageError(f"{run.folder} has no finished search to show")
    first = run.tasks[0]
    title = _title(run)
    about = {"title": title, "facts": _facts(run), "images": run.manifest.images_per_prompt}
    content = {
        "about": about,
        "first": f"{first.index}.{first.image}",
        "files": dict(_read_files(run)),
        "steps": [_describe(task, step) for task in run.tasks for step in task.steps],
    }
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")  # no prompt ends the script
    parts = {
        "TITLE": escape(title),
        "STYLE": (PAGE / "style.css").read_text(encoding="utf-8"),
        "DATA": data,
        "CODE": bundle(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _HTML)


def bundle() -> str:
    """Return the modules as one: their imports of one another are left out, and nothing is exported."""
    code = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in MODULES)
    code = re.sub(r'^import \{[^}]*\} from "\./\w+\.js";\n', "", code, flags=re.M)
    return re.sub(r"^export ", "", code, flags=re.M)


def _describe(task: TaskRun, step: StoredStep) -> dict[str, Any]:
    """Return a step; a verdict of the run's evaluator is marked as such."""
    told = describe_step("", step)
    best = next((one.evaluator for one in task.images if (one.step, one.number) == find_best(step)), None)
    first = task.images[0].evaluator
    if isinstance(best, Score):
        values = {"first": first.value if isinstance(first, Score) else None, "best": best.value}
        told["panel"] = {**told["panel"], best.reward: values}
    return told


def _read_files(run: Run) -> Iterator[tuple[str, str]]:
    """Yield each image of a run: its address, and the image as a data URL."""
    for task in run.tasks:
        for one in task.images:
            out = io.BytesIO()
            task.load_image(one.image).save(out, "WEBP", quality=_QUALITY)
            address = link_image("", (task.index, task.image), one.step, one.number)
            yield address, f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _title(run: Run) -> str:
    prompts = [task.shown for task in run.manifest.tasks]
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    return run.manifest.benchmark or f"{prompts[0][:150]}{more}"


def _facts(run: Run) -> str:
    manifest = run.manifest
    met = sum(task.last.finished == "met" for task in run.tasks)
    searches = say_count(len(run.tasks), "search")
    return f"{manifest.method}, {manifest.model}, reward {manifest.reward}; {searches}, {met} met"


_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="milr report --viewer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{{TITLE}}</title>
<link rel="icon" href="data:,">
<style>
{{STYLE}}
</style>
</head>
<body>
<header><h1>milr</h1></header>
<main id="content" tabindex="-1"><p>This page needs JavaScript.</p></main>
<p id="status" role="status" aria-live="polite"></p>
<script id="run" type="application/json">{{DATA}}</script>
<script type="module">
{{CODE}}
</script>
</body>
</html>
"""
