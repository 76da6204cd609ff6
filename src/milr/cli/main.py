"""The command line: parse, call, print. Torch is imported after the first line is on the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import typer

from milr._version import __version__
from milr.cli.ablate import ablate
from milr.cli.benchmark import benchmark
from milr.cli.compare import compare
from milr.cli.convert import convert
from milr.cli.data import app as data
from milr.cli.doctor import doctor
from milr.cli.evaluate import evaluate
from milr.cli.export import export
from milr.cli.fetch import fetch
from milr.cli.generate import generate
from milr.cli.info import info
from milr.cli.options import INTERRUPTED
from milr.cli.pack import pack
from milr.cli.plan import plan
from milr.cli.report import report
from milr.cli.score import score
from milr.cli.score_folder import score_folder
from milr.cli.serve_judge import serve_judge
from milr.cli.unpack import unpack
from milr.errors import MilrError, UsageError

COMMANDS: Sequence[Callable[..., None]] = (
    generate,
    info,
    ablate,
    benchmark,
    compare,
    convert,
    doctor,
    evaluate,
    export,
    fetch,
    pack,
    plan,
    report,
    score,
    score_folder,
    serve_judge,
    unpack,
)
"""A command is one file and one line here; `data` has commands of its own."""
RENAMED: Mapping[str, str] = {
    "judge": "evaluate",
    "--judge": "--evaluator",
    "--judge-url": "--vlm-url",
    "--judge-model": "--vlm-model",
    "--judge-budget": "--vlm-budget",
    "--credit": "--gradient",
    "--rows": "--batch-size",
    "--twins": "--controls",
    "--no-twins": "--no-controls",
}
"""Old command or flag -> its new name. The old ones are refused for one version, then this table goes."""

app = typer.Typer(
    help="Search over the latents of a frozen unified model until the image shows what the prompt asked for.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(data, name="data")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every error that a user can mend is one line, exit code 2."""
    try:
        _refuse_renamed(sys.argv[1:] if argv is None else argv)
        status: object = _build_parser()(args=argv, prog_name="milr", standalone_mode=False)
    except MilrError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        # The parser's own errors: their class moved between typer's versions, their method did not.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        where = getattr(getattr(error, "ctx", None), "command_path", "milr")
        return _fail(f"{str(message()).rstrip('.')}; see {where} --help")
    return status if isinstance(status, int) else 0


@cache
def _build_parser() -> Any:  # click's Command, whose home moved between typer's versions
    """Build the parser once: a program that calls `main` repeatedly would build all commands each time."""
    return typer.main.get_command(app)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Handle what stands before a command."""
    if version:
        print(f"milr {__version__}")
    elif context.invoked_subcommand is None:
        raise UsageError('no command given: type milr generate "a photo of a red apple", or milr --help')


def _refuse_renamed(words: Sequence[str]) -> None:
    """Refuse an old command or flag, and say what to type instead."""
    if words and words[0] in RENAMED and not words[0].startswith("-"):
        new = RENAMED[words[0]]
        raise UsageError(f"milr {words[0]} is now milr {new}: see milr {new} --help")
    options = words[: words.index("--")] if "--" in words else words
    for place, word in enumerate(options):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag in RENAMED:
            if not equals and place + 1 < len(options) and not options[place + 1].startswith("-"):
                value = options[place + 1]
            raise UsageError(f"{flag} is now {RENAMED[flag]}: type {RENAMED[flag]}{' ' * bool(value)}{value}")


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
