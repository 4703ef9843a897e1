"""The rehearsal's folder in the published layout, at a small size and with a small tokenizer."""

from pathlib import Path

import torch

from ml.benchmarks.strategies import transcribe_batch
from ml.borealis.checkpoint import prepare_checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.model import BorealisModel
from ml.tiny_model.network import Shape
from ml.tiny_model.tokenizer import train_tokenizer
from tests.load.published_folder import random_state, split, write_folder
from tests.support.checkpoints import tone

SMALL = Shape(64, 1, 128, 1, 64, key_value_heads=1)


def test_folder_is_converted_and_loaded_as_a_published_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "published", SMALL, train_tokenizer())
    checkpoint = prepare_checkpoint(str(tmp_path / "published"), tmp_path / "cache")
    options = GenerationOptions(max_new_tokens=2)
    model = BorealisModel.load(checkpoint.path, torch.device("cpu"), torch.float32, options)
    assert model.options.repetition_penalty == 1.1  # of the language model that config.json names
    assert len(transcribe_batch(model, [tone(440, 1.0)])) == 1


def test_weights_have_the_published_names_and_one_copy_of_the_embeddings() -> None:
    state = random_state(SMALL, train_tokenizer())
    assert {name.split(".")[0] for name in state} == {"encoder", "adapter", "llm"}
    assert state["llm.lm_head.weight"] is state["llm.model.embed_tokens.weight"]
    assert state["adapter.w_in.weight"].shape == (128, 256) and state["adapter.w_in.weight"].dtype is torch.bfloat16


def test_merge_of_a_token_is_what_lower_ranks_leave_of_it() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4, b"abc": 5, b"abcab": 6}
    assert split(b"abc", 5, ranks) == (b"ab", b"c")  # "ab" has a lower rank than "bc"
    assert split(b"abcab", 6, ranks) == (b"abc", b"ab")
