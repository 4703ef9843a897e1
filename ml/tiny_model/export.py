"""Write a run's averaged weights as a stock Voxtral folder: `python -m ml.tiny_model.export last.pt FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, WhisperFeatureExtractor

from ml.borealis.convert import CHECKSUM_FILE, SAFETENSORS_FILE, sha256_of
from ml.tiny_model.network import Shape, Trainee, build_network
from ml.tiny_model.tokenizer import train_tokenizer

STORED = torch.float16


def export(run: Path, folder: Path) -> None:
    """Weights in half precision, configuration, tokenizer and front end; the helper heads stay behind."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    trainee = Trainee(build_network(tokenizer, Shape()), tokenizer)
    trainee.load_state_dict(torch.load(run)["average"])
    network = trainee.network
    network.set_attn_implementation("sdpa")
    tensors = {name: tensor.to(STORED).contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
    checksum = f"{sha256_of(folder / SAFETENSORS_FILE)}  {SAFETENSORS_FILE}\n"
    (folder / CHECKSUM_FILE).write_text(checksum, "ascii")
    network.config.dtype = STORED
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
    generation = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    export(chosen.run, chosen.folder)


if __name__ == "__main__":
    main()
