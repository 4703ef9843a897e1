"""tests.support.program as a process of its own, with a client."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import Popen
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import PROJECT_ROOT
from tests.support.ports import free_port
from tests.support.processes import CHANNEL_OPTIONS, Health, started, wait_for
from tests.support.waiting import HANG_LIMIT_S, wait_until


@dataclass(frozen=True)
class Served:
    """A server process and a client."""

    process: "Popen[str]"
    port: int
    channel: grpc.Channel
    stub: transcription_pb2_grpc.TranscriptionServiceStub
    printed: list[str] = field(default_factory=list)  # lines on standard error

    def begin(self, audio_bytes: bytes, timeout_s: float = HANG_LIMIT_S) -> Any:
        """Send one message and return the call without waiting for the answer."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename="a.wav")
        return self.stub.TranscribeAudio.future(request, timeout=timeout_s)

    def transcribe(self, audio_bytes: bytes) -> transcription_pb2.TranscriptionResponse:
        """Send one message."""
        return self.begin(audio_bytes).result()

    def watch(self) -> Any:
        """Return the health service's updates; the caller cancels them."""
        return health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest(), timeout=HANG_LIMIT_S)

    def wait_until_printed(self, line: str, times: int = 1) -> None:
        """Wait until the process has printed `line` so often."""
        wait_until(lambda: self.printed.count(line) >= times)

    def exit_code(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return self.process.wait(HANG_LIMIT_S)


@contextmanager
def served(implementation: str, **settings: str) -> Iterator[Served]:
    """Run the program for the length of the context; yield once it is SERVING."""
    port = free_port()
    flags = ["--port", str(port), "--host", "127.0.0.1", "--implementation", implementation]
    settings = {"LOGGING_LEVEL": "ERROR"} | settings
    with (
        started(PROJECT_ROOT, "-m", "tests.support.program", *flags, **settings) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL_OPTIONS) as channel,
    ):
        wait_for(channel, Health.SERVING, process)
        server = Served(process, port, channel, transcription_pb2_grpc.TranscriptionServiceStub(channel))
        reader = threading.Thread(target=_read_lines, args=(server,))  # a full pipe would block the server
        reader.start()
        try:
            yield server
        finally:
            process.kill()
            reader.join()


def _read_lines(server: Served) -> None:
    assert server.process.stderr
    for line in server.process.stderr:
        server.printed.append(line.rstrip("\n"))
