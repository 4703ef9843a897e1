"""Decoding follows the checkpoint: its generation_config.json, or what is known of its language model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.borealis.checkpoint import prepare_checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.generation import DecodingDefaults, read_decoding_defaults
from ml.borealis.model import BorealisModel
from ml.errors import ModelFormatError
from tests.support.checkpoints import HandMade


@pytest.fixture
def source(upstream: Path, tmp_path: Path) -> Path:
    """A copy of the published checkpoint to change."""
    return shutil.copytree(upstream, tmp_path / "source")


def set_generation(source: Path, content: Any) -> None:
    (source / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")


def set_language_model(source: Path, name: str) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"llm_name": name}), encoding="utf-8")


def load(source: Path, tmp_path: Path, **options: Any) -> BorealisModel:
    folder = prepare_checkpoint(str(source), tmp_path / "cache").path
    return BorealisModel.load(folder, torch.device("cpu"), torch.float32, GenerationOptions(**options))


def test_a_known_language_model_brings_its_penalty_and_both_ends(
    source: Path, tmp_path: Path, hand_made: HandMade
) -> None:
    set_language_model(source, "unsloth/Qwen2.5-0.5B-Instruct")
    model = load(source, tmp_path)
    ends = {hand_made.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    assert model.options.repetition_penalty == 1.1
    assert model.eos_ids == ends and len(ends) == 2


def test_the_folder_s_own_file_goes_before_what_is_known(source: Path, tmp_path: Path, hand_made: HandMade) -> None:
    set_language_model(source, "unsloth/Qwen2.5-0.5B-Instruct")
    set_generation(source, {"repetition_penalty": 1.2, "eos_token_id": 7})
    model = load(source, tmp_path)
    assert model.options.repetition_penalty == 1.2
    assert model.eos_ids == {7, hand_made.tokenizer.eos_token_id}


def test_a_file_without_a_penalty_leaves_that_of_the_language_model(source: Path, hand_made: HandMade) -> None:
    set_language_model(source, "Qwen2.5-0.5B-Instruct")
    set_generation(source, {"eos_token_id": [7, 8]})
    found = read_decoding_defaults(source, hand_made.tokenizer)
    assert found == DecodingDefaults(1.1, tuple(sorted({7, 8, hand_made.tokenizer.eos_token_id})))


def test_an_unknown_language_model_has_no_penalty_and_the_tokenizer_s_end(source: Path, hand_made: HandMade) -> None:
    found = read_decoding_defaults(source, hand_made.tokenizer)
    assert found == DecodingDefaults(1.0, (hand_made.tokenizer.eos_token_id,))


def test_the_setting_goes_before_the_checkpoint(source: Path, tmp_path: Path) -> None:
    set_generation(source, {"repetition_penalty": 1.2})
    assert load(source, tmp_path, repetition_penalty=1.0).options.repetition_penalty == 1.0


@pytest.mark.parametrize(
    "content", [[1], {"repetition_penalty": "x"}, {"repetition_penalty": -1}, {"eos_token_id": "x"}]
)
def test_a_damaged_file_is_refused_in_one_line(source: Path, tmp_path: Path, content: Any) -> None:
    set_generation(source, content)
    with pytest.raises(ModelFormatError, match=r"generation_config\.json") as caught:
        load(source, tmp_path)
    assert "\n" not in str(caught.value)
