"""A finished task of a run as HTML, for notebooks: best image, text with changed words marked, reward curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from milr.display import mark_changes, show_image
from milr.runs.schema import StoredStep
from milr.runs.strip import find_outcome
from milr.types import Score, Unscored, say_score

_CURVE = (240, 80)  # pixels of the reward curve


def show_search(steps: Sequence[StoredStep], evaluated: Score | Unscored | None, best: Image.Image | None) -> str:
    """Return a finished search as HTML.

    Args:
        steps: All of them.
        evaluated: The evaluator's score of the best image; None without an evaluator.
        best: The best image; None if it is not there.
    """
    first, last = steps[0], steps[-1]
    outcome = find_outcome(first.scores[0], last)
    text = next(step.reasoning.text for step in steps if step.step == last.best_step)
    said = mark_changes(first.reasoning.text, text) or "(no text)"
    why = last.best_score.explanation if isinstance(last.best_score, Score) else last.best_score.reason
    judged = "" if evaluated is None else f", evaluator {say_score(evaluated)}"
    facts = f"reward {say_score(last.best_score)}{judged}, {outcome}, at step {last.best_step}"
    image = "" if best is None else show_image(best, last.task.shown)
    return (
        f'<div style="display:flex;gap:1em;margin:.6em 0">{image}<div>'
        f"<b>{escape(last.task.shown)}</b><br>{escape(facts)}<br>{escape(why)}<br>"
        f"<small>{said}</small><br>{draw_curve(steps)}</div></div>"
    )


def draw_curve(steps: Sequence[StoredStep]) -> str:
    """Return the rewards of all images, and the best so far as a line, as an SVG picture."""
    width, height = _CURVE
    places: list[tuple[int, float]] = []
    best: list[tuple[int, float]] = []
    last = max(1, steps[-1].step)
    for step in steps:
        places += [(step.step, score.value) for score in step.scores if isinstance(score, Score)]
        if isinstance(step.best_score, Score):
            best.append((step.step, step.best_score.value))

    def put(step: int, value: float) -> str:
        return f"{4 + step / last * (width - 8):.1f},{height - 4 - value * (height - 8):.1f}"

    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="2" fill="#59636e"/>' for x, y in (put(*one).split(",") for one in places)
    )
    line = f'<polyline points="{" ".join(put(*one) for one in best)}" fill="none" stroke="#1a7f37"/>'
    title = "<title>reward of every image by step; the line is the best so far</title>"
    return f'<svg width="{width}" height="{height}" role="img">{title}{line}{dots}</svg>'
