"""The house of every fault: as good afterwards as it was before, whether chunks are recognised here or on a cluster."""

import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.transcription.interface import ITranscriptionService
from tests.conftest import ON_RAY
from tests.support import process_stats as belongings
from tests.support import recordings
from tests.support.fault_services import NumberingService
from tests.support.harness import ServerHarness

OpenHouse = Callable[..., ServerHarness]
Usual = Callable[[], tuple[ITranscriptionService, dict[str, Any]]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number): the row of the fault table that the test proves")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="what a process holds is read from /proc"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What happens to a house of the usual service happens to one over a cluster as well."""
    if "start_server" in inspect.signature(metafunc.function).parameters:
        ways = [pytest.param(False, id="here"), pytest.param(True, id="over-ray", marks=ON_RAY)]
        metafunc.parametrize("over_ray", ways, indirect=True)


@pytest.fixture
def over_ray(request: pytest.FixtureRequest) -> bool:
    """Whether houses are over a cluster."""
    return getattr(request, "param", False)


@pytest.fixture(scope="session")
def reciting_cluster(cluster: Any) -> Iterator[str]:
    """The address of a cluster to which this process stays connected, so that what Ray holds it held before a test."""
    from ml.cluster import deployment
    from tests.support.over_ray import ReciterOverRay

    is_new = deployment.connect(cluster.address, "")
    house = ServerHarness(ReciterOverRay(), recordings.recording("wav", 100), ray_address=cluster.address)
    try:
        house.start()
        yield cluster.address
    finally:
        house.close()
        if is_new:
            deployment.disconnect()


@pytest.fixture
def usual(over_ray: bool, request: pytest.FixtureRequest) -> Usual:
    """Makes the service of a house whose test brings none, and the settings it needs."""
    if not over_ray:
        return lambda: (NumberingService(), {})
    address = request.getfixturevalue("reciting_cluster")
    from tests.support.over_ray import ReciterOverRay

    return lambda: (ReciterOverRay(), {"ray_address": address})


@pytest.fixture(autouse=True)
def start_server(tmp_path: Path, over_ray: bool, usual: Usual) -> Iterator[OpenHouse]:
    """Call it for a server and a client, once a test. After the test it must be as it was when it was opened.

    Whatever the test did, no child process and no temporary file is left.
    """
    elsewhere, folder = tempfile.tempdir, tmp_path / "temporary"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    houses: list[ServerHarness] = []

    def run(service: ITranscriptionService | None = None, *, start: bool = True, **values: Any) -> ServerHarness:
        control = values.pop("control", None) or recordings.control()
        token = values.pop("token", None)
        if service is None:
            service, needed = usual()
            values |= needed
        elif over_ray:
            pytest.skip("looks into its own service")
        house = ServerHarness(service, control, **values)
        house.token = token
        houses.append(house)
        if start:
            house.start()
        return house

    try:
        yield run
        for house in houses:
            house.assert_as_before()
    finally:
        for house in houses:
            house.close()
        tempfile.tempdir = elsewhere
    belongings.assert_settles(lambda: belongings.children(os.getpid()))
    assert list(folder.iterdir()) == []
    assert not [path for path in belongings.descriptors() if path.startswith(str(folder))]
