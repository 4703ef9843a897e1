"""The default service of the fault tests with its engine on a Ray cluster."""

import threading
from collections.abc import Iterator

from ml.audio.splitter import Chunk
from ml.cluster.client import ClusterOptions
from ml.cluster.replica import ReplicaSpec
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.implementations.ray_service import BorealisRayTranscriptionService
from tests.support.fake_engines import make_spec
from tests.support.fault_services import ChunkHook


class NumberingOverRay(ChunkHook, BorealisRayTranscriptionService):
    """As NumberingService, but `at_chunk` is called when the chunk's text is back."""

    def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
        return make_spec(delay_s=0.0)

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for number, completion in enumerate(super().recognise(chunks, cancelled, options), start=1):
            self.note(number)
            yield completion
