"""Upgrade of format 1 (milr 0.1) to format 2: pure functions on its JSON.

Folders and packed runs of format 1 can be read, reported, evaluated and packed again. They cannot be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milr.settings import OLD_NAMES, make_settings

_FIELDS = {
    "judge": "evaluator",
    "judge_asked": "evaluator_asked",
    "judges": "vlm_usage",
    "judged": "evaluated",
    "judge_seconds": "evaluator_seconds",
}
"""Renamed fields of manifest and sessions."""
_TRACE = (
    "moved",
    "text_latents",
    "image_latents",
    "flipped_text",
    "flipped_image",
    "text_shift",
    "image_shift",
    "log_probability",
)


def upgrade_settings(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method from format 1's flat config; settings that the method does not read are dropped.

    Raises:
        UsageError: There is no such method, or a value is not allowed.
    """
    renamed = {OLD_NAMES.get(name, name): value for name, value in config.items()}
    return make_settings(method, defaults=renamed).model_dump()


def upgrade_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 2.

    Raises:
        UsageError: As `upgrade_settings`.
    """
    kept = {_FIELDS.get(name, name): value for name, value in manifest.items() if name not in ("method", "config")}
    settings = upgrade_settings(manifest.get("method", "milr"), manifest["config"])
    sessions = [
        {_FIELDS.get(name, name): value for name, value in session.items()} for session in manifest.get("sessions", ())
    ]
    return {**kept, "format": 2, "settings": settings, "sessions": sessions}


def is_old_step(step: Mapping[str, Any]) -> bool:
    """Return true if a line of `records.jsonl`, or a packed step, is of format 1."""
    return "drawings" in step


def upgrade_step(step: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return a step of format 2: a line of `records.jsonl`, or a packed step, whose best image is a file name.

    Args:
        step: A step of format 1.
        method: The run's method. Methods other than "milr" have no latents, and filled the fields of the trace with
            zeros.
    """
    kept = {name: value for name, value in step.items() if name not in (*_TRACE, "drawings", "best")}
    best = step["best"]
    return {
        # runs from before reward calls were counted called the reward once per drawing
        "reward_calls": int(step["drawings_spent"]),
        **kept,
        "images": [_upgrade_image(image) for image in step["drawings"]],
        "best": best if isinstance(best, str) else _upgrade_image(best),
        "cost": 0.0,
        "trace": {name: step[name] for name in _TRACE} if method == "milr" else None,
    }


def upgrade_packed_run(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line of a packed run of format 2.

    Raises:
        UsageError: As `upgrade_settings`.
    """
    return {**line, "packed": 2, "manifest": upgrade_manifest(line["manifest"])}


def upgrade_packed_task(line: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return a further line of a packed run of format 2."""
    kept = {name: value for name, value in line.items() if name != "judged"}
    return {**kept, "steps": [upgrade_step(step, method) for step in line["steps"]], "evaluated": line["judged"]}


def _upgrade_image(image: Mapping[str, Any]) -> dict[str, Any]:
    return {"tokens": image["tokens"], "file": image["picture"]}
