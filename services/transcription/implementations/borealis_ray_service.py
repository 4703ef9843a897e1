"""The Borealis implementation over a Ray cluster: chunks go to the engines inside Ray Serve's replicas."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from generated.v1 import transcription_pb2_grpc
from ml.audio.splitter import Chunk
from ml.errors import ClusterUnavailableError
from ml.interfaces import RecognitionOptions
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.base_service import TranscriptionServiceBase
from services.transcription.implementations.borealis_service import model_options

if TYPE_CHECKING:
    from ml.cluster.client import ClusterClient, ClusterOptions
    from ml.cluster.replica import ReplicaSpec


class BorealisRayTranscriptionService(TranscriptionServiceBase, transcription_pb2_grpc.TranscriptionServiceServicer):
    """Transcribes with Borealis on a cluster. Waiting in fair order and admission stay here, in the front."""

    def __init__(self) -> None:
        super().__init__()
        self._front: ClusterClient | None = None
        self._joined = ExitStack()

    def start(self, settings: Settings) -> None:
        """Joins the cluster, has it run the model, and waits for the first replica."""
        try:
            from ml.cluster.client import joined
        except ModuleNotFoundError as error:
            raise ClusterUnavailableError(
                "Реализации borealis-ray нужен пакет Ray: pip install -r requirements-ray.txt"
            ) from error
        super().start(settings)
        options = cluster_options(settings)
        self._front = self._joined.enter_context(joined(options, self.recipe(settings, options)))
        self._recognise = recognise_with(self._front.engine, options.window)

    def recipe(self, settings: Settings, options: "ClusterOptions") -> "ReplicaSpec":
        """What the replicas are made of."""
        from ml.cluster.app import replica_spec

        return replica_spec(model_options(settings), options)

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        """See the base class."""
        return self._recognise(chunks, cancelled, options)

    def model_identity(self) -> tuple[str, str]:
        """See the base class: of the model that the replicas run now."""
        return self._front.watch.model if self._front else ("", "")

    def get_version(self) -> str:
        """Names the implementation."""
        return "borealis-ray"

    def is_alive(self) -> bool:
        """Whether this process can go on; the cluster may be away meanwhile, see `is_ready`."""
        return bool(self._front and self._front.engine.is_alive)

    def is_ready(self) -> bool:
        """Whether any replica is ready."""
        return bool(self._front and self._front.watch.ready)

    def abandon(self) -> None:
        """See the interface."""
        if self._front:
            self._front.engine.abandon()

    def queued_audio_s(self) -> float:
        """See the base class."""
        return self._front.engine.queued_audio_s if self._front else 0.0

    def gauges(self) -> Mapping[str, float]:
        """See the interface."""
        return self._front.engine.gauges() if self._front else {}

    def stop(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        super().stop()
        self._joined.close()


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
