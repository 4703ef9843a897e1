"""Whisper base in its engine, loaded once for the tests of this folder."""

from collections.abc import Iterator

import pytest

from ml.engine.engine import Engine
from ml.whisper.load import WhisperOptions, load_engine
from tests.support.whisper import whisper_base


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    with load_engine(WhisperOptions(name=str(whisper_base()), device="cpu", local_files_only=True)) as engine:
        yield engine
