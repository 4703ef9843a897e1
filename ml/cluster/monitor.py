"""Watches over the replicas: how many are ready, which model they run, and what their figures add up to."""

import logging
import threading
import time
from collections.abc import Callable

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ml.cluster import deployment as serving
from ml.cluster.messages import MetricsAggregator
from ml.cluster.replica import Replica

PERIOD_S = 1.0
PATIENCE_S = 15.0  # for how long the last word counts while the cluster's head says nothing

_log = logging.getLogger("BorealisCluster")


class Watch:
    """One thread that asks the cluster about itself; call `close` to end it."""

    def __init__(self, replicas: "DeploymentHandle[Replica]", model: tuple[str, str]) -> None:
        """`model` is what the replicas are thought to run until they say so."""
        self.on_change: Callable[[], None] = lambda: None  # called when other replicas than before are ready
        self.model = model  # name and revision of the model that answers
        self._replicas = replicas
        self._tally = MetricsAggregator()
        self._ready, self._heard_s = 0, time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster-watch", daemon=True)
        self._look()
        self._thread.start()

    @property
    def ready(self) -> int:
        """Replicas that take chunks."""
        return self._ready if time.monotonic() - self._heard_s < PATIENCE_S else 0

    def total(self) -> dict[str, float]:
        """The replicas' figures, added up."""
        return self._tally.total()

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join(serving.PULSE_TIMEOUT_S)  # the head may never answer

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        """Asks the replicas, and Serve how many there are: one who hangs hides the others from the former."""
        pulses = serving.pulses(self._replicas)
        try:
            running = serving.running_replicas()
        except (ray.exceptions.RayError, serve.exceptions.RayServeException):
            if not pulses:
                return  # the head is silent: nothing is known
            running = 0
        self._tally.take(pulses)
        self.model = pulses[0].model if pulses else self.model
        before, self._ready = self._ready, max(running, len(pulses))
        self._heard_s = time.monotonic()
        if self._ready != before:
            _log.info("Готовых реплик: %d", self._ready)
            self.on_change()
