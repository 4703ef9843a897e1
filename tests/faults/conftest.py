"""A server for each fault test, checked afterwards to be as it was before: over a stand-in, Ray or Whisper."""

import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.transcription.interface import ITranscriptionService
from tests.conftest import ON_RAY
from tests.support import process_stats, recordings
from tests.support.fault_services import HookedWhisper, NumberingService
from tests.support.harness import ServerHarness
from tests.support.whisper import whisper_base

StartServer = Callable[..., ServerHarness]
MakeService = Callable[[], tuple[ITranscriptionService, dict[str, Any]]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_model: runs over Whisper base as well (marker speech)")
    config.addinivalue_line("markers", "row(number): the row of tests/faults/README.md that the test proves")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="open files and children are read from /proc"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a server with the default service over a cluster as well, and some over Whisper base."""
    if "start_server" in inspect.signature(metafunc.function).parameters:
        ways = ["here", pytest.param("over-ray", marks=ON_RAY)]
        if metafunc.definition.get_closest_marker("real_model"):
            ways.append(pytest.param("whisper", marks=pytest.mark.speech))
        metafunc.parametrize("way", ways, indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """What servers run by default: a stand-in for the model here or over a cluster, or Whisper base."""
    return getattr(request, "param", "here")


@pytest.fixture(scope="session")
def fault_cluster(cluster: Any) -> Iterator[str]:
    """The address of a cluster; this process stays connected, so that what Ray holds is held before every test."""
    from ml.cluster import client
    from tests.support.over_ray import NumberingOverRay

    is_new = client.connect(cluster.address)
    server = ServerHarness(NumberingOverRay(), recordings.recording("wav", 100), ray_address=cluster.address)
    try:
        server.start()
        yield cluster.address
    finally:
        server.close()
        if is_new:
            client.disconnect()


@pytest.fixture
def make_service(way: str, request: pytest.FixtureRequest) -> MakeService:
    """Make the default service and the settings it needs."""
    if way == "here":
        return lambda: (NumberingService(), {})
    if way == "whisper":
        return lambda: (HookedWhisper(), {"model_name": str(whisper_base())})
    address = request.getfixturevalue("fault_cluster")
    from tests.support.over_ray import NumberingOverRay

    return lambda: (NumberingOverRay(), {"ray_address": address})


@pytest.fixture(autouse=True)
def start_server(tmp_path: Path, way: str, make_service: MakeService) -> Iterator[StartServer]:
    """Call it for a server and a client. After the test the server must be as it was at its start.

    Whatever the test did, no child process and no temporary file is left.
    """
    default_folder, folder = tempfile.tempdir, tmp_path / "temporary"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    servers: list[ServerHarness] = []

    def run(service: ITranscriptionService | None = None, *, start: bool = True, **values: Any) -> ServerHarness:
        control = values.pop("control", None) or recordings.control()
        token = values.pop("token", None)
        if service is None:
            service, needed = make_service()
            values |= needed
        elif way != "here":
            pytest.skip("needs a service of its own")
        server = ServerHarness(service, control, **values)
        server.token = token
        servers.append(server)
        if start:
            server.start()
        return server

    try:
        yield run
        for server in servers:
            server.assert_as_before()
    finally:
        for server in servers:
            server.close()
        tempfile.tempdir = default_folder
    process_stats.wait_until_released(process_stats.children)
    assert list(folder.iterdir()) == []
    assert not [path for path in process_stats.descriptors() if path.startswith(str(folder))]
