"""The journal of searches: their events and states in the index, for clients and for the next start."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from milr.runs import StoredStep
from milr.serve.errors import say_error
from milr.serve.jobs import Job
from milr.serve.metrics import Metrics
from milr.serve.steps import describe_step, name_place
from milr.serve.store import State, Store, now

log = logging.getLogger("milr.serve")


class Journal:
    """The writer of searches' events. Errors of the index are SQLAlchemy's."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        """Write into this index; count the ends."""
        self._store, self._metrics = store, metrics

    def begin(self, job: Job) -> None:
        """Store that a search was given its first place."""
        self._store.attempt(job.id)
        self._store.record(job.id, "state", "begun", {"state": "running"}, state="running")

    def tell(self, job: Job, step: StoredStep) -> bool:
        """Store a step's event; return false if it is stored already."""
        kind, data = "step" if step.finished is None else "image", describe_step(job.id, step)
        place = step.index, step.image
        if place in job.prompt_tokens:
            data["input_tokens"] = job.prompt_tokens[place]
        return self._store.record(job.id, kind, name_place(step), data, **job.conclude())

    def end(self, search: str, state: State, error: str, **values: Any) -> None:
        """Store a search's end, as far as there is room.

        Args:
            search: Its id.
            state: How it ended.
            error: The error that ended it; empty for none.
            values: More fields of its row.
        """
        try:
            data = {"state": state, "error": error or None}
            self._store.record(search, "end", "end", data, state=state, error=error, ended=now(), **values)
        except SQLAlchemyError as fault:  # a full disk: the next start finds it unfinished and continues it
            log.error("index not written", extra={"facts": {"search": search, "error": say_error(fault)}})
        self._metrics.searches.labels(state).inc()
        log.info("search ended", extra={"facts": {"search": search, "state": state}})
