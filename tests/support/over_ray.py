"""The default service of the fault tests with its engine on a Ray cluster."""

from ml.cluster.client import ClusterOptions
from ml.cluster.replica import ReplicaSpec
from resources.config import Settings
from services.transcription.implementations.ray_service import BorealisRayTranscriptionService
from tests.support.fake_engines import make_spec
from tests.support.fault_services import HookedEngineService


class NumberingOverRay(HookedEngineService, BorealisRayTranscriptionService):
    """Answers each chunk with a number, on a replica."""

    def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
        return make_spec(delay_s=0.0)
