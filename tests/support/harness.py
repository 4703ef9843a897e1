"""A real server in this process with a client, and the state that both must return to after every fault."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.server import SERVICE_NAME, GrpcServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from services.transcription.interface import ITranscriptionService
from tests.conftest import settings_for_tests
from tests.support import process_stats
from tests.support.http_gateway import TRANSCRIPTIONS, gateway_before
from tests.support.messages import stream_messages
from tests.support.processes import CHANNEL_OPTIONS, Health
from tests.support.waiting import HANG_LIMIT_S

WORKERS = 4


@dataclass(frozen=True)
class Answer:
    """A response and its x-error-code, OK where there is none."""

    response: transcription_pb2.TranscriptionResponse
    outcome: str


class ServerHarness:
    """One server and one client. `control` is a recording that the server must always be able to transcribe."""

    def __init__(self, service: ITranscriptionService, control: bytes, **settings: Any) -> None:
        self.service = service
        self.control = control
        self.settings = settings_for_tests(**{"server_max_workers": WORKERS} | settings)
        self.token: str | None = None  # for the control request and the calls below
        self.grpc_server = GrpcServer(service, self.settings)
        self.channel = self.connect()
        self.stub = transcription_pb2_grpc.TranscriptionServiceStub(self.channel)

    def start(self) -> None:
        """Make the server ready, and note what it holds after its first request."""
        self.grpc_server.start()
        self.assert_works()
        self._held_before = process_stats.held()

    @property
    def port(self) -> int:
        """The server's port."""
        return self.grpc_server.port

    def connect(self) -> grpc.Channel:
        """Open another connection; the caller closes it."""
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", CHANNEL_OPTIONS)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Metadata of the calls below."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def transcribe(self, audio_bytes: bytes, **fields: Any) -> Answer:
        """Send one message."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, **{"filename": "a.wav"} | fields)
        return _answer(self.stub.TranscribeAudio.with_call(request, timeout=HANG_LIMIT_S, metadata=self.metadata))

    def transcribe_stream(self, messages: Iterable[transcription_pb2.AudioChunk]) -> Answer:
        """Send a stream."""
        return _answer(
            self.stub.TranscribeAudioStream.with_call(iter(messages), timeout=HANG_LIMIT_S, metadata=self.metadata)
        )

    def transcribe_form(self, audio_bytes: bytes, **fields: Any) -> Answer:
        """Send a form over HTTP, through a gateway of its own that is gone afterwards."""
        filename = fields.pop("filename", "a.wav")
        with gateway_before(f"127.0.0.1:{self.port}", self.settings) as http, httpx.Client() as client:
            form = {"response_format": "verbose_json", **fields}
            headers = dict(self.metadata)
            files = {"file": (filename, audio_bytes)}
            answer = client.post(
                http.url + TRANSCRIPTIONS, data=form, files=files, headers=headers, timeout=HANG_LIMIT_S
            )
        return _answer_of_form(answer)

    def transcribe_every_way(self, audio_bytes: bytes, **fields: Any) -> tuple[Answer, Answer, Answer]:
        """Send a recording as one message, as a stream and as a form over HTTP."""
        messages = stream_messages(audio_bytes, **{"filename": "a.wav"} | fields)
        return (
            self.transcribe(audio_bytes, **fields),
            self.transcribe_stream(messages),
            self.transcribe_form(audio_bytes, **fields),
        )

    def begin(self, audio_bytes: bytes, timeout_s: float = HANG_LIMIT_S, **fields: Any) -> Any:
        """Send one message and return the call without waiting for the answer."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, **{"filename": "a.wav"} | fields)
        return self.stub.TranscribeAudio.future(request, timeout=timeout_s, metadata=self.metadata)

    def begin_stream(self, messages: Iterable[transcription_pb2.AudioChunk]) -> Any:
        """Start a stream and return the call without waiting for the answer."""
        return self.stub.TranscribeAudioStream.future(iter(messages), timeout=HANG_LIMIT_S, metadata=self.metadata)

    def health(self) -> int:
        """Return the status of the transcription service."""
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        status: int = health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=HANG_LIMIT_S).status
        return status

    def wait_until_received(self) -> None:
        """Wait until the server has received everything sent on this connection so far: HTTP/2 keeps the order."""
        self.health()

    def decoders(self) -> list[int]:
        """Return the process ids of the running decoders."""
        return process_stats.children(running=True)

    def calls_ended(self, outcome: str) -> float:
        """Count the TranscribeAudio calls that ended in `outcome`, as /metrics does."""
        labels = {"method": "TranscribeAudio", "outcome": outcome}
        return self.grpc_server.metrics.registry.get_sample_value("transcription_requests_total", labels) or 0.0

    def assert_works(self) -> None:
        """Check that a control request succeeds and that the server reports SERVING."""
        answer = self.transcribe(self.control)
        assert answer.outcome == "OK" and answer.response.success, answer
        assert self.health() == Health.SERVING

    def assert_as_before(self) -> None:
        """Check that the server works and holds nothing that it did not hold before."""
        self.assert_works()
        process_stats.wait_until_released(self.newly_held)

    def newly_held(self) -> Counter[str]:
        """Return open files, threads and children that there were not after the first request."""
        return process_stats.held() - self._held_before

    def close(self) -> None:
        """End the client and the server."""
        self.channel.close()
        self.grpc_server.stop()


def assert_rejected(answers: Iterable[Answer], outcome: str) -> None:
    """Check that every answer is an in-band error with a message for people."""
    for answer in answers:
        message = answer.response.error_message
        assert answer.outcome == outcome and not answer.response.success, answer
        assert re.search("[а-я]", message) and not re.search(r"[/\\]|ffmpeg|Traceback", message), message
        assert answer.response.transcript == ""


def assert_transcribed(answers: Iterable[Answer], duration_s: float, within_s: float = 0.1) -> None:
    """Check that every answer is a transcript of a recording of `duration_s`."""
    for answer in answers:
        assert answer.outcome == "OK" and answer.response.success, answer
        assert abs(answer.response.audio_duration - duration_s) <= within_s, answer


def _answer(result: Any) -> Answer:
    response, call = result
    trailers = dict(call.trailing_metadata() or ())
    return Answer(response, trailers.get("x-error-code", "OK"))


def _answer_of_form(answer: httpx.Response) -> Answer:
    """The response that a form's answer was made from, as far as it shows there."""
    body = answer.json()
    if answer.status_code != 200:
        assert answer.status_code == 400, answer.text  # an error of the content
        refused = transcription_pb2.TranscriptionResponse(error_message=body["error"]["message"])
        return Answer(refused, body["error"]["code"])
    transcribed = transcription_pb2.TranscriptionResponse(
        success=True, transcript=body["text"], audio_duration=body["duration"], warnings=body["warnings"]
    )
    return Answer(transcribed, "OK")
