"""Polls the replicas: how many are ready, which model they run, and what their figures add up to."""

import logging
import threading
import time
from collections.abc import Callable

import ray
from ray import serve

from ml.cluster.deployment import STATUS_TIMEOUT_S, Application
from ml.cluster.messages import MetricsAggregator, ReplicaStatus

PERIOD_S = 1.0
STALE_S = 15.0  # for how long the last answer counts while the cluster's head does not answer

_log = logging.getLogger("BorealisCluster")


class ReplicaMonitor:
    """One thread that polls the cluster; call `close` to end it."""

    def __init__(self, application: Application, status: ReplicaStatus) -> None:
        """`status` is that of a replica that is ready."""
        self.on_change: Callable[[], None] = lambda: None  # called when the number of ready replicas has changed
        self.latest = status  # names the model that answers, and what it takes
        self._application = application
        self._metrics = MetricsAggregator()
        self._ready, self._updated_s = 0, time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster-monitor", daemon=True)
        self._poll()
        self._thread.start()

    @property
    def ready(self) -> int:
        """Replicas that take chunks."""
        return self._ready if time.monotonic() - self._updated_s < STALE_S else 0

    def total(self) -> dict[str, float]:
        """The replicas' figures, added up."""
        return self._metrics.total()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(STATUS_TIMEOUT_S)  # the head may never answer

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._poll()

    def _poll(self) -> None:
        """Poll the replicas, and Serve for their number: one that hangs keeps the others' statuses from coming."""
        statuses = self._application.statuses()
        try:
            running = self._application.running
        except (ray.exceptions.RayError, serve.exceptions.RayServeException):
            if not statuses:
                return  # the head does not answer: nothing is known
            running = 0
        self._metrics.update(statuses)
        if statuses:
            self.latest = statuses[0]
        before, self._ready = self._ready, max(running, len(statuses))
        self._updated_s = time.monotonic()
        if self._ready != before:
            _log.info("Готовых реплик: %d", self._ready)
            self.on_change()
