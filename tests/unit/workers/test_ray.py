"""Workers on a Ray cluster of two nodes on this machine. Skipped without Ray: `pip install "milr[ray]"`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milr.parts import Names
from milr.workers import WorkerChoice
from milr.workers.messages import Died
from milr.workers.team import Member, Team
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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head without room, and two nodes with room for a worker each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # raylets pass it on to their workers
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        made: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


def test_a_run_on_two_nodes_is_that_of_one_process(cluster: Any, tmp_path: Path) -> None:
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
