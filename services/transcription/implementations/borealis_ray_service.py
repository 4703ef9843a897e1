"""The Borealis implementation over a Ray cluster: chunks go to the engines inside Ray Serve's replicas."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ml.errors import ClusterUnavailableError
from ml.interfaces import ManagedEngine
from resources.config import Settings
from services.transcription.implementations.borealis_service import model_options
from services.transcription.implementations.engine_service import EngineService

if TYPE_CHECKING:
    from ml.cluster.client import ClusterClient, ClusterOptions
    from ml.cluster.replica import ReplicaSpec


class BorealisRayTranscriptionService(EngineService):
    """Transcribes with Borealis on a cluster. The queue, its fair order and admission stay in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._cluster: ClusterClient | None = None
        self._resources = ExitStack()

    def create_engine(self, settings: Settings) -> ManagedEngine:
        """Join the cluster, have it run the model, and wait for the first replica."""
        try:
            from ml.cluster.client import joined
        except ModuleNotFoundError as error:
            raise ClusterUnavailableError(
                "Реализации borealis-ray нужен пакет Ray: pip install -r requirements-ray.txt"
            ) from error
        options = cluster_options(settings)
        self._cluster = self._resources.enter_context(joined(options, self.replica_spec(settings, options)))
        return self._cluster.engine

    def replica_spec(self, settings: Settings, options: "ClusterOptions") -> "ReplicaSpec":
        """What the replicas run."""
        from ml.cluster.app import replica_spec

        return replica_spec(model_options(settings), options)

    def window(self, settings: Settings) -> int:
        """See the base class: enough for every replica."""
        return cluster_options(settings).window

    def model_identity(self) -> tuple[str, str]:
        """See the base class: of the model that the replicas run now."""
        return self._cluster.watch.model if self._cluster else ("", "")

    def get_version(self) -> str:
        """Name the implementation."""
        return "borealis-ray"

    def is_ready(self) -> bool:
        """Whether any replica is ready. `is_alive` is about this process: the cluster may be away meanwhile."""
        return bool(self._cluster and self._cluster.watch.ready)

    def stop(self) -> None:
        """Leave the cluster; one that was started here ends."""
        super().stop()
        self._resources.close()


def cluster_options(settings: Settings) -> "ClusterOptions":
    """The settings that concern the cluster, as a value of the ml layer."""
    from ml.cluster.client import ClusterOptions
    from ml.cluster.deployment import Scale

    on_gpu = settings.model_device.startswith("cuda")
    scale = Scale(
        replicas=settings.ray_replicas,
        max_replicas=settings.ray_max_replicas,
        gpus=settings.ray_gpus_per_replica if on_gpu else 0.0,
        cpus=settings.ray_cpus_per_replica,
        max_ongoing=settings.ray_max_ongoing_requests,
        grace_s=settings.shutdown_grace_s,
    )
    return ClusterOptions(
        address=settings.ray_address,
        scale=scale,
        deploys=settings.ray_deploy,
        start_timeout_s=settings.ray_start_timeout_s,
        chunk_timeout_s=settings.ray_chunk_timeout_s,
        silence_limit_s=settings.watchdog_timeout_s,
    )
