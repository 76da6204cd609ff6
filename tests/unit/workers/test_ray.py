"""Workers on a Ray cluster of two nodes on this machine. Skipped without Ray: `pip install "milr[ray]"`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milr.errors import MilrError, UsageError
from milr.jobs import Job, begin_run
from milr.models.devices import Placement
from milr.parts import Names
from milr.rewards.vlm.client import VlmClient
from milr.runs import read_run
from milr.tasks import tasks_from_prompts
from milr.types import Score
from milr.workers import RewardChoice, WorkerChoice, load_chosen
from milr.workers.messages import Died
from milr.workers.team import Member, Team
from tests.support.served_reward import LOADER as SERVED
from tests.support.worker_parts import LOADER
from tests.unit.workers.test_workers import NAMES, PROMPTS, answers, make_job, whole

ray: Any = pytest.importorskip("ray", reason='needs Ray: pip install "milr[ray]"')
pytestmark = [
    pytest.mark.slow,
    # Ray's own: files that it leaves open, and what it says of settings to come
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COMMAND = f"{sys.executable} -m tests.support.served_reward"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head without room, and two nodes with room for a worker each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # raylets pass it on to their workers
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_niceness", "0")  # at Ray's 15 a busy machine would hardly run them
        made: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


def test_a_run_on_two_nodes_equals_that_of_one_process(cluster: Any, tmp_path: Path) -> None:
    job = make_job(tmp_path / "spread", WorkerChoice(None, ray=True, loader=LOADER), NAMES["milr"], PROMPTS)
    list(job.run())
    assert job.parts.facts["workers"] == 2
    assert answers(tmp_path / "spread") == whole(tmp_path / "one", NAMES["milr"])


def test_a_node_that_dies_gives_its_tasks_back(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: Names = NAMES["milr"]
    died, bury = list[Died](), Team._bury

    def note(team: Team, member: Member, one: Died) -> None:
        died.append(one)
        bury(team, member, one)

    monkeypatch.setattr(Team, "_bury", note)
    job = make_job(tmp_path / "spread", WorkerChoice(2, ray=True, loader=LOADER), names, PROMPTS)
    for number, _ in enumerate(job.run()):
        if number == 5:
            cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
            cluster.nodes.append(cluster.add_node(num_cpus=1))
    assert not job.set_aside
    assert all(one.blameless for one in died), died  # also where Ray says first that the connection is lost
    assert answers(tmp_path / "spread") == whole(tmp_path / "one", names)


@pytest.fixture(scope="module")
def gpus(cluster: Any) -> Iterator[Any]:
    """Replace the nodes by two with two pretended GPUs each, and room for a worker and its reward worker."""
    for node in cluster.nodes:
        cluster.remove_node(node)
    cluster.nodes = [cluster.add_node(num_cpus=2, num_gpus=2) for _ in range(2)]
    yield cluster


def make_group_job(folder: Path, gpus: float, reward_gpus: float, count: int | None = None) -> Job:
    names, rewards = Names("fake", "icons", "milr"), RewardChoice(1, COMMAND, reward_gpus)
    choice, given = WorkerChoice(count, ray=True, gpus=gpus, loader=SERVED), {"batch_size": 2, "steps": 2}
    parts = load_chosen(choice, names, Placement("cuda"), VlmClient(), rewards=rewards, settings=given)
    settings = parts.model.settings("milr", stop_at=1.0, **given)
    tasks = tasks_from_prompts(PROMPTS, free=True)
    return Job(parts, begin_run(folder, tasks, settings, parts, names, Placement("cuda"), deterministic=True))


def read_places(folder: Path) -> set[tuple[str, ...]]:
    """Return the GPUs of each worker, and those of the reward worker that scored for it."""
    return {
        (str(one["worker process"]), str(one["worker gpus"]), str(one["reward gpus"]))
        for task in read_run(folder).tasks
        for step in task.steps
        for one in (score.evidence for score in step.scores if isinstance(score, Score))
    }


@pytest.mark.parametrize(("each", "reward", "shared"), [(0.5, 0.5, True), (1.0, 1.0, False)])
def test_a_worker_and_its_reward_worker_share_or_divide_gpus(
    gpus: Any, each: float, reward: float, shared: bool, tmp_path: Path
) -> None:
    job = make_group_job(tmp_path, each, reward)
    assert job.parts.facts["workers"] == 2 and job.parts.reward.name == "icons@1"
    team = job.parts.team
    while not all(one.ready for one in team.members):  # both fit only if no earlier group is left
        team.receive(1.0)
    list(job.run())
    found = read_places(tmp_path)
    assert len({worker for worker, _, _ in found}) == len(found) == 2  # each worker has one reward worker
    for _, worker, scorer in found:
        assert worker in ("0", "1") and scorer in ("0", "1")
        assert (worker == scorer) == shared


def test_a_reward_worker_that_dies_is_replaced_with_its_worker(gpus: Any, tmp_path: Path) -> None:
    job = make_group_job(tmp_path, 1.0, 1.0, 1)
    for number, (record, _, _) in enumerate(job.run()):
        if number == 3:
            score = record.scores[0]
            assert isinstance(score, Score)
            os.kill(int(str(score.evidence["reward process"])), signal.SIGKILL)
    run = read_run(tmp_path)
    assert len(run.tasks) == len(PROMPTS) and job.parts.team.replaced == 1 and not job.set_aside
    assert all(isinstance(score, Score) for task in run.tasks for step in task.steps for score in step.scores)


def test_groups_that_fit_on_no_node_are_refused_at_once(gpus: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs 1 CPUs and 2 GPUs, and for its reward worker 1 CPU and 1 GPUs, all"):
        make_group_job(tmp_path, 2.0, 1.0)


def test_a_reward_worker_that_does_not_start_says_why(gpus: Any, tmp_path: Path) -> None:
    names, rewards = Names("fake", "icons", "milr"), RewardChoice(1, f"{sys.executable} -c \"raise SystemExit('no')\"")
    choice = WorkerChoice(1, ray=True, gpus=1.0, loader=SERVED)
    with pytest.raises(MilrError, match="the reward server did not start: no"):
        load_chosen(choice, names, Placement("cuda"), VlmClient(), rewards=rewards)
