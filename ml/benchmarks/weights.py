"""The models the benchmark runs: a checkpoint's folder, or random weights of a given shape."""

import logging
from pathlib import Path

import torch
from transformers import VoxtralForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from ml.borealis.checkpoint import BUNDLED_MODEL, prepare_checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.model import BorealisModel
from ml.borealis.prompt import build_prompt
from ml.tiny_model.network import Shape, make_config
from ml.tiny_model.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CACHE_DIR = ROOT / ".cache" / "models"
WEIGHT_SPREAD = 0.02

SHAPES = {
    "random-full": Shape(1280, 32, 896, 24, 4864, key_value_heads=2, vocabulary=151_667),  # Borealis
    "random-tiny": Shape(),  # the bundled model
    "random-smallest": Shape(64, 1, 64, 1, 64),  # for tests
}


def find_folder(name: str) -> Path | None:
    """Return the checkpoint called `name`, None for random weights. Raises ModelError where there is none."""
    if name in SHAPES:
        return None
    return prepare_checkpoint(str(ROOT / BUNDLED_MODEL) if name == "bundled" else name, CACHE_DIR).path


def load_weights(
    name: str, device: torch.device, dtype: torch.dtype, max_new_tokens: int, ignore_eos: bool
) -> BorealisModel:
    """Return the model called `name`: "bundled", one of SHAPES, a folder or a hub name.

    With `ignore_eos` every chunk gets `max_new_tokens` tokens. Raises ModelError where there is no such model.
    """
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    disable_progress_bar()
    folder = find_folder(name)
    if folder is None:
        model = _random(SHAPES[name], device, dtype, options)
    else:
        model = BorealisModel.load(folder, device, dtype, options)
    if ignore_eos:
        set_eos(model, None)
    return model


def set_eos(model: BorealisModel, token_id: int | None) -> None:
    """Make `token_id` the end of every text; with None, texts end only at the limit on tokens."""
    model.eos_ids = frozenset() if token_id is None else frozenset({token_id})
    model.network.generation_config.eos_token_id = token_id


def _random(shape: Shape, device: torch.device, dtype: torch.dtype, options: GenerationOptions) -> BorealisModel:
    """Make a model in place, on `device` and in `dtype`: nothing is read, written or converted."""
    tokenizer = train_tokenizer()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(0)
        network = VoxtralForConditionalGeneration._from_config(
            make_config(tokenizer, shape), dtype=dtype, attn_implementation="sdpa"
        )
        for key, weight in network.named_parameters():
            if "norm" not in key:
                weight.data.normal_(0, WEIGHT_SPREAD)
    network.lm_head.weight = network.get_input_embeddings().weight  # as in Borealis
    network.eval().requires_grad_(False)
    return BorealisModel(network, tokenizer, build_prompt(tokenizer), options, [tokenizer.eos_token_id])
