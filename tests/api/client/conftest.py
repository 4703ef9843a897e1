"""A server around a fake recogniser, and a recording, for each test of the client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.grpc.server import GrpcServer
from tests.support.client_server import ChecksumService, listening, write_wav


@pytest.fixture
def service() -> ChecksumService:
    return ChecksumService()


@pytest.fixture
def server(service: ChecksumService) -> Iterator[GrpcServer]:
    """Listens, but is not started yet."""
    with listening(service) as server:
        yield server


@pytest.fixture
def address(server: GrpcServer) -> str:
    """The address of `server`, started."""
    server.start()
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three seconds of something like a voice: 96,044 bytes."""
    return write_wav(tmp_path / "запись.wav", seconds=3)
