"""The command line: parse, call, print. Torch is imported after the first line is on the screen."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError

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
from milr.cli.help import arrange
from milr.cli.info import info
from milr.cli.options import CHECK_FAILED, INTERRUPTED, add_own_options
from milr.cli.pack import pack
from milr.cli.plan import plan
from milr.cli.report import report
from milr.cli.score import score
from milr.cli.score_folder import score_folder
from milr.cli.serve import index, serve
from milr.cli.serve_judge import serve_judge
from milr.cli.serve_reward import serve_reward
from milr.cli.show import show
from milr.cli.status import status
from milr.cli.unpack import unpack
from milr.errors import MilrError, UsageError, say_reason
from milr.untrusted import printable

COMMANDS: Sequence[Callable[..., None]] = (
    generate,
    serve,
    info,
    ablate,
    benchmark,
    compare,
    convert,
    doctor,
    evaluate,
    export,
    fetch,
    index,
    pack,
    plan,
    report,
    score,
    score_folder,
    serve_judge,
    serve_reward,
    show,
    status,
    unpack,
)
"""A command is one file and one line here; `data` has commands of its own."""
_LONGEST = 4000
"""Most characters of an error: a user may have typed a hundred thousand, which it repeats."""
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
"""Old command or flag -> new name. The old ones are refused for one version, then this table is removed."""

app = typer.Typer(
    help="Search over the latents of a frozen unified model until the image shows what the prompt asked for.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_interrupted(command: Callable[..., None]) -> Callable[..., None]:
    """Print that a command was interrupted, if it does not do so itself: the parser ends it silently."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            print("milr: interrupted", file=sys.stderr)
            raise

    return run


for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(_say_interrupted(command))
app.add_typer(data, name="data")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every error that a user can fix is one line.

    Returns:
        The exit code: 0 done, 1 a check or the machine failed, 2 wrong use, 3 not everything was scored, 130
        interrupted.
    """
    words: Sequence[str] = sys.argv[1:] if argv is None else argv
    try:
        _prepare_streams()
        _refuse_renamed(words)
        _refuse_prompts(words)
        with _interrupted_by_sigterm():
            status: object = add_own_options(_build_parser(), words)(
                args=words, prog_name="milr", standalone_mode=False
            )
    except MilrError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except OSError as error:  # a path that the system refuses, a full disk
        said = f"{error.strerror or error}{f': {_shorten(str(error.filename))}' if error.filename else ''}"
        return _fail(said, CHECK_FAILED if error.errno in _FAILURES else 2)
    except Exception as error:
        # the parser's own errors: their class moved between typer's versions, their method did not
        message = getattr(error, "format_message", None)
        if message is None:
            if (shortage := _find_shortage(error)) is None:
                raise
            return _fail(shortage, CHECK_FAILED)
        where = getattr(getattr(error, "ctx", None), "command_path", None) or _name_command(words)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            return 2
        said = _name_value(str(message()).rstrip("."), error.__cause__)
        return _fail(f"{said}; see {where} --help")
    return status if isinstance(status, int) else 0


def _find_shortage(error: Exception) -> str | None:
    """Return what to say of memory that ran out; None if the error says something else."""
    if "torch" not in sys.modules:
        return None
    from milr.decode.batching import tell_shortage

    advice = "type a smaller --batch-size or another --dtype; a run keeps what it has finished, and --resume FOLDER"
    told = tell_shortage(error, f"{advice} continues it")
    return None if told is None else str(told)


def _name_value(message: str, cause: BaseException | None) -> str:
    """Return an error of the parser with the refused value; newer versions of typer leave it out."""
    if not isinstance(cause, ValidationError):
        return message
    fault = cause.errors(include_url=False)[0]
    return message.replace(fault["msg"], f"{str(fault['input'])!r} {say_reason(fault)}")


@cache
def _build_parser() -> Any:  # click's Command, whose home moved between typer's versions
    """Build the parser once, because a program may call `main` repeatedly."""
    parser = typer.main.get_command(app)
    arrange(parser)
    return parser


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Handle options before a command."""
    if version:
        print(f"milr {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


_FAILURES = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
"""Errors of the machine that no command expects and no user can fix."""


def _name_command(words: Sequence[str]) -> str:
    """Return the command that was typed, as far as it is one: "milr data get"."""
    parser, path = _build_parser(), "milr"
    for word in words:
        parser = getattr(parser, "commands", {}).get(word)
        if parser is None:
            break
        path = f"{path} {word}"
    return path


def _prepare_streams() -> None:
    """Let terminals show a substitute for a character that they lack, so that no prompt ends a run; silence torchao."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS", "").strip("0") == "":
        os.environ.pop("COLUMNS", None)  # some programs set 0 for an unknown width
    # transformers imports torchao where it is installed, which warns of kernels and of itself
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _interrupted_by_sigterm() -> Generator[None]:
    """Treat SIGTERM like Ctrl-C, so that a run keeps its results; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_prompts(words: Sequence[str]) -> None:
    """Refuse a prompt instead of a command, and words that no file name can have."""
    if any("\0" in word for word in words):
        raise UsageError("an argument holds a NUL character, which no text or path may: leave it out")
    if words and " " in words[0].strip() and not words[0].startswith("-"):
        raise UsageError(f'unknown command {words[0]!r}: for a prompt, type milr generate "{words[0]}"')


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."


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


def _fail(message: str, exit_code: int = 2) -> int:
    line = " ".join(message.split())
    if len(line) > _LONGEST:  # the advice is at the end
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    print(f"error: {printable(line)}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
