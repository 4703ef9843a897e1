"""The program of this folder as a process of its own, with a client."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import Popen
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import PROJECT_ROOT
from tests.support.ports import free_port
from tests.support.processes import Health, started, wait_for


@dataclass(frozen=True)
class Served:
    """A server process and a client."""

    process: "Popen[str]"
    port: int
    channel: grpc.Channel
    stub: transcription_pb2_grpc.TranscriptionServiceStub

    def begin(self, audio_bytes: bytes, timeout_s: float = 60) -> Any:
        """Sends one message and does not wait for its answer; the call."""
        request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename="a.wav")
        return self.stub.TranscribeAudio.future(request, timeout=timeout_s)

    def ask(self, audio_bytes: bytes) -> transcription_pb2.TranscriptionResponse:
        """Sends one message."""
        return self.begin(audio_bytes).result()

    def watch(self) -> Any:
        """The health service's news; cancel it."""
        return health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)

    def wait(self, within_s: float) -> tuple[int, float]:
        """The exit code, and after how long it came."""
        started_s = time.monotonic()
        return self.process.wait(within_s), time.monotonic() - started_s


@contextmanager
def served(implementation: str, **settings: str) -> Iterator[Served]:
    """Runs the program until the context ends; yields once it is SERVING."""
    port = free_port()
    flags = ["--port", str(port), "--host", "127.0.0.1", "--implementation", implementation]
    settings = {"LOGGING_LEVEL": "ERROR"} | settings
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with (
        started(PROJECT_ROOT, "-m", "tests.support.program", *flags, **settings) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel,
    ):
        wait_for(channel, Health.SERVING, process)
        assert process.stderr
        listener = threading.Thread(target=deque, args=(process.stderr, 0))  # a full pipe would hold the server up
        listener.start()
        try:
            yield Served(process, port, channel, transcription_pb2_grpc.TranscriptionServiceStub(channel))
        finally:
            process.kill()
            listener.join()
