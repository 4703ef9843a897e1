"""An application on the cluster, seen from a client: how it is deployed, and what it does."""

import re
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ml import errors
from ml.cluster.messages import APPLICATION, DEPLOYMENT, ReplicaStatus
from ml.cluster.replica import Replica, ReplicaSpec
from ml.errors import ClusterUnavailableError, ModelError

HEALTH_CHECK_PERIOD_S = 1.0
HEALTH_CHECK_TIMEOUT_S = 10.0
POLL_S = 0.2
STATUS_TIMEOUT_S = 2.0
# Bursts go to the replicas in turn: chunks cost alike, and the default router sends a burst to one of them.
ROUTER = "ray.serve.experimental.round_robin_router:RoundRobinRouter"
_MODEL_ERROR = re.compile(r"ml\.errors\.(\w+): ([^\n]+)")


@dataclass(frozen=True)
class Scale:
    """How many replicas, and what each gets."""

    replicas: int = 1
    max_replicas: int = 0  # above `replicas`: Serve adds and removes replicas between the two, by load
    gpus: float = 0.0  # of each; fractions share one GPU
    cpus: float = 1.0
    max_ongoing: int = 16  # chunks a replica has at once
    grace_s: float = 30.0  # for the chunks of a replica that is stopped

    @property
    def most(self) -> int:
        """Replicas there may be."""
        return max(self.replicas, self.max_replicas)


class Application:
    """Replicas under one name, one application for each model on the cluster."""

    def __init__(self, name: str = APPLICATION) -> None:
        self._name = name

    @property
    def handle(self) -> "DeploymentHandle[Replica]":
        """Sends calls to the replicas."""
        return serve.get_deployment_handle(DEPLOYMENT, self._name)

    @property
    def running(self) -> int:
        """Replicas that take calls now."""
        overview = self._overview()
        deployment = overview.deployments.get(DEPLOYMENT) if overview else None
        return deployment.replica_states.get("RUNNING", 0) if deployment else 0

    def statuses(self) -> list[ReplicaStatus]:
        """Poll the replicas; those that do not answer are left out."""
        try:
            answers = self.handle.broadcast("status").results(timeout_s=STATUS_TIMEOUT_S, return_exceptions=True)
        except (TimeoutError, ray.exceptions.RayError, serve.exceptions.RayServeException):
            return []
        return [answer for answer in answers if isinstance(answer, ReplicaStatus)]

    def deploy(self, spec: ReplicaSpec, scale: Scale) -> None:
        """Have the cluster run `spec`, unless it does so already; other replicas are replaced one by one."""
        serve.start(proxy_location="Disabled")
        if self._overview() is None or not self._status_of(spec.version):
            target = serve.RunTarget(target=bind(spec, scale), name=self._name, route_prefix=None)
            serve.run_many([target], wait_for_applications_running=False)

    def wait_until_ready(self, timeout_s: float, version: str | None) -> ReplicaStatus:
        """Wait until a replica answers, of the spec with `version` unless that is None; return its status.

        Raises:
            ModelError: the replicas cannot load the model.
            ClusterUnavailableError: there is none after `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while not (ready := self._status_of(version) if self.running else None):
            overview = self._overview()
            message = _messages(overview)
            if found := _MODEL_ERROR.search(message):
                raise getattr(errors, found[1], ModelError)(found[2])
            if time.monotonic() > deadline_s or (overview and overview.status == "DEPLOY_FAILED"):
                raise ClusterUnavailableError(
                    f"На кластере Ray нет ни одной готовой реплики: {last_line(message) or 'приложение не развёрнуто'}."
                    " Проверьте RAY_GPUS_PER_REPLICA, RAY_CPUS_PER_REPLICA, RAY_DEPLOY и RAY_START_TIMEOUT_S"
                )
            time.sleep(POLL_S)
        return ready

    def _status_of(self, version: str | None) -> ReplicaStatus | None:
        """The status of a replica of the spec with `version`, or of any where that is None."""
        return next((status for status in self.statuses() if version in (None, status.version)), None)

    def _overview(self) -> Any | None:
        """Serve's account of the application; None where there is none."""
        return serve.status().applications.get(self._name)


def bind(spec: ReplicaSpec, scale: Scale) -> serve.Application:
    """Return what Serve runs."""
    size: dict[str, Any] = {"num_replicas": scale.replicas}
    if scale.max_replicas > scale.replicas:
        autoscaling = {"min_replicas": scale.replicas, "max_replicas": scale.max_replicas}
        size = {"autoscaling_config": {**autoscaling, "target_ongoing_requests": max(1, scale.max_ongoing // 2)}}
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        max_ongoing_requests=scale.max_ongoing,
        graceful_shutdown_timeout_s=scale.grace_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        request_router_config={"request_router_class": ROUTER},
        **size,
    )
    return deployment.bind(spec)


def last_line(text: str) -> str:
    """The last line of a message of Ray's, which holds the reason."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _messages(overview: Any | None) -> str:
    if overview is None:
        return ""
    return "\n".join([overview.message, *(deployment.message for deployment in overview.deployments.values())])
