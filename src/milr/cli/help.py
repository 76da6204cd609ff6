"""Layout of every command's help: options in groups, flags without a type, one example line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GROUPS: Mapping[str, Sequence[str]] = {
    "Prompts": ("prompts_file", "prompt", "tasks", "prompts", "benchmark", "limit", "tags", "shard", "data"),
    "Method: values of a recipe, model or strategy go before these defaults": (
        *("method", "pool", "images_per_prompt", "steps", "strategy", "text_ratio", "image_ratio", "learning_rate"),
        *("l2", "gradient", "noise", "drawings_per_step", "guidance", "temperature", "top_k", "sampler", "seed"),
        *("batch_size", "others", "seeds", "controls"),
    ),
    "Reward": ("reward", "evaluator", "panel", "vlm_url", "vlm_model", "vlm_budget", "vlm_price"),
    "Limits": (
        *("stop_at", "max_drawings", "max_seconds", "max_reward_calls", "max_cost", "first"),
        *("total_drawings", "total_seconds", "total_reward_calls", "total_cost"),
    ),
    "Output": (
        *("out", "resume", "open_page", "form", "as_json", "fail_under", "quiet", "verbose", "only_plan", "help"),
        *("version", "layout", "compact", "pictures"),
    ),
    "Model": ("model", "device", "dtype", "profile", "offline", "yes", "deterministic", "no_graphs"),
    "Workers": ("workers", "gpus_per_worker", "reward_workers", "reward_command", "gpus_per_reward_worker"),
}
"""Group -> its parameters, by their names in the commands' functions; others stay under "Options"."""
EXAMPLES: Mapping[str, str] = {
    "generate": 'milr generate "two dogs" "a red apple left of a clock" --steps 10 --open',
    "info": "milr info --words",
    "ablate": "milr ablate strategies --limit 12 --steps 5",
    "benchmark": "milr benchmark icons --limit 12 --evaluator icons-judge",
    "compare": "milr compare runs/A runs/B --baseline runs/A",
    "convert": "milr convert geneval-detector mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.pth",
    "data get": "milr data get geneval --accept-licence",
    "doctor": "milr doctor icons",
    "evaluate": "milr evaluate runs/A --evaluator icons-judge",
    "export": "milr export runs/A --layout geneval",
    "fetch": "milr fetch deepseek-community/Janus-Pro-1B",
    "index": "milr index runs",
    "pack": "milr pack runs/A --compact",
    "plan": "milr plan --model deepseek-community/Janus-Pro-7B --dtype bfloat16",
    "report": "milr report runs --out report.html",
    "score": 'milr score picture.png --prompt "two dogs" --reward icons',
    "score-folder": "milr score-folder images --benchmark geneval",
    "serve": "milr serve --port 8080 --data runs",
    "serve-judge": "milr serve-judge --reward icons --port 8000",
    "serve-reward": "milr serve-reward icons --port 8123",
    "status": "milr status runs/A",
    "show": "milr show runs/A/tasks/0000-1a2b3c4d5e6f7a8b/best.png",
    "unpack": "milr unpack A.run.xz --out runs",
}
"""Command -> one example line."""


def arrange(parser: Any) -> None:  # click's Command, whose home moved between typer's versions
    """Arrange the help of a parser with all its commands."""
    for name, command, context in walk(parser, parser.context_class(parser, **parser.context_settings), ""):
        if name in EXAMPLES:
            command.epilog = f"Example: {EXAMPLES[name]}"
        options = [one for one in command.get_params(context) if one.param_type_name == "option"]
        for option in options:
            group = find_group(option.name)
            if group is not None and name:
                option.rich_help_panel = group
            if option.is_flag:
                option.metavar = ""
        command.params.sort(key=_place)


def walk(parser: Any, context: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield a parser and its commands, each with its words and its own context."""
    yield name, parser, context
    for word, command in getattr(parser, "commands", {}).items():
        child = command.context_class(command, info_name=word, parent=context, **command.context_settings)
        yield from walk(command, child, f"{name} {word}".strip())


def find_group(name: str) -> str | None:
    """Return the group of a parameter; None if it is in none."""
    return next((group for group, names in GROUPS.items() if name in names), None)


def _place(parameter: Any) -> int:
    """Return the position of a parameter among the groups; arguments keep their order, because it has a meaning."""
    order = [name for names in GROUPS.values() for name in names]
    return order.index(parameter.name) if parameter.param_type_name == "option" and parameter.name in order else -1
