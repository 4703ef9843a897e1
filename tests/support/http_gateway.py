"""A real gateway before a real server around a fake recogniser, and raw connections to it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from api.grpc.server import GrpcServer
from api.http.compose import config_of
from api.http.context import Limits
from api.http.server import HttpServer
from api.http.upstream import Upstream
from resources.config import Settings
from services.transcription.interface import ITranscriptionService
from tests.conftest import settings_for_tests
from tests.support.client_server import ChecksumService
from tests.support.waiting import HANG_LIMIT_S

TRANSCRIPTIONS = "/v1/audio/transcriptions"


@dataclass
class RunningGateway:
    """What a test talks to."""

    http: HttpServer
    grpc: GrpcServer
    registry: CollectorRegistry
    client: httpx.Client

    @property
    def url(self) -> str:
        return self.http.url

    def post(self, audio_bytes: bytes, name: str = "a.wav", **fields: Any) -> httpx.Response:
        """Sends a form as OpenAI's client does: the fields, then the file."""
        return self.client.post(TRANSCRIPTIONS, data=fields, files={"file": (name, audio_bytes)})

    def text_of(self, audio_bytes: bytes, **fields: Any) -> str:
        """The transcript of a request that goes well."""
        response = self.post(audio_bytes, **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["text"])

    def connect(self) -> socket.socket:
        """A connection on which a test sends what it likes."""
        return socket.create_connection(("127.0.0.1", self.http.port), timeout=HANG_LIMIT_S)

    @property
    def grpc_calls_in_flight(self) -> int:
        """Calls that the service has not ended."""
        return self.grpc._pool._unfinished

    def count(self, name: str, **labels: str) -> float:
        """A metric of the gateway, 0 where it has not been counted yet."""
        return self.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def gateway_before(
    address: str, settings: Settings, limits: Limits | None = None, registry: CollectorRegistry | None = None
) -> Iterator[HttpServer]:
    """A gateway alone, before the server at `address`."""
    limits = limits or Limits(settings.stream_max_bytes, HANG_LIMIT_S, 100)
    server = HttpServer(config_of(settings, limits), lambda: Upstream(address, None), registry or CollectorRegistry())
    server.start()
    try:
        yield server
    finally:
        server.stop(0)


@contextmanager
def gateway(
    service: ITranscriptionService | None = None,
    *,
    max_upload_bytes: int = 0,
    idle_timeout_s: float = HANG_LIMIT_S,
    max_requests: int = 100,
    **settings: Any,
) -> Iterator[RunningGateway]:
    """Both servers, connected as the program connects them. The gateway's limits may differ from the service's."""
    service = service or ChecksumService()
    values = settings_for_tests(**{"shutdown_grace_s": 0, **settings})
    limits = Limits(max_upload_bytes or values.stream_max_bytes, idle_timeout_s, max_requests)
    server, registry = GrpcServer(service, values), CollectorRegistry()
    address = server.bind_private()
    try:
        server.start()
        with (
            gateway_before(address, values, limits, registry) as http,
            httpx.Client(base_url=http.url, timeout=HANG_LIMIT_S) as client,
        ):
            yield RunningGateway(http, server, registry, client)
    finally:
        if isinstance(service, ChecksumService):
            service.may_answer.set()
        server.stop()


def form(*parts: tuple[str, bytes | str], filename: str = "a.wav", boundary: str = "edge") -> tuple[bytes, str]:
    """A form with its parts in the order given; the part named file is one. The body and its Content-Type."""
    body = b""
    for name, value in parts:
        described = f'; filename="{filename}"' if name == "file" else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{described}\r\n\r\n'
        body += head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def request_head(content_type: str, *headers: str, path: str = TRANSCRIPTIONS) -> bytes:
    """The head of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Type: {content_type}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received
