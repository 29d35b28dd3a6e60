"""What Prometheus is told. Names follow its conventions (base units, `_total` for counters)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from godwit.api.common import Resource
from godwit.api.run import MigrationRun
from godwit.controller.queue import WorkQueue
from godwit.controller.slots import Slots


class Metrics:
    """The controller's own registry, so that two controllers in one process do not share figures."""

    def __init__(self, queue: WorkQueue, slots: Slots) -> None:
        self.registry = CollectorRegistry()
        oldest = Gauge(
            "godwit_queue_oldest_unserved_seconds",
            "How long the oldest due key has been waiting to be served.",
            registry=self.registry,
        )
        oldest.set_function(queue.oldest_unserved)
        depth = Gauge("godwit_queue_keys", "Keys in the queue, due or not.", registry=self.registry)
        depth.set_function(lambda: len(queue))
        active = Gauge("godwit_steps_active", "Steps that are under way.", registry=self.registry)
        active.set_function(lambda: len(slots))
        self._passes = Counter(
            "godwit_passes_total", "Passes by kind and result.", ["kind", "result"], registry=self.registry
        )
        self._seconds = Histogram(
            "godwit_pass_seconds", "Duration of passes by kind.", ["kind"], registry=self.registry
        )
        self._runs = Counter(
            "godwit_runs_ended_total",
            "Migration runs that ended, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._run_seconds = Histogram(
            "godwit_run_seconds",
            "Duration of migration runs.",
            registry=self.registry,
            buckets=(1, 3, 10, 30, 60, 300, 1_800, 7_200, 43_200),
        )

    def passed(self, kind: str, result: str, seconds: float) -> None:
        """A pass has ended."""
        self._passes.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def reported(self, before: Resource, after: Resource) -> None:
        """A status was written: count runs as they end."""
        if not isinstance(before, MigrationRun) or not isinstance(after, MigrationRun):
            return
        if before.status.outcome or not after.status.outcome:
            return
        self._runs.labels(after.status.outcome).inc()
        if after.status.started_at is not None and after.status.ended_at is not None:
            self._run_seconds.observe((after.status.ended_at - after.status.started_at).total_seconds())
