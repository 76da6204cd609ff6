"""A worker and its reward workers on a cluster: which GPUs they share, and what no cluster of a size can ever place."""

from __future__ import annotations

from pathlib import Path

import pytest

from milr.benchmarks.runner import BenchmarkJob
from milr.cli.main import main
from milr.errors import UsageError
from milr.models.devices import Placement
from milr.parts import Names
from milr.workers import RewardChoice, WorkerChoice, load_chosen, read_reward_workers
from milr.workers.groups import Group, count_room

FOUR = {"CPU": 8.0, "GPU": 4.0}
ONE = {"CPU": 2.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("group", "bundles", "nodes", "room"),
    [
        (Group(1, 1.0), [{"CPU": 1, "GPU": 1}], [FOUR, ONE], 5),
        (Group(2, 0.0), [{"CPU": 2}], [{"CPU": 1.0}, {"CPU": 1.0}], 0),  # two CPUs, but on two nodes
        (Group(1, 0.6), [{"CPU": 1, "GPU": 0.6}], [FOUR], 4),  # the sum of GPUs would say six
        (Group(1, 2.0), [{"CPU": 1, "GPU": 2}], [ONE, ONE], 0),
        (Group(1, 0.5, 1, 0.5), [{"CPU": 2, "GPU": 1}], [FOUR, ONE], 5),  # one bundle: they share a GPU
        (Group(1, 0.5, 2, 0.25), [{"CPU": 3, "GPU": 1}], [FOUR, ONE], 2),  # CPUs are the limit
        (Group(1, 1.0, 1, 0.5), [{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 0.5}], [FOUR], 2),
        (Group(1, 1.0, 2, 1.0), [{"CPU": 1, "GPU": 1}] * 3, [FOUR, ONE], 1),
        (Group(1, 0.75, 1, 0.75), [{"CPU": 1, "GPU": 0.75}] * 2, [ONE], 0),
        (Group(1, 0.0, 3), [{"CPU": 4}], [FOUR], 2),
    ],
)
def test_groups_that_fit_on_nodes_are_counted(
    group: Group, bundles: list[dict[str, float]], nodes: list[dict[str, float]], room: int
) -> None:
    assert group.bundles == bundles
    assert count_room(nodes, group) == room


@pytest.mark.parametrize(
    ("count", "command", "gpus", "device", "ray", "said"),
    [
        (None, None, 0.5, "cuda", True, "give --reward-workers too"),
        (1, None, 0.5, "cuda", False, "--gpus-per-reward-worker 0.5 is for --workers ray; on this machine give"),
        (1, None, 0.5, "cpu", True, "--gpus-per-reward-worker 0.5 with --device cpu: give --device cuda"),
        (1, None, 1.5, "cuda", True, "--gpus-per-reward-worker 1.5: give a part of a GPU, for instance 0.5, or whole"),
    ],
)
def test_wrong_uses_say_what_to_type(
    count: int | None, command: str | None, gpus: float, device: str, ray: bool, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        rewards = read_reward_workers(count, command, gpus)
        choice = WorkerChoice(1, ray=ray)
        load_chosen(choice, Names("fake", "icons", "milr"), Placement(device), rewards=rewards)
    assert said in str(error.value)


def test_a_part_of_several_gpus_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--gpus-per-worker 1.5: give a part of a GPU"):
        WorkerChoice(1, ray=True, gpus=1.5).gpus_on("cuda")


def test_a_resumed_benchmark_gets_the_reward_workers_that_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RewardChoice | None] = []

    def resume(*_: object) -> None:
        given.append(next((one for one in _ if isinstance(one, RewardChoice)), None))
        raise UsageError("that is all")

    monkeypatch.setattr("milr.jobs.read_names", lambda *_: (None, Names("fake", "icons", "milr")))  # of a run
    monkeypatch.setattr(BenchmarkJob, "resume", resume)
    assert main(["benchmark", "--resume", str(tmp_path), "--reward-workers", "2"]) == UsageError.exit_code
    assert given == [RewardChoice(2)]
