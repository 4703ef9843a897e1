"""The network is read tensor by tensor, straight into its number format."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VoxtralForConditionalGeneration

from ml.borealis.checkpoint import Checkpoint
from ml.borealis.network import TensorFile, load_network
from ml.errors import ModelFormatError


@pytest.fixture
def given(converted: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the converted checkpoint to change."""
    return shutil.copytree(converted.path, tmp_path / "given")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weights_are_those_of_transformers(converted: Checkpoint, dtype: torch.dtype) -> None:
    expected = VoxtralForConditionalGeneration.from_pretrained(converted.path, dtype=dtype).state_dict()
    network = load_network(converted.path, dtype)
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_tensor_is_read_into_memory_of_its_own(given: Path) -> None:
    file = TensorFile(given / "model.safetensors")
    expected = load_file(given / "model.safetensors")["lm_head.weight"]
    found = file.read("lm_head.weight")
    (given / "model.safetensors").unlink()
    assert torch.equal(found, expected)


def test_a_head_that_is_not_tied_stays_apart(given: Path) -> None:
    tensors = load_file(given / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, given / "model.safetensors")
    network = load_network(given, torch.float32)
    assert network.lm_head.weight is not network.get_input_embeddings().weight
    assert torch.equal(network.lm_head.weight, network.get_input_embeddings().weight + 1)


def test_weights_in_several_files_are_one_network(given: Path, converted: Checkpoint) -> None:
    tensors = load_file(given / "model.safetensors")
    (given / "model.safetensors").unlink()
    for number in range(2):
        part = {key: tensor for place, (key, tensor) in enumerate(tensors.items()) if place % 2 == number}
        save_file(part, given / f"model-{number}.safetensors")
    found, expected = (load_network(folder, torch.float32).state_dict() for folder in (given, converted.path))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_format_that_the_model_is_not_saved_in_is_refused(given: Path) -> None:
    tensors = load_file(given / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"].long()}, given / "model.safetensors")
    with pytest.raises(ModelFormatError):
        load_network(given, torch.float32)
