"""The models that a server offers: their facts before loading, and how to load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from milr.errors import UsageError
from milr.models import describe_model, find_source, load_model
from milr.models.base import Capabilities
from milr.models.devices import Placement
from milr.models.sizing import make_plan
from milr.parts import Names
from milr.rewards import check_scorable, default_reward, load_reward
from milr.serve.drawing import Loaded, spread
from milr.workers import WorkerChoice


@dataclass(frozen=True)
class Offer:
    """A model that clients may name."""

    name: str
    capabilities: Capabilities
    defaults: Mapping[str, object]
    """Settings whose best values depend on the model."""
    free: bool
    """False if its prompts follow the grammar of `milr.tasks`."""
    best: Mapping[str, object]
    """Method and strategy of requests that name none."""
    reward: str
    """The requested name."""
    bytes: int
    """Bytes of its weights."""
    load: Callable[[], Loaded]


def make_offer(
    name: str,
    *,
    reward: str | None = None,
    panel: Sequence[str] | None = None,
    placement: Placement | None = None,
    workers: WorkerChoice | None = None,
    batch_size: int = 16,
) -> Offer:
    """Read a model's facts; its weights are read by `load`.

    Args:
        name: As `milr generate --model` takes it.
        reward: A name; None takes the model's default.
        panel: Rewards that only watch; None takes `icons-judge` for models that draw icons.
        placement: Where it computes.
        workers: The workers that load it; None loads it in this process.
        batch_size: Images in progress at once, of each worker.

    Raises:
        UsageError: No such model or reward, or a reward that cannot score its images.
    """
    placement = placement or Placement()
    described = describe_model(find_source(name))
    capabilities = described.capabilities
    icons = capabilities.image_language == "icons"
    reward = reward or default_reward(capabilities)
    panel = (["icons-judge"] if icons else []) if panel is None else panel
    check_scorable(reward, (), capabilities)
    for one in panel:
        check_scorable(one, (), capabilities, "--panel")
    if workers is None:
        load = partial(_load, name, reward, panel, placement)
    else:
        workers.gpus_on(placement.device)
        load = partial(spread, Names(name, reward, "one-shot", panel=tuple(panel)), placement, workers, batch_size)
    copies = 1 if workers is None else workers.count or 1
    plan = make_plan(described, device=placement.device, dtype=placement.dtype)
    return Offer(
        name=name,
        capabilities=capabilities,
        defaults=described.defaults,
        free=described.reads_free_prompts,
        best=dict(described.best),
        reward=reward,
        bytes=0 if plan is None else plan.weights * copies,
        load=load,
    )


def _load(name: str, reward: str, panel: Sequence[str], placement: Placement) -> Loaded:
    model = load_model(name, device=placement.device, dtype=placement.dtype)
    watched = {one: load_reward(one, model=model, placement=placement) for one in panel}
    return Loaded(model, load_reward(reward, model=model, placement=placement), watched)


def choose_offer(offers: Sequence[Offer], name: str | None) -> Offer:
    """Return the model of that name; None takes the first.

    Raises:
        UsageError: The server does not offer it.
    """
    if not offers:
        raise UsageError("this server draws nothing: it only judges images")
    if name is None:
        return offers[0]
    for offer in offers:
        if offer.name == name:
            return offer
    raise UsageError(f"this server has no model {name[:100]!r}: it has {', '.join(offer.name for offer in offers)}")
