"""The contract of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from milr.errors import UsageError
from milr.methods import load_method
from milr.methods.context import Method
from milr.methods.runner import Runner
from milr.rewards.base import Reward, RewardError, make_reward
from milr.settings import make_settings
from milr.tasks import tasks_from_prompts
from milr.testing.contracts.violations import ContractError, require
from milr.testing.fakes import FakeModel, FakeReward, brightness
from milr.types import StepRecord, Task, order


def check_method(method: str | Method, **settings: object) -> None:
    """Check a method with milr's fake model and fake rewards.

    The method must draw whole images, keep the best one, stay within its limits, and continue if an image cannot be
    scored. A task must get the same images beside other tasks, and when it is repeated.

    Args:
        method: A name, as `milr.load_method` takes it, or the method itself.
        settings: For it; small ones make the check fast.

    Raises:
        ContractError: The contract is not kept.
    """
    made = load_method(method) if isinstance(method, str) else method
    tasks = tasks_from_prompts(["a red cat", "two dogs", "a big tree"], free=True)
    never: dict[str, object] = {"stop_at": 1.0, **settings}
    whole = _run(made, tasks, never)
    alone = [record for task in tasks for record in _run(made, [task], never)]
    require(_shown(whole) == _shown(alone), f"what {made.name} draws for a task depends on its neighbours")
    require(_shown(whole) == _shown(_run(made, tasks, never)), f"{made.name} draws something else a second time")
    for index in range(len(tasks)):
        records = [record for record in whole if record.index == index]
        require(bool(records), f"{made.name} ends without a whole image")
        require([one.step for one in records] == list(range(len(records))), "a task's steps are 0, 1, 2, ...")
        best = max(order(score) for record in records for score in record.scores)
        require(order(records[-1].best_score) == best, "the best image is not the task's answer")
        require(records[-1].finished is not None, "a task's last record says why it ended")
        spent = [record.drawings_spent for record in records]
        require(all(a <= b for a, b in pairwise(spent)) and spent[0] > 0, "what is drawn is not counted")
        most = make_settings(made.name, settings, declared=made.settings).own.most_drawings
        require(spent[-1] <= most + 1e-9, f"{made.name} draws {spent[-1]:g} images, and says at most {most}")
    first = _run(made, tasks, {**settings, "stop_at": 0.0})
    require(
        all(one.finished == "met" for one in first if one.step == 0), f"{made.name} goes on after its reward is met"
    )
    capped = _run(made, tasks, {**never, "max_drawings": 1})
    fine = all(record.drawings_spent <= 1 + 1e-9 for record in capped)
    require(fine, f"{made.name} draws more than max_drawings allows")
    down = _run(made, tasks, never, FakeReward(unscored_calls=range(1, 100, 2)))
    require(len({record.index for record in down}) == len(tasks), f"{made.name} loses tasks where a reward is down")
    try:
        make_settings(made.name, {"no_such_setting": 1}, declared=made.settings)
    except UsageError:
        pass
    else:
        raise ContractError(f"{made.name} takes settings that it does not read: its model must forbid extra fields")
    try:
        _run(made, tasks, never, make_reward(lambda images, tasks: []))
    except RewardError:
        pass
    else:
        raise ContractError(f"{made.name} goes on with a reward that returns no scores")


def _run(
    method: Method, tasks: Sequence[Task], given: Mapping[str, object], reward: Reward | None = None
) -> list[StepRecord]:
    model = FakeModel()
    settings = make_settings(method.name, given, model.defaults, declared=method.settings)
    runner = Runner(
        method, list(tasks), model, reward or FakeReward(lambda image, task: brightness(image) * 0.9), settings
    )
    return sorted(runner, key=lambda record: (record.index, record.step))


def _shown(records: Sequence[StepRecord]) -> list[object]:
    return [
        (one.task, one.step, one.reasoning, tuple(image.tokens for image in one.images), one.best.tokens)
        for one in records
    ]
