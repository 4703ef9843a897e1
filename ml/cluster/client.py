"""Connects to a cluster and gives the service its engine."""

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray

from ml.cluster.deployment import Application, Scale, last_line
from ml.cluster.engine import ClusterEngine
from ml.cluster.messages import APPLICATION
from ml.cluster.monitor import ReplicaMonitor
from ml.cluster.replica import ReplicaSpec
from ml.errors import ClusterUnavailableError
from ml.interfaces import ManagedEngine

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600.0
LOCAL_OBJECT_STORE_BYTES = 256 * 1024 * 1024  # chunks on their way: 0.96 MB each


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how it is used."""

    address: str = ""  # empty starts one on this machine
    application: str = APPLICATION
    scale: Scale = field(default_factory=Scale)
    deploys: bool = True  # rather than relying on a deployment made otherwise
    start_timeout_s: float = START_TIMEOUT_S
    chunk_timeout_s: float = 300.0
    watchdog_timeout_s: float = 120.0  # an engine without progress for longer is replaced

    @property
    def window(self) -> int:
        """Chunks of one recording to keep in flight, so that it keeps all replicas busy."""
        return 2 * self.scale.max_ongoing * self.scale.most


class EngineOptions(Protocol):
    """What the options of every model have."""

    @property
    def name(self) -> str:
        """A folder or a hub name."""

    @property
    def revision(self) -> str | None:
        """The hub's revision."""


Options = TypeVar("Options", bound=EngineOptions)


def make_spec(
    load_engine: Callable[[Options], ManagedEngine], options: Options, cluster: ClusterOptions
) -> ReplicaSpec:
    """Return the spec of replicas that run `load_engine(options)`; a folder is named without its place."""
    folder = Path(options.name)
    name = folder.name if folder.is_dir() else options.name
    described = repr((options, cluster.scale, cluster.watchdog_timeout_s))
    version = hashlib.sha256(described.encode()).hexdigest()[:16]
    return ReplicaSpec(
        partial(load_engine, options), (name, options.revision or ""), version, cluster.watchdog_timeout_s
    )


@dataclass(frozen=True)
class ClusterClient:
    """A cluster in use."""

    engine: ClusterEngine
    monitor: ReplicaMonitor


@contextmanager
def open_client(options: ClusterOptions, spec: ReplicaSpec) -> Iterator[ClusterClient]:
    """Connect to the cluster, have it run `spec`, and wait until it does; disconnect at the end.

    Raises:
        ModelError: the model cannot be loaded, or the cluster not be used.
    """
    with ExitStack() as stack:
        if connect(options.address):
            stack.callback(disconnect)
        application = Application(options.application)
        if options.deploys:
            application.deploy(spec, options.scale)
        version = spec.version if options.deploys else None
        monitor = ReplicaMonitor(application, application.wait_until_ready(options.start_timeout_s, version))
        stack.callback(monitor.close)
        engine = ClusterEngine(
            application.handle, monitor, options.scale.max_ongoing, options.window, options.chunk_timeout_s
        )
        stack.callback(engine.close)
        yield ClusterClient(engine, monitor)


def connect(address: str) -> bool:
    """Connect to the cluster at `address`, or start one in processes of this machine where that is empty.

    Return whether this connection is new: then `disconnect` is due.

    Raises:
        ClusterUnavailableError: there is no cluster at the address, or none can be started.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to Ray's makers
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # the monitor logs what matters of it
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"address": "local", "include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    for attempts_left in (1, 0):  # on a busy machine the first may take longer than Ray allows
        try:
            with _signals_kept(), _project_on_path():
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            break
        except Exception as error:  # of any kind, plain Exception among them
            ray.shutdown()
            if address or not attempts_left:
                where = f"по адресу {address} (RAY_ADDRESS)" if address else "на этой машине"
                raise ClusterUnavailableError(f"Кластер Ray {where} недоступен: {last_line(str(error))}") from error
    return True


def disconnect() -> None:
    """Disconnect; a cluster started by `connect` ends."""
    ray.shutdown()


@contextmanager
def _project_on_path() -> Iterator[None]:
    """Let the processes of a local cluster, started meanwhile, import this project's packages."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(PROJECT) if before is None else f"{PROJECT}{os.pathsep}{before}"
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
