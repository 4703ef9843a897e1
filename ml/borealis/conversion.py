"""Writing an upstream checkpoint as a stock Voxtral folder."""

import hashlib
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase, VoxtralConfig, VoxtralForConditionalGeneration

from ml.borealis.prompt import build_prompt
from ml.borealis.tokenizer import TOKENIZER_FILES, load_tokenizer
from ml.borealis.upstream import EMBEDDINGS, LM_HEAD, StateDict, derive_config, read_state_dict
from ml.errors import ModelFormatError

SAFETENSORS_FILE = "model.safetensors"
CHECKSUM_FILE = "model.safetensors.sha256"  # as sha256sum writes and checks it
COPIED_FILES = (*TOKENIZER_FILES, "preprocessor_config.json")


def convert(source: Path, target: Path) -> None:
    """Write the upstream checkpoint in `source` to the new folder `target`, which transformers loads natively.

    `target` appears whole or not at all: it is written beside itself, synced to disk and renamed. Hold a lock.
    Raises ModelFormatError if the source is no Borealis checkpoint, OSError if the disk refuses.
    """
    tokenizer = load_tokenizer(source)
    state = read_state_dict(source)
    config = derive_config(state, audio_token_id=tokenizer.pad_token_id)
    _check_tokenizer(tokenizer, config)
    _check_shapes(state, config)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that died here
    partial.mkdir(parents=True)
    try:
        _write(partial, source, state, config, tokenizer)
        shutil.rmtree(target, ignore_errors=True)  # a damaged earlier conversion
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync(target.parent)


def has_right_checksum(folder: Path) -> bool:
    """Whether the weights in `folder` are, byte for byte, those that were written there."""
    try:
        expected = (folder / CHECKSUM_FILE).read_text(encoding="ascii").split()[0]
        return expected == sha256_of(folder / SAFETENSORS_FILE)
    except (OSError, UnicodeDecodeError, IndexError):
        return False


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of `file`."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: VoxtralConfig) -> None:
    prompt = build_prompt(tokenizer)
    if config.audio_token_id in prompt.prefix_ids + prompt.suffix_ids:
        raise ModelFormatError("Токен заполнения токенизатора занят в запросе: это не токенизатор Borealis.")
    if len(tokenizer) > config.text_config.vocab_size:
        raise ModelFormatError(
            f"Токенизатор знает {len(tokenizer)} токенов, а модель — {config.text_config.vocab_size}: "
            "это файлы разных моделей."
        )


def _check_shapes(state: StateDict, config: VoxtralConfig) -> None:
    """Raise ModelFormatError unless `state` has exactly the tensors of the network `config` describes."""
    with torch.device("meta"):
        network = VoxtralForConditionalGeneration(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    actual = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key in sorted(expected.keys() | actual.keys()):
        if expected.get(key) != actual.get(key):
            raise ModelFormatError(
                f"Веса не подходят к модели Borealis: тензор «{key}» имеет форму {actual.get(key, 'нет')}, "
                f"ожидалась {expected.get(key, 'нет')}."
            )


def _write(
    folder: Path, source: Path, state: StateDict, config: VoxtralConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    if tensors[LM_HEAD].data_ptr() == tensors[EMBEDDINGS].data_ptr():
        tensors[LM_HEAD] = tensors[LM_HEAD].clone()  # a safetensors file knows no shared tensors
    save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
    (folder / CHECKSUM_FILE).write_text(f"{sha256_of(folder / SAFETENSORS_FILE)}  {SAFETENSORS_FILE}\n", "ascii")
    config.save_pretrained(folder)
    GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for file in folder.iterdir():
        _sync(file)


def _sync(path: Path) -> None:
    """Flush `path` to disk; Windows can do neither folders nor files that are open for reading only."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
