"""What a server counts, as Prometheus reads it at /metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from limner.runtime.errors import StoppedError
from limner.runtime.server.bundles import Hosted

__all__ = ["Metrics"]

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Hosting(Protocol):
    """What has bundles loaded."""

    @property
    def all(self) -> list[Hosted]: ...


class Metrics:
    """The counters of one server."""

    def __init__(self, hosts: Hosting) -> None:
        self.registry = CollectorRegistry()
        self.edits = Counter("limner_edits", "Edits by outcome", ["model", "outcome"], registry=self.registry)
        self.seconds = Histogram(
            "limner_edit_seconds",
            "Seconds of an edit by stage",
            ["model", "stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.running = Gauge("limner_edits_running", "Edits that run", registry=self.registry)
        self.waiting = Gauge("limner_edits_waiting", "Requests that wait for a place", registry=self.registry)
        self.refused = Counter("limner_refused", "Requests that were refused", ["status"], registry=self.registry)
        self.registry.register(_Graphs(hosts))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)

    def failed(self, model: str, reason: BaseException) -> None:
        """An edit that ended otherwise."""
        outcome = reason.reason if isinstance(reason, StoppedError) else type(reason).__name__
        self.edits.labels(model, outcome).inc()

    def done(self, model: str, stages: dict[str, float]) -> None:
        """An edit that ended well; stages in ms."""
        self.edits.labels(model, "done").inc()
        for stage, milliseconds in stages.items():
            self.seconds.labels(model, stage).observe(milliseconds / 1000.0)


class _Graphs(Collector):
    """What the sessions of every bundle count, and the memory of the process."""

    def __init__(self, hosts: Hosting) -> None:
        self.hosts = hosts

    def collect(self) -> Iterator[Metric]:
        names = {"runs": "Runs of a graph", "calls": "Calls of edits that they served", "rows": "Rows of all runs"}
        found = {key: CounterMetricFamily(f"limner_graph_{key}", text, labels=["bundle", "graph"])
                 for key, text in names.items()}  # fmt: skip
        seconds = CounterMetricFamily("limner_graph_seconds", "Seconds of lanes", labels=["bundle", "graph"])
        for one in self.hosts.all:
            for name, count in dict(one.sessions.counts).items():
                graph, _, key = name.rpartition(".")
                if key in found:
                    found[key].add_metric([one.name, graph], count)
            for graph, took in dict(one.sessions.seconds).items():
                seconds.add_metric([one.name, graph], took)
        yield from found.values()
        yield seconds
        yield GaugeMetricFamily("limner_memory_bytes", "Memory of the process", value=_memory())


def _memory() -> float:
    """The process's memory, where the system says it."""
    try:
        return float(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return float("nan")
