"""Real servers for the tests: one around a fake recogniser for each test, one around the bundled model for all."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2_grpc
from resources.config import PROJECT_ROOT, Settings
from services.transcription.implementations import BorealisTranscriptionService
from services.transcription.implementations.ray_service import BorealisRayTranscriptionService
from services.transcription.implementations.whisper_service import WhisperTranscriptionService
from services.transcription.interface import ITranscriptionService
from tests.support.speech import SAMPLES, Speech, speech_for
from tests.support.waiting import wait_until_equal

# A shell starts background jobs with Ctrl+C ignored, and every process started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray leaves sockets and child processes to the garbage collector.
ON_RAY = [
    pytest.mark.ray,
    pytest.mark.timeout(1800),
    *map(pytest.mark.filterwarnings, ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")),
]
BOREALIS = ["borealis", pytest.param("borealis-ray", marks=ON_RAY)]
SERVICES: dict[str, type[ITranscriptionService]] = {
    "borealis": BorealisTranscriptionService,
    "borealis-ray": BorealisRayTranscriptionService,
    "whisper": WhisperTranscriptionService,
}
IMPLEMENTATIONS = [*BOREALIS, pytest.param("whisper", marks=pytest.mark.speech)]
RAY_NODE = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}

Stub = transcription_pb2_grpc.TranscriptionServiceStub
Serve = Callable[..., Stub]


def settings_for_tests(**values: Any) -> Settings:
    """Settings that no environment and no .env file can change."""
    defaults = {"server_host": "127.0.0.1", "server_port": 0, "shutdown_grace_s": 5, "model_device": "cpu"}
    return Settings(_env_file=None, **{**defaults, **values})


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Call it with an implementation (and settings) to get a stub of a real server around it."""
    running: list[tuple[GrpcServer, grpc.Channel]] = []

    def run(service: ITranscriptionService, **values: Any) -> Stub:
        server = GrpcServer(service, settings_for_tests(**values))
        server.start()
        channel = grpc.insecure_channel(
            f"127.0.0.1:{server.port}",
            options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        running.append((server, channel))
        return transcription_pb2_grpc.TranscriptionServiceStub(channel)

    yield run
    for server, channel in running:
        channel.close()
        server.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes on this machine: a head that runs no replicas, and two with room for one each.

    A test that takes nodes away brings others, made as RAY_NODE says.
    """
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs requirements-ray.txt")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("PYTHONPATH", str(PROJECT_ROOT))
        head = {**RAY_NODE, "num_cpus": 0, "include_dashboard": False}
        try:
            running = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        except Exception:  # Ray gives a node 30 s, which a busy machine may pass the first time
            running = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                running.add_node(**RAY_NODE)
            yield running
        finally:
            running.shutdown()


def _await_sole_model() -> None:
    """Replicas that another test has left may answer beside the new ones for a while."""
    from ml.cluster.deployment import Application

    application = Application()
    wait_until_equal(lambda: len({status.version for status in application.statuses()}), 1, limit_s=300)


@dataclass(frozen=True)
class Bundled:
    """A server with real weights, and recordings that its model recognises."""

    stub: Stub
    speech: Speech
    address: str


@contextmanager
def serving_bundled(implementation: str, request: pytest.FixtureRequest, **values: Any) -> Iterator[Bundled]:
    """A server with the real weights of `implementation`."""
    speech = speech_for(implementation)
    service: ITranscriptionService = SERVICES[implementation]()
    if implementation == "borealis-ray":
        values["ray_address"] = request.getfixturevalue("cluster").address
    values = {"model_name": str(speech.model), "model_batch_size": 4, **values}
    server = GrpcServer(service, settings_for_tests(**values))
    server.start()
    if implementation == "borealis-ray":
        _await_sole_model()
    address = f"127.0.0.1:{server.port}"
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield Bundled(transcription_pb2_grpc.TranscriptionServiceStub(channel), speech, address)
    server.stop()


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def bundled(request: pytest.FixtureRequest) -> Iterator[Bundled]:
    """One server with real weights, shared by all tests that need real recognition."""
    with serving_bundled(request.param, request) as running:
        yield running


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def short_chunks(request: pytest.FixtureRequest) -> Iterator[Bundled]:
    """A server with real weights that cuts recordings into chunks of 5 s."""
    with serving_bundled(request.param, request, model_chunk_duration=5) as running:
        yield running


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the machine the tests run on do not reach them."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


def sample(name: str) -> Path:
    """A shipped recording."""
    return SAMPLES / name
