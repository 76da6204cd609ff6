"""Options that several commands share: settings, derived from their models, the model and its device."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape

from milr.cli.screen import Screen
from milr.errors import UsageError
from milr.models import ModelSource
from milr.models.devices import Placement
from milr.models.hub import Confirm, Download
from milr.registry import is_code
from milr.settings import METHOD_SETTINGS, OneOf, Settings, all_fields, find_settings
from milr.settings.best import take_best

if TYPE_CHECKING:
    from milr.jobs import Job  # imports torch

CHECK_FAILED, NOT_ALL_SCORED = 1, 3  # exit codes; 1 is a failure of the machine too, 2 is wrong use
INTERRUPTED = 130  # exit code of shells after Ctrl-C
DEFAULT_MODEL = "embedded"

ModelName = Annotated[
    str, typer.Option(help="A name that milr info lists, a model's folder, or its name at the Hugging Face hub.")
]
Reward = Annotated[
    str | None,
    typer.Option(
        help="A name that milr info lists, or ./file.py:attribute, with its argument after a colon, such as "
        "self:p-yes; default: icons for models that draw icons, else self."
    ),
]
Device = Annotated[str, typer.Option(help="Device of the model and of the rewards' networks: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Number type of the weights: float32, bfloat16, float16, or int8 (Janus); default: float32 on a CPU, "
        "bfloat16 elsewhere."
    ),
]
NoGraphs = Annotated[
    bool,
    typer.Option("--no-graphs", help="On a CUDA device, launch every decode step: no CUDA graphs, same images."),
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="N|ray",
        help="Draw in N processes on this machine, or on a Ray cluster (ray, ray:N); default: in this process.",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0, metavar="G", help="GPUs of each worker, on Ray also a part of one; default: 1 with cuda."),
]
RewardWorkers = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Score in N processes of their own, on Ray N a worker; default: where it is drawn."
    ),
]
GpusPerRewardWorker = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="G", help="GPUs of each reward worker on Ray, also a part of one; default: 1 with cuda."
    ),
]
RewardCommand = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help="Command of each of them, another environment's milr serve-reward; {n} is its number."
    ),
]
FailUnder = Annotated[
    float | None,
    typer.Option(metavar="R", min=0, max=1, help="Exit code 1 if the mean score is below R, from 0 to 1."),
]
Profile = Annotated[str | None, typer.Option(help="Prompt profile of the model; default: its checkpoint's own.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the hub; as with HF_HUB_OFFLINE=1.")]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to downloads without being asked.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone: no progress, no notes.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every step, with its reasons and texts; fold nothing.")
]

_SHORT = {"learning_rate": "--lr"}
"""Setting -> a second, shorter flag; errors name this one."""
_NAMES = "|".join(all_fields())
_LONG_NAMES = "|".join(name for name in all_fields() if "_" in name)
_NAMED = re.compile(rf"^({_NAMES})(?= )|the setting '({_NAMES})'|(?<![\w-])({_LONG_NAMES})\b")
"""A setting's name in an error: at its start before a value, in quotes, or a name that is not an English word."""


def flag_of(name: str) -> str:
    """Return the flag of a setting or of another option for errors."""
    return _SHORT.get(name, f"--{name.replace('_', '-')}")


def name_flags(message: str) -> str:
    """Replace the names of settings by flags in a message."""
    return _NAMED.sub(lambda match: flag_of(next(name for name in match.groups() if name)), message)


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting, instead of its parameter `given`.

    The command receives the settings that were typed as one dict, by name. Its errors name flags, not settings.

    Args:
        names: The settings; none means all.
    """
    fields = {name: field for name, field in all_fields().items() if not names or name in names}

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            typed = {name: values.pop(name) for name in fields}
            given = {name: value for name, value in typed.items() if value is not None}
            try:
                command(given={**given, **_read_others(values.pop("others", None) or ())}, **values)
            except UsageError as error:
                raise UsageError(name_flags(str(error))) from error

        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_make_option(name, field))
            for name, field in fields.items()
        ]
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "given":
                parameters += options if names else [*options, _OTHERS]
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=kind, annotation=hints[name]))
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return extend


_OTHERS = inspect.Parameter(
    "others",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of a method that does not come with milr; after --method it has an option of its own too.",
        ),
    ],
)


def add_own_options(parser: Any, words: Sequence[str]) -> Any:
    """Return a parser in which the settings of the typed method are options, if it does not come with milr.

    Args:
        parser: The parser of all commands; it is not changed.
        words: The words that were typed. The code of a method that they name is imported.

    Raises:
        UsageError: No method has that name.
    """
    method = _find_method(words)
    command = parser.commands.get(words[0]) if method is not None else None
    if method is None or command is None or not any(one.name == "others" for one in command.params):
        return parser
    declared = find_settings(method)
    taken = {one.name for one in command.params}
    fields = {name: field for name, field in declared.model_fields.items() if name not in taken}
    extended, changed = copy(parser), copy(command)
    changed.params = [*command.params, *_make_own_options(fields, f"Settings of {method}")]

    def call(**values: Any) -> object:
        own = {name: value for name in fields if (value := values.pop(name)) is not None}
        others = [*(values.pop("others") or ()), *(f"{name}={value}" for name, value in own.items())]
        return command.callback(**values, others=others)

    changed.callback = call
    extended.commands = {**parser.commands, words[0]: changed}
    return extended


def _find_method(words: Sequence[str]) -> str | None:
    """Return the name of a method from outside milr that follows --method; None if there is none."""
    name = ""
    for word, after in zip(words, [*words[1:], ""], strict=False):  # no words at all have no pair
        flag, equals, value = word.partition("=")
        if flag == "--method":
            name = value if equals else after  # the last one counts
    return name if name and name not in METHOD_SETTINGS else None


def _make_own_options(fields: Mapping[str, FieldInfo], group: str) -> list[Any]:
    def take(**values: object) -> None: ...

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_make_own_option(name, field))
        for name, field in fields.items()
    ]
    take.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    take.__annotations__ = {one.name: one.annotation for one in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(take)
    options: list[Any] = [one for one in typer.main.get_command(app).params if one.name in fields]
    for option in options:
        option.rich_help_panel = group
    return options


def _make_own_option(name: str, field: FieldInfo) -> Any:
    """Return a parameter's annotation; a value of a kind that the parser does not know is checked by the method."""
    kind: Any = field.annotation
    kind = next((one for one in (bool, int, float) if kind in (one, one | None)), str)
    flag = flag_of(name)
    flags = f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag
    default = "" if field.is_required() else _say_default(name, field)
    said = escape(" ".join(filter(None, (field.description, default))))
    return Annotated[kind | None, typer.Option(flags, help=said)]


def _read_others(typed: Sequence[str]) -> dict[str, object]:
    """Return the settings of --set: settings of methods from outside have no options."""
    given: dict[str, object] = {}
    for one in typed:
        name, equals, value = one.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--set {one}: write --set NAME=VALUE")
        if name in all_fields():
            raise UsageError(f"--set {one}: type {flag_of(name)} {value}")
        given[name] = value
    return given


def check_names(model: str, reward: str | None, dtype: str | None) -> None:
    """Refuse unknown names before anything is loaded.

    Raises:
        UsageError: Names the nearest known one.
    """
    from milr.models import check_model
    from milr.models.devices import check_dtype
    from milr.rewards import check_reward

    check_model(model)
    if reward is not None:
        check_reward(reward)
    check_dtype(dtype)


def choose_search(
    method: str | None, given: Mapping[str, object], source: ModelSource
) -> tuple[str, dict[str, object]]:
    """Return the method and what is given, once a model's best measured method has taken the place of what is open.

    Args:
        method: As typed; "milr" is the paper as published, None the model's best where it has evidence for one.
        given: Settings as typed.
        source: The model's folder or name.
    """
    from milr.models import read_best_method

    return take_best(method, given, read_best_method(source))


def name_search(settings: Settings) -> str:
    """Return the method in words, with its strategy if it has one."""
    strategy = settings.get("strategy")
    return settings.method if strategy is None else f"{settings.method}, strategy {strategy}"


_MAY_BE_CODE = ("name", "model", "reward", "evaluator", "method")


def read_with_resume(context: typer.Context, allowed: Collection[str]) -> list[str]:
    """Return the code that was typed with --resume: a run's code is loaded only if it is typed again.

    Other options than `allowed` are refused: the manifest has all settings, so they would be ignored silently.

    Raises:
        UsageError: One was typed.
    """
    typed: list[str] = []
    arguments = {"name": "the benchmark's name", "prompts": "the prompts"}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in _MAY_BE_CODE and isinstance(value, str) and is_code(value):
            typed.append(value)
        elif name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--resume takes all settings from the run: leave {arguments.get(name) or flag_of(name)} out"
            )
    return typed


def make_screen(quiet: bool, verbose: bool = False, *, stderr: bool = True) -> Console:
    """Return the console for progress and notes; a quiet console prints nothing.

    Raises:
        UsageError: Both options were given.
    """
    if quiet and verbose:
        raise UsageError("--quiet prints no steps and --verbose prints all: leave one of the two out")
    return Screen(stderr=stderr, quiet=quiet)


def end_by_scores(scores: Sequence[float | None], fail_under: float | None) -> None:
    """End a command with the exit code of its scores; return if all is well.

    Args:
        scores: Scores of the answers; None for unscored ones.
        fail_under: The least mean that passes; None sets no limit.

    Raises:
        typer.Exit: 3 if an answer is unscored, else 1 if the mean is below `fail_under`.
    """
    values = [score for score in scores if score is not None]
    if len(values) < len(scores):
        raise typer.Exit(NOT_ALL_SCORED)
    if fail_under is not None and values and sum(values) / len(values) < fail_under:
        raise typer.Exit(CHECK_FAILED)


def say_workers(job: Job, screen: Console, always: Console, verbose: bool) -> None:
    """Print what the workers did, and the tasks that failed twice."""
    for line in job.parts.report()[: None if verbose else 1]:
        screen.print(f"milr: {line}")
    for line in job.failures():
        always.print(f"milr: {line}")


def ask(screen: Console, yes: bool) -> Confirm:
    """Return a question that shows a download and asks for consent; without a terminal only `yes` consents."""

    def confirm(download: Download) -> bool:
        if yes:
            screen.print(f"milr: fetching {download.said} ...")
            return True
        return sys.stdin.isatty() and typer.confirm(f"{download.said} will be fetched from the hub. Go on?", err=True)

    return confirm


def check_model_asked(reward: str, model: str | None) -> None:
    """Refuse a model that the reward would not ask.

    Raises:
        UsageError: The reward asks none.
    """
    from milr.rewards import needs_model

    if model is not None and not needs_model(reward):
        raise UsageError(f"the reward {reward!r} asks no model: leave --model out")


def load_asked(reward: str, model: str, placement: Placement) -> object:
    """Return the model if the reward needs one, else None."""
    from milr.rewards import check_installed, needs_model

    check_installed(reward)
    if not needs_model(reward):
        return None
    from milr.models import load_model

    return load_model(model, device=placement.device, dtype=placement.dtype)


def _make_option(name: str, field: FieldInfo) -> Any:
    choices = [f"{line}." for choice in field.metadata if isinstance(choice, OneOf) for line in choice.lines]
    readers = [method for method, settings in METHOD_SETTINGS.items() if name in settings.model_fields]
    use = (_say_default(name, field), f"[read by {', '.join(readers)}]" if readers else "")
    parts = filter(None, (field.description, *choices, " ".join(filter(None, use))))
    between = "\n\n" if choices else " "  # Typer begins a new line at an empty one: a choice has a line of its own
    flags = [f"--{name.replace('_', '-')}", *([_SHORT[name]] if name in _SHORT else [])]
    option = typer.Option(*flags, help=escape(between.join(parts)))
    kind: Any = field.annotation
    return Annotated[kind | None, option]


def _say_default(name: str, field: FieldInfo) -> str:
    """Return a setting's default in words; empty if its description states it."""
    if field.default is None:
        return "Default: no limit." if name.startswith(("max_", "total_")) else ""
    return f"Default: {field.default}."
