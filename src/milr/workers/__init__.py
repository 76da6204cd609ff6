"""Workers: the same work in several processes on this machine, or in actors on a Ray cluster.

A worker loads model and rewards once, is given tasks, and streams their records back. The coordinator alone writes the
run, so workers need no shared file system. A task's records do not depend on the worker that makes them, so a run is
the same for any number of workers, and whatever happens to them on the way.
"""

from milr.workers.choice import (
    RewardChoice,
    WorkerChoice,
    load_chosen,
    load_team,
    read_reward_workers,
    read_workers,
    start_servers,
)

__all__ = [
    "RewardChoice",
    "WorkerChoice",
    "load_chosen",
    "load_team",
    "read_reward_workers",
    "read_workers",
    "start_servers",
]
