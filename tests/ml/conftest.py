"""One small random checkpoint for all tests of the model, and the paces of a device."""

from pathlib import Path

import pytest
import torch

from ml.borealis import runner as runner_module
from ml.borealis import self_check
from ml.borealis.checkpoint import Checkpoint, prepare_checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.device_path import Decoder, DevicePath, PathModel
from ml.borealis.model import BorealisModel
from ml.engine import continuous
from tests.support.checkpoints import HandMade, build_hand_made, save_upstream
from tests.support.fake_models import FakeModel, LateEncoder, LateReadback
from tests.support.reference import Alone, decode_alone


@pytest.fixture(scope="session")
def hand_made() -> HandMade:
    return build_hand_made()


@pytest.fixture(scope="session")
def upstream(hand_made: HandMade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as published; not to be changed by a test."""
    return save_upstream(hand_made, tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="session")
def converted(upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return prepare_checkpoint(str(upstream), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def model(converted: Checkpoint) -> BorealisModel:
    return BorealisModel.load(converted.path, torch.device("cpu"), torch.float32, GenerationOptions(max_new_tokens=12))


@pytest.fixture(scope="session")
def alone(converted: Checkpoint) -> Alone:
    """Chunks and what transformers' generate() gives for each alone, with a penalty that changes most of them."""
    return decode_alone(converted.path, repetition_penalty=1.3)


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder batch may start before every step, which is of all, as on CUDA; it is one chunk, as on the CPU."""
    monkeypatch.setattr(continuous, "URGENT_STEPS", 0)
    monkeypatch.setattr(continuous, "DECODE_SHARE", 0.0)
    monkeypatch.setattr(continuous, "URGENT_SHARE", 0.0)


@pytest.fixture
def in_batches(monkeypatch: pytest.MonkeyPatch, unhurried: None) -> None:
    """Up to five chunks are encoded together, as on CUDA."""
    monkeypatch.setattr(runner_module, "ENCODER_BATCH", {"cpu": 5})


def late_path(model: PathModel, decoder: Decoder) -> DevicePath:
    return DevicePath(LateEncoder(model.audio_embeddings), decoder, LateReadback())


@pytest.fixture(params=["at once", "late"])
def device_pace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, unhurried: None) -> str:
    """Whether work is done within the call, as on the CPU, or later, as on CUDA."""
    if request.param == "late":
        monkeypatch.setattr(self_check, "plain_path", late_path)
    return str(request.param)
