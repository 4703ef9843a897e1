"""A real server around a fake recogniser that tests of the client can block, and recordings to send to it."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2_grpc
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import PROJECT_ROOT, Settings
from services.transcription.base_service import TranscriptionServiceBase
from tests.conftest import settings_for_tests
from tests.support.audio import voice_wav
from tests.support.waiting import HANG_LIMIT_S

ROOT = PROJECT_ROOT
UNREACHABLE = "127.0.0.1:1"  # no server listens there


class ChecksumService(TranscriptionServiceBase, transcription_pb2_grpc.TranscriptionServiceServicer):
    """ "Recognises" a chunk as its length and checksum, so that a single lost or moved byte shows in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()
        self.may_answer = threading.Event()
        self.asked = threading.Event()
        self.saw_cancellation = threading.Event()
        self.may_start.set()
        self.may_answer.set()

    def start(self, settings: Settings) -> None:
        super().start(settings)
        assert self.may_start.wait(HANG_LIMIT_S)

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        self.asked.set()
        while not self.may_answer.wait(0.01):
            if cancelled.is_set():
                self.saw_cancellation.set()
                return
        for chunk in chunks:
            yield Completion(f"{len(chunk.waveform)}:{zlib.crc32(chunk.waveform.tobytes()):08x}")

    def get_version(self) -> str:
        return "fake"


@contextmanager
def listening(service: ChecksumService, **settings: Any) -> Iterator[GrpcServer]:
    """A server that listens and is not started; at the end it is stopped without waiting for calls in flight."""
    server = GrpcServer(service, settings_for_tests(**{"shutdown_grace_s": 0, **settings}))
    try:
        yield server
    finally:
        service.may_start.set()
        service.may_answer.set()
        server.stop()


@contextmanager
def serving(service: ChecksumService | None = None, **settings: Any) -> Iterator[int]:
    """The port of a server that is ready."""
    with listening(service or ChecksumService(), **settings) as server:
        server.start()
        yield server.port


def write_wav(path: Path, seconds: float) -> Path:
    """A recording that the VAD takes for speech: 44 bytes of header, 32,000 bytes a second."""
    path.write_bytes(voice_wav(seconds))
    return path


def expected_text(recording: Path) -> str:
    """What ChecksumService answers for a recording of one chunk."""
    with recording.open("rb") as file:
        waveform = AudioDecoder(find_ffmpeg(), 60, 60).decode_all(file)
    return f"{len(waveform)}:{zlib.crc32(waveform.tobytes()):08x}"
