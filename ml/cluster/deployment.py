"""The cluster's side seen from a front: how to reach it, what to run on it, and whether that runs."""

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ml import errors
from ml.cluster import NAMES
from ml.cluster.messages import ReplicaStatus
from ml.cluster.replica import Replica, ReplicaSpec
from ml.errors import ClusterUnavailableError, ModelError

APP, DEPLOYMENT = NAMES
LOCAL_OBJECT_STORE_BYTES = 256 * 1024 * 1024  # chunks on their way: 0.96 MB each
HEALTH_CHECK_PERIOD_S = 1.0
HEALTH_CHECK_TIMEOUT_S = 10.0
STATUS_POLL_S = 0.2
PULSE_TIMEOUT_S = 2.0
# Bursts go to the replicas in turn: chunks cost alike, and the default router heaps a burst on one of them.
ROUTER = "ray.serve.experimental.round_robin_router:RoundRobinRouter"
_MODEL_ERROR = re.compile(r"ml\.errors\.(\w+): ([^\n]+)")

_log = logging.getLogger("BorealisCluster")


@dataclass(frozen=True)
class Scale:
    """How many replicas, and what each gets."""

    replicas: int = 1
    max_replicas: int = 0  # above `replicas`: Serve adds and removes replicas between the two, by load
    gpus: float = 0.0  # of each; fractions share one GPU
    cpus: float = 1.0
    max_ongoing: int = 16  # chunks a replica has at once
    grace_s: float = 30.0  # for the chunks of a replica that is to go

    @property
    def most(self) -> int:
        """Replicas there may be."""
        return max(self.replicas, self.max_replicas)


def connect(address: str, project: str) -> bool:
    """Joins the cluster at `address`, or starts one in this machine's processes where that is empty.

    `project` is the folder that holds `ml`, for replicas of such a local cluster. Returns whether this connection is
    new: then `disconnect` is due.

    Raises:
        ClusterUnavailableError: there is no cluster at the address, or none can be started.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what matters of it, the watch says
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"address": "local", "include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    for attempts_left in (1, 0):  # on a busy machine the first may take longer than Ray gives it
        try:
            with _signals_kept(), _imports_from(project):
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            break
        except Exception as error:  # Ray raises what it likes, Exception itself among it
            ray.shutdown()
            if address or not attempts_left:
                where = f"по адресу {address} (RAY_ADDRESS)" if address else "на этой машине"
                raise ClusterUnavailableError(f"Кластер Ray {where} недоступен: {_last_line(str(error))}") from error
    return True


def disconnect() -> None:
    """Leaves the cluster; one started by `connect` ends."""
    ray.shutdown()


def application(recipe: ReplicaSpec, scale: Scale) -> serve.Application:
    """What Serve is to run."""
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
    return deployment.bind(recipe)


def deploy(recipe: ReplicaSpec, scale: Scale) -> None:
    """Has the cluster run `recipe`, unless it does so already; replicas made otherwise are replaced one by one."""
    serve.start(proxy_location="Disabled")
    if status() is None or recipe.version not in {pulse.version for pulse in pulses(handle())}:
        target = serve.RunTarget(target=application(recipe, scale), name=APP, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)


def await_ready(timeout_s: float, version: str | None) -> None:
    """Waits until the cluster runs at least one replica, of the recipe of `version` unless that is None.

    Raises:
        ModelError: the replicas cannot load the model.
        ClusterUnavailableError: there is none after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not _runs(version):
        overview = status()
        message = _messages(overview)
        if found := _MODEL_ERROR.search(message):
            raise getattr(errors, found[1], ModelError)(found[2])
        if time.monotonic() > deadline_s or (overview and overview.status == "DEPLOY_FAILED"):
            raise ClusterUnavailableError(
                f"На кластере Ray нет ни одной готовой реплики: {_last_line(message) or 'приложение не развёрнуто'}. "
                "Проверьте RAY_GPUS_PER_REPLICA, RAY_CPUS_PER_REPLICA, RAY_DEPLOY и RAY_START_TIMEOUT_S"
            )
        time.sleep(STATUS_POLL_S)


def _runs(version: str | None) -> bool:
    """Whether there is a replica, of that version unless it is None."""
    if running_replicas() == 0:
        return False
    return version is None or version in {pulse.version for pulse in pulses(handle())}


def handle() -> "DeploymentHandle[Replica]":
    """What sends calls to the replicas."""
    return serve.get_deployment_handle(DEPLOYMENT, APP)


def status() -> Any | None:
    """Serve's overview of our application, None where there is no such application."""
    return serve.status().applications.get(APP)


def running_replicas() -> int:
    """Replicas that take calls now."""
    overview = status()
    deployment = overview.deployments.get(DEPLOYMENT) if overview else None
    return deployment.replica_states.get("RUNNING", 0) if deployment else 0


def pulses(replicas: "DeploymentHandle[Replica]") -> list[ReplicaStatus]:
    """What the replicas say of themselves; those that do not answer are left out."""
    try:
        answers = replicas.broadcast("pulse").results(timeout_s=PULSE_TIMEOUT_S, return_exceptions=True)
    except (TimeoutError, ray.exceptions.RayError, serve.exceptions.RayServeException):
        return []
    return [answer for answer in answers if isinstance(answer, ReplicaStatus)]


@contextmanager
def _imports_from(folder: str) -> Iterator[None]:
    """Processes started meanwhile find the packages in `folder`."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder if before is None else f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; whoever had it keeps it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _messages(overview: Any | None) -> str:
    if overview is None:
        return ""
    return "\n".join([overview.message, *(deployment.message for deployment in overview.deployments.values())])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
