"""The README's recipe for a new implementation, followed to the letter in a copy of the project."""

import shutil
from pathlib import Path

import grpc
import pytest

from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import PROJECT_ROOT
from tests.support.ports import free_port
from tests.support.processes import Health, started, wait_for

IMPLEMENTATION = """
from services.transcription.base_service import TranscriptionServiceBase
from generated.v1 import transcription_pb2_grpc
from generated.v1.transcription_pb2 import TranscriptionResponse

class GoogleSpeechTranscriptionService(TranscriptionServiceBase,
                                       transcription_pb2_grpc.TranscriptionServiceServicer):
    def __init__(self):
        super().__init__()
        # Инициализация Google Speech API

    def TranscribeAudio(self, request, context):
        return TranscriptionResponse(success=True, transcript=f"unary {len(request.audio_data)}")

    def TranscribeAudioStream(self, request_iterator, context):
        size = sum(len(chunk.chunk_data) for chunk in request_iterator)
        return TranscriptionResponse(success=True, transcript=f"stream {size}")

    def get_version(self) -> str:
        return "google-speech"
"""
EXPORTS = """
from services.transcription.implementations.borealis_service import BorealisTranscriptionService
from services.transcription.implementations.google_speech_service import GoogleSpeechTranscriptionService

__all__ = [
    'BorealisTranscriptionService',
    'GoogleSpeechTranscriptionService',
]
"""
TABLE_ROW = "    'google-speech': GoogleSpeechTranscriptionService,\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the recipe's three steps done."""
    root = tmp_path_factory.mktemp("project")
    for name in ("api", "services", "resources", "generated", "ml"):
        shutil.copytree(PROJECT_ROOT / name, root / name, ignore=shutil.ignore_patterns("checkpoints", "samples"))
    shutil.copy(PROJECT_ROOT / "start.py", root)
    implementations = root / "services" / "transcription" / "implementations"
    (implementations / "google_speech_service.py").write_text(IMPLEMENTATION, encoding="utf-8")
    (implementations / "__init__.py").write_text(EXPORTS, encoding="utf-8")
    server = root / "api" / "grpc" / "transcription_server.py"
    opening, rest = server.read_text(encoding="utf-8").split("AVAILABLE_IMPLEMENTATIONS", 1)
    rows, closing = rest.split("}\n", 1)
    server.write_text(f"{opening}AVAILABLE_IMPLEMENTATIONS{rows}{TABLE_ROW}}}\n{closing}", encoding="utf-8")
    return root


@pytest.mark.parametrize("entry_point", ["start.py", "api/grpc/transcription_server.py"])
def test_new_implementation_serves_through_both_entry_points(project: Path, entry_point: str) -> None:
    port = free_port()
    flags = (entry_point, "--port", str(port), "--implementation", "google-speech")
    with started(project, *flags, SERVER_HOST="127.0.0.1") as process:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_for(channel, Health.SERVING, process)
            stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
            unary = stub.TranscribeAudio(transcription_pb2.AudioRequest(audio_data=b"12345"))
            streamed = stub.TranscribeAudioStream(
                transcription_pb2.AudioChunk(chunk_data=data) for data in (b"123", b"4567")
            )
        assert (unary.transcript, streamed.transcript) == ("unary 5", "stream 7")
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "google-speech" in log
