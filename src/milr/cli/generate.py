"""`milr generate`: prompts to images, by any method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from milr.cli.look import Open, show_page
from milr.cli.options import (
    DEFAULT_MODEL,
    INTERRUPTED,
    Device,
    Dtype,
    FailUnder,
    ModelName,
    Offline,
    Profile,
    Quiet,
    Reward,
    Verbose,
    Yes,
    ask,
    check_names,
    choose_search,
    end_by_scores,
    make_screen,
    name_search,
    with_settings,
)
from milr.cli.progress import SearchProgress
from milr.cli.vlm import Panel, VlmBudget, VlmModel, VlmOptions, VlmPrice, VlmUrl, most_images
from milr.errors import MilrError, UsageError
from milr.models import ModelSource, find_source, reads_free_prompts
from milr.runs import RunWriter, check_folder, default_folder
from milr.settings import make_settings
from milr.tasks import PromptFile, explain, read_prompt_file, tasks_from_prompts
from milr.types import Score


@with_settings()
def generate(
    given: dict[str, object],
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="More prompts: one per line, JSON, JSONL, CSV or TSV; - is standard input.",
        ),
    ] = None,
    model: ModelName = DEFAULT_MODEL,
    reward: Reward = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How drawings are spent: a name that milr info lists. Default: the model's best measured one; "
            "milr is the paper's."
        ),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    vlm_budget: VlmBudget = None,
    vlm_price: VlmPrice = None,
    panel: Panel = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    profile: Profile = None,
    offline: Offline = False,
    yes: Yes = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Images never depend on their neighbours in a batch, in bfloat16 too."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run; default: runs/<time>-<prompt>.")
    ] = None,
    open_page: Open = False,
    fail_under: FailUnder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per task on standard output.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw images that show what the prompts say. Settings that are not given are the model's own."""
    # errors are found before seconds are spent on loading a model
    screen, result = make_screen(quiet, verbose, stderr=as_json), make_screen(quiet=False, stderr=as_json)
    make_settings(method or "milr", given)
    prompts = prompts or []
    _check_prompts(prompts, prompts_file)
    check_names(model, reward, dtype)
    vlm = VlmOptions.read(vlm_url, vlm_model, vlm_budget, vlm_price, panel)
    if out is not None:
        check_folder(out)
    source = find_source(model, weights=False, offline=offline)
    read = _read_prompts(prompts, prompts_file, source)
    method, given = choose_search(method, given, source)
    make_settings(method, given)
    tasks = read.tasks
    for line in (*read.notes, *filter(None, map(explain, tasks)), *_ask_for_quotes(prompts)):
        screen.print(f"milr: {line}")
    screen.print(f"milr: loading {_the_model(model)} ...")
    from milr import load_model, load_reward
    from milr.methods import load_method
    from milr.methods.runner import Runner
    from milr.models import read_capabilities
    from milr.models.devices import Placement, machine_facts
    from milr.rewards import check_installed, check_scorable, default_reward, locate_reward, needs_model
    from milr.rewards.panel import watch

    capabilities, placement = read_capabilities(source, profile), Placement(device, dtype)
    reward = reward or default_reward(capabilities)
    check_scorable(reward, tasks, capabilities)
    for name in vlm.panel:
        check_scorable(name, tasks, capabilities, "--panel")
    check_installed(reward, *vlm.panel)
    # a missing key or server is found before the model is loaded, if the reward does not ask the model
    scorer = None if needs_model(reward) else load_reward(reward, vlm=vlm.client, placement=placement)
    loaded = load_model(
        model,
        device=device,
        dtype=dtype,
        profile=profile,
        offline=offline,
        confirm=ask(screen, yes),
        deterministic=deterministic,
        settings=given,
    )
    settings = loaded.settings(method, **given)
    scorer = scorer or load_reward(reward, model=loaded, vlm=vlm.client, placement=placement)
    screen.print(f"milr: by the method {name_search(settings)}")
    watched = vlm.load_panel(loaded, placement)
    for line in vlm.costs(scorer, watched, loaded, most_images(settings, len(tasks))):
        screen.print(f"milr: {line}")
    writer = RunWriter(
        out or default_folder(tasks[0].shown),
        tasks=tasks,
        settings=settings,
        model=loaded.name,
        model_folder=loaded.folder,
        reward=scorer.name,
        panel=[one.name for one in watched.values()],
        vlm_usage=vlm.client.usage,
        machine=machine_facts(placement, {"reward_device": locate_reward(reward, placement)}),
        model_asked=model,
        reward_asked=reward,
        profile=profile,
        device=device,
        dtype=dtype,
    )
    progress = SearchProgress(screen, tasks, settings, verbose=verbose)
    try:
        with writer, progress, closing(Runner(load_method(method), tasks, loaded, scorer, settings)) as runner:
            try:
                for record in watch(runner, watched):
                    progress.show(record, writer.write(record))
            except KeyboardInterrupt:
                for record, path in writer.conclude_begun():
                    progress.show(record, path)
                raise
    except KeyboardInterrupt:
        result.print(f"milr: interrupted; {progress.kept()} in {writer.folder}{_say_cut(progress)}")
        result.print("milr: to draw again, type the same command" + (" with another --out" if out else ""))
        show_page(writer.folder, result.print, open_page)
        raise typer.Exit(INTERRUPTED) from None
    except MilrError as error:
        raise error.extend(f" ({progress.kept()} in {writer.folder})") from error
    finally:
        if as_json:
            for outcome in progress.outcomes(writer.folder):
                print(json.dumps(outcome, ensure_ascii=False))
        vlm.client.close()
    progress.conclude(writer.folder, vlm.conclusion(progress.ends()), result)
    show_page(writer.folder, result.print, open_page)
    bests = [last.best_score for _, last in progress.ends()]
    end_by_scores([best.value if isinstance(best, Score) else None for best in bests], fail_under)


def _check_prompts(prompts: Sequence[str], file: Path | None) -> None:
    example = 'milr generate "a photo of a red apple left of a blue clock"'
    if any(not prompt.strip() for prompt in prompts):
        raise UsageError(f"a prompt is empty: say what to draw, for instance {example}")
    if not prompts and file is None:
        raise UsageError(f"no prompt given: type {example}, or --prompts FILE")


def _read_prompts(prompts: Sequence[str], file: Path | None, source: ModelSource) -> PromptFile:
    """Return the tasks of prompts and file, in the form that the model reads, without loading it."""
    free = reads_free_prompts(source)
    try:
        tasks = tasks_from_prompts(prompts, free=free) if prompts else []
    except UsageError as error:
        raise UsageError("; ".join((str(error), *_ask_for_quotes(prompts)))) from error
    more = read_prompt_file(file, free=free) if file else PromptFile(())
    return PromptFile((*tasks, *more.tasks), more.notes)


def _ask_for_quotes(prompts: Sequence[str]) -> list[str]:
    """Return a hint if several prompts of one word each may be one prompt without quotes."""
    if len(prompts) < 2 or any(len(prompt.split()) > 1 for prompt in prompts):
        return []
    return [f'{len(prompts)} prompts of one word each: did you mean milr generate "{" ".join(prompts)}"?']


def _say_cut(progress: SearchProgress) -> str:
    cut = sum(last.finished == "cancelled" for _, last in progress.ends())
    return f", {cut} of them early, with the best image so far" if cut else ""


def _the_model(model: str) -> str:
    from milr.models import MODELS

    return f"the {model} model" if model in MODELS else f"the model {model}"
