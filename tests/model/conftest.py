"""One small random checkpoint for all tests of the model."""

from pathlib import Path

import pytest
import torch

from ml.borealis.checkpoint import Checkpoint, prepare_checkpoint
from ml.borealis.model import BorealisModel, GenerationOptions
from tests.model.builders import HandMade, build_hand_made, save_upstream


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
