"""The house of every fault: as good afterwards as it was before."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.transcription.interface import ITranscriptionService
from tests.faults import belongings, recordings
from tests.faults.fakes import Reciter
from tests.faults.house import House

OpenHouse = Callable[..., House]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number): the row of the fault table that the test proves")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="what a process holds is read from /proc"))


@pytest.fixture(autouse=True)
def open_house(tmp_path: Path) -> Iterator[OpenHouse]:
    """Call it for a server and a client, once a test. After the test it must be as it was when it was opened.

    Whatever the test did, no child process and no temporary file is left.
    """
    usual, folder = tempfile.tempdir, tmp_path / "temporary"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    houses: list[House] = []

    def run(service: ITranscriptionService | None = None, *, start: bool = True, **values: Any) -> House:
        control = values.pop("control", None) or recordings.control()
        token = values.pop("token", None)
        house = House(service or Reciter(), control, **values)
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
        tempfile.tempdir = usual
    belongings.assert_settles(lambda: belongings.children(os.getpid()))
    assert list(folder.iterdir()) == []
    assert not [path for path in belongings.descriptors() if path.startswith(str(folder))]
