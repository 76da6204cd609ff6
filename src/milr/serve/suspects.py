"""Searches that may have ended the server's process: after a start they are drawn one by one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from milr.serve.jobs import Job
from milr.serve.store import Store

log = logging.getLogger("milr.serve")
MOST_ATTEMPTS = 5
"""Processes that may end while they draw a search, one after the other, before it is given up."""


class Suspects:
    """The searches that were in progress when an earlier process ended, and the attempts of all searches."""

    def __init__(self, store: Store) -> None:
        """Begin without suspects."""
        self._store = store
        self._waiting: deque[Job] = deque()

    def add(self, job: Job, attempts: int) -> None:
        """Let a search wait until those that wait already have made a step."""
        self._waiting.append(job)
        log.warning("search may have ended the process", extra={"facts": {"search": job.id, "times": attempts}})

    def drop(self, job: Job) -> None:
        """Forget a search that is stopped."""
        if job in self._waiting:
            self._waiting.remove(job)

    def next(self, jobs: Iterable[Job]) -> Job | None:
        """Return the search that is tried next; None while one is tried, or if none waits.

        Args:
            jobs: All searches in progress.
        """
        if any(job.tried for job in jobs) or not self._waiting:
            return None
        job = self._waiting.popleft()
        job.tried = True
        return job

    def acquit(self, job: Job) -> None:
        """Note that a search has not ended the process, if that was still open."""
        if job.tried:
            job.tried = False
            self._store.succeed(job.id)
