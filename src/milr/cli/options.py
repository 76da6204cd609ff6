"""The options that several commands share: a search's settings, the model's device, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError

from milr.config import SearchConfig
from milr.errors import UsageError, unknown_name

INTERRUPTED = 130  # what a shell reports after Ctrl-C

ModelName = Annotated[str, typer.Option(help="A name that milr info lists, a model's folder, or its name at the hub.")]
Strategy = Annotated[str | None, typer.Option(help="Which latents move when: joint, alt, t2v, or ours, steer.")]
Steps = Annotated[int | None, typer.Option(help="Updates after the first picture.")]
TextRatio = Annotated[float | None, typer.Option(help="Share of text positions that move; 0 for none.")]
ImageRatio = Annotated[float | None, typer.Option(help="Share of image positions that move; 0 for none.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Adam's learning rate.")]
L2 = Annotated[float | None, typer.Option("--l2", help="Weight of the latents' distance from their start.")]
StopAt = Annotated[float | None, typer.Option(help="Stop when the reward is above; default: the reward's.")]
CreditName = Annotated[
    str | None, typer.Option("--credit", help="What weighs the gradient: reward, zero, random or negated.")
]
NoiseName = Annotated[str | None, typer.Option("--noise", help="Random streams of each step: fresh or fixed.")]
DrawingsPerStep = Annotated[int | None, typer.Option(help="Drawings that share one update.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance of the image.")]
Temperature = Annotated[float | None, typer.Option(help="Of the image tokens.")]
SamplerName = Annotated[
    str | None, typer.Option("--sampler", help="How an image token is drawn: race, or inverse (faster on a CPU).")
]
Seed = Annotated[int | None, typer.Option(help="Of all random streams.")]
Rows = Annotated[int | None, typer.Option("--rows", help="Tasks that are searched at once.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option(help="The weights' type: float32, bfloat16 or float16.")]

Profile = Annotated[str | None, typer.Option(help="How the model is spoken to; default: what its checkpoint shows.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the hub; as with HF_HUB_OFFLINE=1.")]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to downloads without being asked.")]

_FLAGS = {"learning_rate": "lr", "max_rows": "rows"}


def given_settings(context: typer.Context) -> dict[str, object]:
    """The fields of `SearchConfig` that the command line gives, from options named as these, or as `_FLAGS` says."""
    values = {name: context.params.get(_FLAGS.get(name, name)) for name in SearchConfig.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def make_config(values: Mapping[str, object]) -> SearchConfig:
    """The settings, or a `UsageError` that names the option and what it allows."""
    try:
        return SearchConfig.model_validate(dict(values))
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        if name not in SearchConfig.model_fields:
            raise unknown_name("setting", name, SearchConfig.model_fields) from None
        field = SearchConfig.model_fields[name]
        if get_origin(field.annotation) is Literal:
            raise unknown_name(name, str(wrong["input"]), get_args(field.annotation)) from None
        flag = _FLAGS.get(name, name.replace("_", "-"))
        allowed = _allowed(field.metadata) or wrong["msg"]
        raise UsageError(f"--{flag} {wrong['input']}: {allowed}") from None


def check_names(model: str, reward: str | None, dtype: str | None) -> None:
    """Refuse names that nothing has, before anything is loaded."""
    from milr.models import check_model
    from milr.models.devices import check_dtype
    from milr.rewards import check_reward

    check_model(model)
    if reward is not None:
        check_reward(reward)
    check_dtype(dtype)


def _allowed(bounds: Sequence[Any]) -> str:
    """What a field's bounds say, in words."""
    least, above, most = (
        next((getattr(bound, name) for bound in bounds if hasattr(bound, name)), None) for name in ("ge", "gt", "le")
    )
    if least is not None and most is not None:
        return f"must lie in [{least}, {most}]"
    if least is not None:
        return f"must be at least {least}"
    return "" if above is None else f"must be above {above}"
