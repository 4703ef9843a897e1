"""A model that loads and cannot recognise ends the start, and with it the program."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ml.borealis import load as loading
from ml.borealis.checkpoint import Checkpoint
from ml.errors import RecognitionError
from tests.support.fake_models import FakeModel


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


def test_threads_follow_the_cgroup_s_quota(
    monkeypatch: pytest.MonkeyPatch, converted: Checkpoint, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(loading, "usable_cpus", lambda: 1)
    torch.set_num_threads(4)  # as on a host of four cores
    try:
        with loading.load_engine(loading.ModelOptions(str(converted.path), tmp_path, device="cpu")):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


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
