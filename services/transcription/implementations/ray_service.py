"""Any engine over a Ray cluster: chunks go to the engines inside Ray Serve's replicas."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ml.errors import ClusterUnavailableError
from ml.interfaces import ManagedEngine
from resources.config import Settings
from services.transcription.implementations.borealis_service import BorealisTranscriptionService
from services.transcription.implementations.engine_service import EngineService, InProcessService
from services.transcription.implementations.onnx_service import OnnxTranscriptionService
from services.transcription.implementations.whisper_service import WhisperTranscriptionService

if TYPE_CHECKING:
    from ml.cluster.client import ClusterClient, ClusterOptions
    from ml.cluster.replica import ReplicaSpec


class RayTranscriptionService(EngineService):
    """Transcribes on a cluster. The queue, its fair order and admission stay in this process.

    A subclass names the implementation whose engine the replicas run. Its packages are needed on their nodes alone.
    """

    in_process: type[InProcessService]

    def __init__(self) -> None:
        super().__init__()
        self._cluster: ClusterClient | None = None
        self._resources = ExitStack()

    @property
    def application(self) -> str:
        """The name of the replicas on the cluster."""
        return self.in_process().get_version()

    def get_version(self) -> str:
        """Name the implementation."""
        return f"{self.application}-ray"

    def replica_spec(self, settings: Settings, options: "ClusterOptions") -> "ReplicaSpec":
        """What the replicas run."""
        from ml.cluster.client import make_spec

        load_engine, model = self.in_process().engine_loader(settings)
        return make_spec(load_engine, model, options)

    def create_engine(self, settings: Settings) -> ManagedEngine:
        """Connect to the cluster, have it run the model, and wait for the first replica."""
        try:
            from ml.cluster.client import open_client
        except ModuleNotFoundError as error:
            raise ClusterUnavailableError(
                f"Реализации {self.get_version()} нужен пакет Ray: pip install -r requirements-ray.txt"
            ) from error
        options = cluster_options(settings, self.application)
        self._cluster = self._resources.enter_context(open_client(options, self.replica_spec(settings, options)))
        return self._cluster.engine

    def window(self, settings: Settings) -> int:
        """See the base class: enough for every replica."""
        return cluster_options(settings, self.application).window

    def model_identity(self) -> tuple[str, str]:
        """See the base class: of the model that the replicas run now."""
        return self._cluster.monitor.latest.model if self._cluster else ("", "")

    def is_ready(self) -> bool:
        """Whether any replica is ready. `is_alive` is about this process: the cluster may be away meanwhile."""
        return bool(self._cluster and self._cluster.monitor.ready)

    def stop(self) -> None:
        """Disconnect from the cluster; one that was started here ends."""
        super().stop()
        self._resources.close()


class BorealisRayTranscriptionService(RayTranscriptionService):
    """Transcribes with Borealis on a cluster."""

    in_process = BorealisTranscriptionService


class WhisperRayTranscriptionService(RayTranscriptionService):
    """Transcribes with Whisper on a cluster."""

    in_process = WhisperTranscriptionService


class OnnxRayTranscriptionService(RayTranscriptionService):
    """Transcribes with a model in ONNX on a cluster."""

    in_process = OnnxTranscriptionService


def cluster_options(settings: Settings, application: str) -> "ClusterOptions":
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
        application=application,
        scale=scale,
        deploys=settings.ray_deploy,
        start_timeout_s=settings.ray_start_timeout_s,
        chunk_timeout_s=settings.ray_chunk_timeout_s,
        watchdog_timeout_s=settings.watchdog_timeout_s,
    )
