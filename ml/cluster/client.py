"""Joins a cluster and gives the front its engine: what services/…/borealis_ray_service.py needs of this package."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ml.cluster import deployment as serving
from ml.cluster.deployment import Scale
from ml.cluster.engine import ClusterEngine
from ml.cluster.monitor import Watch
from ml.cluster.replica import ReplicaSpec

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how it is used."""

    address: str = ""  # empty starts one on this machine
    scale: Scale = field(default_factory=Scale)
    deploys: bool = True  # rather than relying on what somebody else deploys
    start_timeout_s: float = START_TIMEOUT_S
    chunk_timeout_s: float = 300.0
    silence_limit_s: float = 120.0  # an engine silent for longer has broken down

    @property
    def window(self) -> int:
        """Chunks of one recording to keep under way, so that it keeps all replicas busy."""
        return 2 * self.scale.max_ongoing * self.scale.most


@dataclass(frozen=True)
class ClusterClient:
    """A cluster in use."""

    engine: ClusterEngine
    watch: Watch


@contextmanager
def joined(options: ClusterOptions, recipe: ReplicaSpec) -> Iterator[ClusterClient]:
    """Joins the cluster, has it run `recipe`, and waits until it does; leaves it at the end.

    Raises:
        ModelError: the model cannot be loaded, or the cluster not be used.
    """
    with ExitStack() as stack:
        if serving.connect(options.address, str(PROJECT)):
            stack.callback(serving.disconnect)
        if options.deploys:
            serving.deploy(recipe, options.scale)
        serving.await_ready(options.start_timeout_s, recipe.version if options.deploys else None)
        replicas = serving.handle()
        watch = Watch(replicas, recipe.model)
        stack.callback(watch.close)
        engine = ClusterEngine(replicas, watch, options.scale.max_ongoing, options.window, options.chunk_timeout_s)
        stack.callback(engine.close)
        yield ClusterClient(engine, watch)
