"""Figures for Prometheus, one registry a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from milr.types import StepRecord
from milr.workers.team import MemberFacts


class Metrics:
    """Counters of the server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "milr_requests", "Answered requests", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "milr_request_seconds",
            "Seconds until a response began",
            ["route"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
        )
        self.searches = Counter("milr_searches", "Searches that ended", ["state"], registry=self.registry)
        self.steps = Counter("milr_steps", "Steps of all searches", ["model"], registry=self.registry)
        self.images = Counter("milr_images", "Images that ended", ["model", "why"], registry=self.registry)
        self.drawings = Counter("milr_drawings", "Drawings of images that ended", ["model"], registry=self.registry)
        self.waiting = Gauge("milr_images_waiting", "Images that wait", registry=self.registry)
        self.running = Gauge("milr_images_running", "Images that are drawn", registry=self.registry)
        self.workers = Gauge("milr_workers", "Workers of each model", ["model", "state"], registry=self.registry)
        self.busy = Gauge(
            "milr_workers_busy",
            "Share of the time in which a model's workers had a task",
            ["model"],
            registry=self.registry,
        )
        self.replaced = Gauge(
            "milr_workers_replaced", "Workers that died and were replaced", ["model"], registry=self.registry
        )
        self.streams = Gauge("milr_streams", "Open event streams", registry=self.registry)

    def step(self, model: str, record: StepRecord) -> None:
        """Count a step."""
        self.steps.labels(model).inc()
        if record.finished is not None:
            self.images.labels(model, record.finished).inc()
            self.drawings.labels(model).inc(record.drawings_spent)

    def note_workers(self, workers: Mapping[str, tuple[int, Sequence[MemberFacts]]]) -> None:
        """Set the figures of workers, from `milr.serve.desk.Desk.workers`."""
        for one in (self.workers, self.busy, self.replaced):
            one.clear()
        for model, (replaced, all_of) in workers.items():
            if all_of:
                ready = sum(one.ready for one in all_of)
                self.workers.labels(model, "ready").set(ready)
                self.workers.labels(model, "loading").set(len(all_of) - ready)
                self.busy.labels(model).set(sum(one.busy for one in all_of) / len(all_of))
                self.replaced.labels(model).set(replaced)

    def write(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
