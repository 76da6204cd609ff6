"""The command line: parse, call, print. Torch is imported after the first line is on the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.text import Text

from milr._version import __version__
from milr.cli.ablate import ablate
from milr.cli.benchmark import benchmark
from milr.cli.compare import compare
from milr.cli.convert import convert
from milr.cli.data import app as data
from milr.cli.doctor import doctor
from milr.cli.evaluate import judge
from milr.cli.export import export
from milr.cli.options import (
    INTERRUPTED,
    L2,
    CreditName,
    Device,
    DrawingsPerStep,
    Dtype,
    Guidance,
    ImageRatio,
    LearningRate,
    ModelName,
    NoiseName,
    Offline,
    Profile,
    Rows,
    SamplerName,
    Seed,
    Steps,
    StopAt,
    Strategy,
    Temperature,
    TextRatio,
    Yes,
    check_names,
    given_settings,
    make_config,
)
from milr.cli.pack import pack, unpack
from milr.cli.plan import ask, fetch, plan
from milr.cli.report import report
from milr.cli.score import JudgeBudget, JudgeModel, JudgeUrl, Judging, Panel, score, serve_judge
from milr.cli.score_folder import score_folder
from milr.errors import MilrError, UsageError
from milr.methods import METHODS
from milr.registry import find
from milr.runs import RunWriter, check_folder, default_folder
from milr.types import Score, StepRecord, Task, Unscored

app = typer.Typer(
    help="Search over the latents of a frozen unified model until the picture says what the prompt asked.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every error that a user can mend is one line, exit code 2."""
    try:
        status: object = app(args=argv, prog_name="milr", standalone_mode=False)
    except MilrError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        # The parser's own errors: their class moved between typer's versions, their method did not.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "milr")
        said = str(message()).rstrip(".")
        return _fail(f"{said}; see {command} --help")
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """What stands before a command."""
    if version:
        print(f"milr {__version__}")
    elif context.invoked_subcommand is None:
        raise UsageError('no command given: type milr generate "a photo of a red apple", or milr --help')


@app.command()
def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="More prompts: a line each, or GenEval's JSONL.")
    ] = None,
    model: ModelName = "embedded",
    reward: Annotated[str, typer.Option(help="A name that milr info lists, with its argument.")] = "icons",
    method: Annotated[str, typer.Option(help="How the drawings are spent: a name that milr info lists.")] = "milr",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_budget: JudgeBudget = None,
    panel: Panel = None,
    strategy: Strategy = None,
    steps: Steps = None,
    text_ratio: TextRatio = None,
    image_ratio: ImageRatio = None,
    lr: LearningRate = None,
    l2: L2 = None,
    stop_at: StopAt = None,
    credit: CreditName = None,
    noise: NoiseName = None,
    drawings_per_step: DrawingsPerStep = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    sampler: SamplerName = None,
    seed: Seed = None,
    rows: Rows = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    profile: Profile = None,
    offline: Offline = False,
    yes: Yes = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="A drawing never depends on what is drawn beside it, bfloat16 too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder; default: runs/<time>-<prompt>.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a task on standard output.")] = False,
) -> None:
    """Draw pictures that show what the prompts say. Settings not given are the model's own."""
    given = given_settings(context)
    # Whatever can be refused is refused before seconds are spent on loading a model.
    make_config(given)
    prompts = prompts or []
    _check_prompts(prompts, prompts_file)
    check_names(model, reward, dtype)
    find("method", method, METHODS)
    judging = Judging.read(judge_url, judge_model, judge_budget, panel)
    if out is not None:
        check_folder(out)

    screen = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    screen.print(f"milr: loading {_the_model(model)} ...")
    from milr import load_model, load_reward, read_tasks, tasks_from_prompts
    from milr.methods import load_method
    from milr.rewards import needs_model
    from milr.rewards.panel import watch

    # A missing key or server is found before the model is loaded, where the reward can do without it.
    judge = None if needs_model(reward) else load_reward(reward, judges=judging.judges)
    loaded = load_model(
        model,
        device=device,
        dtype=dtype,
        profile=profile,
        offline=offline,
        confirm=ask(screen, yes),
        deterministic=deterministic,
        settings={name: value for name, value in given.items() if name in ("text_ratio", "image_ratio")},
    )
    free = loaded.reads_free_prompts
    tasks = tasks_from_prompts(prompts, free=free) if prompts else []
    tasks += read_tasks(prompts_file, free=free) if prompts_file else []
    config = make_config({**loaded.search_defaults, **given})
    judge = judge or load_reward(reward, model=loaded, judges=judging.judges)
    watched = judging.load_panel(loaded)
    pictures = len(tasks) * (config.steps + 1) * config.drawings_per_step
    for line in judging.costs(judge, watched, loaded, pictures):
        screen.print(f"milr: {line}")
    writer = RunWriter(
        out or default_folder(tasks[0].prompt),
        tasks=tasks,
        config=config,
        model=loaded.name,
        model_folder=loaded.folder,
        reward=judge.name,
        method=method,
        panel=[one.name for one in watched.values()],
        judges=judging.judges.spending,
        device=device,
        dtype=dtype,
    )
    report = _Report(screen, tasks, config.steps)
    try:
        with writer, report:
            for record in watch(load_method(method)(tasks, loaded, judge, config), watched):
                report.show(record, writer.write(record))
    except KeyboardInterrupt:
        screen.print(f"milr: interrupted; {report.kept()} in {writer.folder}")
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise MilrError(f"{error} ({report.kept()} in {writer.folder})") from error
    finally:
        if as_json:
            for outcome in report.outcomes(writer.folder):
                print(json.dumps(outcome, ensure_ascii=False))
        judging.judges.close()
    report.conclude(writer.folder, judging.conclusion(report.ends()))


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the embedded model's folder.")] = False,
) -> None:
    """List the models, prompt profiles, rewards, methods, strategies and benchmarks that there are."""
    from milr.benchmarks import BENCHMARKS
    from milr.methods import METHODS
    from milr.methods.strategies import STRATEGIES
    from milr.models import MODELS, embedded_folder
    from milr.models.prompts import PROFILES
    from milr.rewards import REWARDS

    lists = {
        "models": {name: entry.summary for name, entry in MODELS.items()},
        "profiles": {name: profile.summary for name, profile in PROFILES.items()},
        "rewards": {name: entry.summary for name, entry in REWARDS.items()},
        "methods": {name: entry.summary for name, entry in METHODS.items()},
        "strategies": {name: strategy.summary for name, strategy in STRATEGIES.items()},
        "benchmarks": {name: entry.summary for name, entry in BENCHMARKS.items()},
    }
    if as_json:
        print(json.dumps({"version": __version__, **lists, "embedded_model": str(embedded_folder())}, indent=2))
        return
    width = max(len(name) for summaries in lists.values() for name in summaries)
    for kind, summaries in lists.items():
        for name, summary in summaries.items():
            print(f"{kind:<12}{name:<{width}}  {summary}")


app.command("ablate")(ablate)
app.command("benchmark")(benchmark)
app.command("compare")(compare)
app.command("convert")(convert)
app.add_typer(data, name="data")
app.command("doctor")(doctor)
app.command("export")(export)
app.command("report")(report)
app.command("fetch")(fetch)
app.command("judge")(judge)
app.command("pack")(pack)
app.command("plan")(plan)
app.command("score")(score)
app.command("score-folder")(score_folder)
app.command("serve-judge")(serve_judge)
app.command("unpack")(unpack)


def _check_prompts(prompts: Sequence[str], file: Path | None) -> None:
    example = 'milr generate "a photo of a red apple left of a blue clock"'
    if any(not prompt.strip() for prompt in prompts):
        raise UsageError(f"a prompt is empty: say what to draw, for instance {example}")
    if file is not None and not file.is_file():
        raise UsageError(f"--prompts {file}: no such file; give a text file with a prompt a line, or GenEval's JSONL")
    if not prompts and file is None:
        raise UsageError(f"no prompt given: type {example}, or --prompts FILE")


def _the_model(model: str) -> str:
    from milr.models import MODELS

    return f"the {model} model" if model in MODELS else f"the model in {model}"


class _Report:
    """Consumes records: a line a step, on a terminal with a line below that says what is under way."""

    def __init__(self, screen: Console, tasks: Sequence[Task], steps: int) -> None:
        self._screen = screen
        self._tasks = tasks
        self._steps = steps
        self._first: dict[int, Score | Unscored] = {}
        self._last: dict[int, tuple[StepRecord, Path]] = {}  # finished tasks and their folders
        self._told: set[str] = set()
        self._status = screen.status("reasoning and drawing the first pictures") if screen.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def show(self, record: StepRecord, folder: Path | None) -> None:
        """Print the record's line; `folder` is the task's when this is its last record."""
        self._first.setdefault(record.index, record.scores[0])
        if folder is not None:
            self._last[record.index] = record, folder
        for note in record.notes:
            if note not in self._told:
                self._told.add(note)
                self._print(f"note: {note}")
        self._print(self._line(record))
        if self._status:
            self._status.update(f"{len(self._last)} of {len(self._tasks)} tasks finished, {record.seconds:.0f} s")

    def _print(self, line: str) -> None:
        # A terminal's lines are cut to its width, so that steps stay under one another; files get them whole.
        cut = self._screen.is_terminal
        self._screen.print(Text(line), no_wrap=True, overflow="ellipsis" if cut else "ignore", soft_wrap=not cut)

    def _line(self, record: StepRecord) -> str:
        many = len(self._tasks) > 1
        parts = [
            f"{record.index + 1}/{len(self._tasks)}" if many else "",
            f"step {record.step:>2}/{self._steps}",
            f"reward {' '.join(_value(score) for score in record.scores)}",
            f"best {_value(record.best_score)} at {record.best_step:>2}",
            f"{record.seconds:.1f} s",
            record.finished or "",
            f"flipped: text {record.flipped_text}/{record.text_latents}, "
            f"image {record.flipped_image}/{record.image_latents}",
            record.task.prompt if many else "",
        ]
        return "  ".join(part for part in parts if part)

    def kept(self) -> str:
        """How much of the run is finished."""
        return f"{len(self._last)} of {len(self._tasks)} tasks finished and kept"

    def outcomes(self, run: Path) -> list[dict[str, object]]:
        """One object a finished task, in the order of the prompts."""
        return [self._outcome(*self._last[index], run) for index in sorted(self._last)]

    def _outcome(self, last: StepRecord, folder: Path, run: Path) -> dict[str, object]:
        scores = [self._first[last.index], last.best_score]
        first, best = map(_number, scores)
        reasons = [score.reason for score in scores if isinstance(score, Unscored)]
        outcome: dict[str, object] = {
            "prompt": last.task.prompt,
            "first_reward": first,
            "best_reward": best,
            "steps": last.step,
            "drawings": last.drawings_spent,
            "seconds": round(last.seconds, 3),
            "picture": str((folder / "best.png").resolve()),
            "run": str(run.resolve()),
        }
        panel = {
            name: {"first": _number(last.panel_first[name]), "best": _number(seen)}
            for name, seen in last.panel_best.items()
        }
        return outcome | ({"panel": panel} if panel else {}) | ({"reason": reasons[-1]} if reasons else {})

    def ends(self) -> list[tuple[Score | Unscored, StepRecord]]:
        """The first score and the last record of each finished task."""
        return [(self._first[index], self._last[index][0]) for index in sorted(self._last)]

    def conclude(self, run: Path, more: Sequence[str]) -> None:
        """Say what the first and the best pictures scored, what else there is to say, and where everything is."""
        finished = [self._last[index] for index in sorted(self._last)]
        for last, folder in finished if len(finished) == 1 else ():
            self._screen.print(f"first picture: {_verdict(self._first[last.index])}")
            self._screen.print(f"best picture:  {_verdict(last.best_score)}, at step {last.best_step}")
            self._screen.print(f"all pictures:  {folder / 'strip.png'}")
        if len(finished) > 1:
            self._screen.print(f"first pictures: {_average(list(self._first.values()))}")
            self._screen.print(f"best pictures:  {_average([last.best_score for last, _ in finished])}")
        for line in more:
            self._screen.print(line)
        if len(finished) < len(self._tasks):
            self._screen.print(f"not begun: {len(self._tasks) - len(finished)} of {len(self._tasks)} tasks")
        self._screen.print(f"run: {run}")


def _value(score: Score | Unscored) -> str:
    return "unscored" if isinstance(score, Unscored) else f"{score.value:.2f}"


def _number(score: Score | Unscored) -> float | None:
    return None if isinstance(score, Unscored) else score.value


def _verdict(score: Score | Unscored) -> str:
    if isinstance(score, Unscored):
        return f"unscored: {score.reason}"
    return f"{score.value:.2f}" + (f" ({score.explanation})" if score.explanation else "")


def _average(scores: Sequence[Score | Unscored]) -> str:
    values = [score.value for score in scores if isinstance(score, Score)]
    unscored = f", {len(scores) - len(values)} unscored" if len(values) < len(scores) else ""
    return (f"{sum(values) / len(values):.2f} on average" if values else "none scored") + unscored


if __name__ == "__main__":
    sys.exit(main())
