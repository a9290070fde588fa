"""Prometheus metrics of one service, in a registry of its own.

It knows nothing about what is measured.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of requests, lists and events."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Histogram(
            "nextquery_request_seconds",
            "Time from request to reply.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._lists = Counter(
            "nextquery_lists_total",
            "Lists by task, rung and reason.",
            ["task", "served_by", "reason"],
            registry=self.registry,
        )
        self._unrecorded = Counter(
            "nextquery_lists_unrecorded_total",
            "Lists whose impression was not committed in time.",
            registry=self.registry,
        )
        self._events = Counter(
            "nextquery_events_total",
            "Received events by the one place where they ended.",
            ["status"],
            registry=self.registry,
        )

        # Looking a child up by its labels takes longer than counting, and there are few of each.
        self._request_of = cache(self._requests.labels)
        self._event_of = cache(self._events.labels)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request; `route` is the template, never the path."""
        self._request_of(route, method, str(status)).observe(seconds)

    def served(self, task: str, served_by: str, reason: str | None, *, recorded: bool) -> None:
        """One list."""
        self._lists.labels(task, served_by, reason or "").inc()
        if not recorded:
            self._unrecorded.inc()

    def event(self, status: str, count: int = 1) -> None:
        """`count` events that ended at `status`."""
        self._event_of(status).inc(count)

    def endings(self) -> dict[str, int]:
        """Events so far, by the place where they ended."""
        samples = [sample for metric in self._events.collect() for sample in metric.samples]
        return {each.labels["status"]: int(each.value) for each in samples if each.name.endswith("_total")}

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody looks."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
