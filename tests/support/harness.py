"""A real server in this process, with a client, and what both must be like after every fault."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.server import SERVICE_NAME, TranscriptionServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from services.transcription.interface import ITranscriptionService
from tests.conftest import settings_for_tests
from tests.support import process_stats as belongings

PATIENCE_S = 20
WORKERS = 4
Health = health_pb2.HealthCheckResponse


@dataclass(frozen=True)
class Answer:
    """A response and its x-error-code, OK where there is none."""

    response: transcription_pb2.TranscriptionResponse
    outcome: str


def pieces(audio_bytes: bytes, piece_bytes: int = 4096, **first: Any) -> Iterator[transcription_pb2.AudioChunk]:
    """A recording as a stream's messages; there is one even for nothing."""
    for start in range(0, max(1, len(audio_bytes)), piece_bytes):
        described = first if start == 0 else {}
        yield transcription_pb2.AudioChunk(chunk_data=audio_bytes[start : start + piece_bytes], **described)


class ServerHarness:
    """One server and one client. `control` is a recording that it must always be able to transcribe."""

    def __init__(self, service: ITranscriptionService, control: bytes, **settings: Any) -> None:
        self.service = service
        self.control = control
        self.settings = settings_for_tests(**{"server_max_workers": WORKERS} | settings)
        self.token: str | None = None  # for the control request and the calls below
        self.server = TranscriptionServer(service, self.settings)
        self.channel = self.connect()
        self.stub = transcription_pb2_grpc.TranscriptionServiceStub(self.channel)

    def start(self) -> None:
        """Makes the server ready, and notes what it holds on to once it has worked."""
        self.server.start()
        self.assert_works()
        self._before = self._held()

    def connect(self) -> grpc.Channel:
        """A connection of its own; close it."""
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.server.port}", options)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What the calls bring along."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def ask(self, audio_bytes: bytes, **fields: Any) -> Answer:
        """Sends one message."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, **{"filename": "a.wav"} | fields)
        return _answer(
            self.stub.TranscribeAudio.with_call(request, timeout=PATIENCE_S, metadata=self.metadata),
        )

    def stream(self, messages: Iterable[transcription_pb2.AudioChunk]) -> Answer:
        """Sends a stream."""
        return _answer(
            self.stub.TranscribeAudioStream.with_call(iter(messages), timeout=PATIENCE_S, metadata=self.metadata)
        )

    def both(self, audio_bytes: bytes, **fields: Any) -> tuple[Answer, Answer]:
        """Sends the same as one message and as a stream."""
        return self.ask(audio_bytes, **fields), self.stream(pieces(audio_bytes, **{"filename": "a.wav"} | fields))

    def begin(self, audio_bytes: bytes, timeout_s: float = PATIENCE_S, **fields: Any) -> Any:
        """Sends one message and does not wait for its answer; the call."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, **{"filename": "a.wav"} | fields)
        return self.stub.TranscribeAudio.future(request, timeout=timeout_s, metadata=self.metadata)

    def health(self) -> int:
        """What the health service says of the transcription service."""
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        status: int = health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=5).status
        return status

    def decoders(self) -> list[int]:
        """Process ids of the decoders that run."""
        return belongings.children(os.getpid(), running=True)

    def assert_works(self) -> None:
        """A control request succeeds, and the server says that it serves."""
        answer = self.ask(self.control)
        assert answer.outcome == "OK" and answer.response.success, answer
        assert self.health() == Health.SERVING

    def assert_as_before(self) -> None:
        """Works, and holds on to nothing that it did not hold before."""
        self.assert_works()
        belongings.assert_settles(lambda: belongings.children(os.getpid()))
        belongings.assert_settles(lambda: self._held() - self._before)

    def close(self) -> None:
        """Ends both."""
        self.channel.close()
        self.server.stop()

    def _held(self) -> Counter[str]:
        return belongings.descriptors() + belongings.threads()


def assert_refused(answers: Iterable[Answer], outcome: str) -> None:
    """Every answer is a refusal in-band that a person may read."""
    for answer in answers:
        message = answer.response.error_message
        assert answer.outcome == outcome and not answer.response.success, answer
        assert re.search("[а-я]", message) and not re.search(r"[/\\]|ffmpeg|Traceback", message), message
        assert answer.response.transcript == ""


def assert_transcribed(answers: Iterable[Answer], duration_s: float, within_s: float = 0.1) -> None:
    """Every answer is a transcript of a recording of `duration_s`."""
    for answer in answers:
        assert answer.outcome == "OK" and answer.response.success, answer
        assert abs(answer.response.audio_duration - duration_s) <= within_s, answer


def _answer(result: Any) -> Answer:
    response, call = result
    trailers = dict(call.trailing_metadata() or ())
    return Answer(response, trailers.get("x-error-code", "OK"))
