"""A model that loads and cannot recognise ends the start, and with it the program."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ml.borealis import load as loading
from ml.errors import RecognitionError
from tests.support.fake_models import FakeModel


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


def test_a_model_that_fails_over_the_warm_up_leaves_no_engine_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = FakeModel()
    model.largest_batch = 0  # not even one chunk fits the memory
    checkpoint = SimpleNamespace(name="fake", path=tmp_path)
    monkeypatch.setattr(loading, "prepare_checkpoint", lambda *arguments, **options: checkpoint)
    monkeypatch.setattr(loading.BorealisModel, "load", lambda *arguments: model)
    before = engine_threads()
    with pytest.raises(RecognitionError):
        loading.load_engine(loading.ModelOptions("fake", tmp_path, device="cpu", batch_size=2))
    assert engine_threads() == before
