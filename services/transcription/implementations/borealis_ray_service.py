"""The Borealis implementation over a Ray cluster."""

from typing import TYPE_CHECKING

from resources.config import Settings
from services.transcription.implementations.borealis_service import model_options
from services.transcription.implementations.ray_service import RayTranscriptionService

if TYPE_CHECKING:
    from ml.cluster.client import ClusterOptions
    from ml.cluster.replica import ReplicaSpec


class BorealisRayTranscriptionService(RayTranscriptionService):
    """Transcribes with Borealis on a cluster."""

    application = "borealis"

    def replica_spec(self, settings: Settings, options: "ClusterOptions") -> "ReplicaSpec":
        """See the base class."""
        from ml.borealis.load import load_engine
        from ml.cluster.client import make_spec

        return make_spec(load_engine, model_options(settings), options)

    def get_version(self) -> str:
        """Name the implementation."""
        return "borealis-ray"
