"""A run as one page to look at, `index.html`: every prompt with its best image, then its strip of steps.

The page needs no other file and no network: images are inside it, smaller than in the run. It follows the reader's
light or dark setting.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from milr.errors import UsageError
from milr.files import PART, write_text
from milr.runs.layout import RECORDS
from milr.runs.reader import RunImage, TaskRun, read_run, read_task
from milr.runs.schema import Manifest
from milr.runs.strip import Outcome, find_outcome
from milr.types import Score, Unscored, rank

INDEX = "index.html"
"""File name of the page in the run's folder."""
_BEST, _SMALL = 320, 128
"""Most pixels per side of the best image, and of those in the strip."""
_IMAGES = 3000
"""Approximate number of images in a page; longer strips leave out images and say so."""


def write_page(folder: Path) -> Path:
    """Write a run's page and return its path; interrupted searches are included.

    Raises:
        UsageError: The folder holds no readable run.
        OSError: It cannot be written.
    """
    run = read_run(folder)
    tasks = sorted(run.tasks, key=lambda task: -_merit(task.answer))
    begun = list(_read_begun(folder))
    shown = max(2, _IMAGES // max(1, len(tasks) + len(begun)))
    parts = [_draw_task(task, shown, run.manifest) for task in tasks]
    parts += [_draw_task(task, shown, run.manifest, begun=True) for task in begun]
    before, between, after = _PAGE.split("{{}}")
    title = _title(run.manifest)
    path = folder / INDEX
    write_text(path, "".join([before, title, between, _head(run.manifest, title, run.notes), *parts, after]))
    return path


def _read_begun(folder: Path) -> Iterator[TaskRun]:
    """Yield the searches that have images but did not finish."""
    for path in sorted((folder / "tasks").glob(f"*{PART}")):
        if (path / RECORDS).is_file():
            try:
                yield read_task(path)
            except UsageError:  # cut off within its first line
                continue


def _merit(one: RunImage) -> float:
    return rank(one.reward if one.evaluator is None else one.evaluator)


def _title(manifest: Manifest) -> str:
    first = manifest.tasks[0].shown if manifest.tasks else "no prompts"
    more = f" and {len(manifest.tasks) - 1} more" if len(manifest.tasks) > 1 else ""
    return escape(manifest.benchmark or f"{first}{more}")


def _head(manifest: Manifest, title: str, notes: Sequence[str]) -> str:
    wanted = len(manifest.tasks) * manifest.images_per_prompt
    strategy = manifest.settings.flat.get("strategy")
    facts = [
        f"{manifest.status}: {manifest.tasks_finished} of {wanted} searches",
        f"method {manifest.method}" + (f", strategy {strategy}" if strategy else ""),
        f"model {manifest.model}",
        f"reward {manifest.reward}",
        *([f"evaluator {manifest.evaluator}"] if manifest.evaluator else []),
        f"{manifest.drawings:,.10g} images",
        f"{manifest.seconds:,.0f} s",
    ]
    said = [*([manifest.error] if manifest.error else []), *notes]
    error = "".join(f'<p class="bad">{escape(one)}</p>' for one in said)
    return f"<h1>{title}</h1><p class=facts>{escape(' · '.join(facts))}</p>{error}"


def _draw_task(task: TaskRun, shown: int, manifest: Manifest, *, begun: bool = False) -> str:
    answer = task.answer
    outcome = find_outcome(task.first.scores[0], task.last)
    ended = "not finished" if begun else outcome if outcome == "met" else f"{task.last.finished}, {outcome}"
    many = f", image {task.image + 1}" if manifest.images_per_prompt > 1 else ""
    images = task.images
    chosen = _choose(images, answer, shown)
    left = len(images) - len(chosen)
    texts = {step.step: step.reasoning.text for step in task.steps}
    cells = "".join(_draw_cell(task, one, texts[one.step], outcome if one == answer else None) for one in chosen)
    note = (
        f"<p class=facts>{left} of {len(images)} images are not on this page: see tasks/{task.folder.name}</p>"
        if left
        else ""
    )
    strip = f"<div class=strip role=region tabindex=0 aria-label=steps>{cells}</div>" if len(images) > 1 else ""
    drawn = f"{task.last.drawings_spent:.10g} {'image' if task.last.drawings_spent == 1 else 'images'}"
    return (
        f"<section><h2>{escape(task.task.shown)}</h2>"
        f"<p class=facts>{escape(f'{ended}{many}, {drawn}, best at step {task.last.best_step}')}</p>"
        f"<div class=best>{_draw_image(task, answer, _BEST, f'best image for: {task.task.shown}')}"
        f"<div>{_draw_score('reward', answer.reward)}{_draw_score('evaluator', answer.evaluator)}"
        f"<p class=text>{escape(texts[answer.step]) or '(no text)'}</p></div></div>"
        f"{strip}{note}</section>"
    )


def _choose(images: Sequence[RunImage], answer: RunImage, most: int) -> list[RunImage]:
    """Return the first image, the answer, the last one, and others between them at even distances."""
    if len(images) <= most:
        return list(images)
    places = {0, len(images) - 1, images.index(answer)}
    places |= {round(place * (len(images) - 1) / (most - 1)) for place in range(most)}
    return [images[place] for place in sorted(places)]


def _draw_cell(task: TaskRun, one: RunImage, text: str, outcome: Outcome | None) -> str:
    kind, best = ("cell", "") if outcome is None else (f"cell {outcome}", f", best: {outcome}")
    return (
        f'<figure class="{kind}">{_draw_image(task, one, _SMALL, f"step {one.step}")}'
        f"<figcaption><b>step {one.step}{f' #{one.number + 1}' if one.number else ''}{best}</b>"
        f"{_draw_score('reward', one.reward)}{_draw_score('evaluator', one.evaluator)}"
        f"<p class=text>{escape(text)}</p></figcaption></figure>"
    )


def _draw_score(name: str, score: Score | Unscored | None) -> str:
    if score is None:
        return ""
    if isinstance(score, Unscored):
        return f'<p class="bad">{name}: unscored, {escape(score.reason)}</p>'
    reason = f": {escape(score.explanation)}" if score.explanation else ""
    return f"<p>{name} <b>{score.value:.2f}</b>{reason}</p>"


def _draw_image(task: TaskRun, one: RunImage, side: int, alt: str) -> str:
    try:
        image = task.load_image(one.image)
    except UsageError:
        return '<p class="bad">the image is gone</p>'
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" width={image.width} height={image.height} alt="{escape(alt)}">'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{}}</title>
<link rel="icon" href="data:,">
<style>
:root { --paper: #fff; --ink: #1c2024; --faint: #586069; --line: #d4dae0; --bad: #8a5300;
  --met: #1a7f37; --improved: #9a6700; --failed: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e9ec; --faint: #9aa4ae; --line: #343b42; --bad: #e3b35c;
    --met: #57ab5a; --improved: #d4a72c; --failed: #f47067; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem clamp(.8rem, 3vw, 2.5rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.45 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 0; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
p { margin: .25rem 0; } .facts { color: var(--faint); font-size: .9rem; } .text { color: var(--faint); }
.bad { color: var(--bad); }
img { border: 1px solid var(--line); background: #fff; display: block; max-width: 100%; height: auto; }
.best { display: flex; flex-wrap: wrap; gap: 1rem; margin: .8rem 0; } .best > div { flex: 1 1 16rem; min-width: 0; }
.strip { display: flex; gap: .7rem; overflow-x: auto; padding-bottom: .5rem; }
.strip:focus-visible { outline: 2px solid var(--faint); }
.cell { flex: 0 0 9rem; margin: 0; font-size: .82rem; } .met img { border: 3px solid var(--met); }
.improved img { border: 3px solid var(--improved); }
.failed img { border: 3px solid var(--failed); }
</style>
</head>
<body>
<main>{{}}</main>
</body>
</html>
"""
