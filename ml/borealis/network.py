"""Load a checkpoint's network straight into its number format, one tensor at a time."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import VoxtralConfig, VoxtralForConditionalGeneration
from transformers.initialization import no_init_weights

from ml.borealis.convert import CONV_STRIDE, EMBEDDINGS, LM_HEAD
from ml.borealis.features import N_FRAMES, N_MELS
from ml.borealis.linear import Int8Matrix, reserve, set_int8
from ml.errors import ModelFormatError
from ml.heap import release_free_memory

FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE_BYTES = 1024 * 1024
RELEASE_BYTES = 64 * 1024 * 1024  # read before freed memory goes back to the system: it is seldom in one piece
LENGTH_BYTES = 8  # of the header's length, which a safetensors file begins with
# What int8 quantises; the encoder computes the products of its attention in float32. On 7,778 words of speech it was
# not trained on, the bundled model's word error rate is 8.04 % in float32 and 7.78 % in int8.
INT8_WEIGHTS = re.compile(
    r"model\.audio_tower\.layers\.\d+\.(self_attn\.\w+_proj|fc\d)\.weight"
    r"|model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight"
    rf"|{re.escape(EMBEDDINGS)}|{re.escape(LM_HEAD)}"
)


class TensorFile:
    """Reads single tensors of a safetensors file into memory of their own: a mapped file would stay resident."""

    def __init__(self, file: Path) -> None:
        """Raises ValueError and what safetensors raises over a damaged file."""
        with safe_open(file, framework="pt"):  # checks the structure
            pass
        self._file = file
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        self._start = LENGTH_BYTES + length
        self._entries = header
        self.shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
        if unknown := {entry["dtype"] for entry in header.values()} - FORMATS.keys():
            raise ValueError(f"tensors of {', '.join(sorted(unknown))}")

    def read(self, key: str) -> torch.Tensor:
        """The tensor called `key`, in the file's format."""
        entry = self._entries[key]
        return torch.frombuffer(self._read_bytes(key), dtype=FORMATS[entry["dtype"]]).reshape(entry["shape"])

    def digest(self, key: str) -> bytes:
        """A checksum of the tensor called `key`, computed without holding it."""
        begin, end = self._entries[key]["data_offsets"]
        checksum = hashlib.sha256()
        with self._file.open("rb") as stream:
            stream.seek(self._start + begin)
            for start in range(begin, end, PIECE_BYTES):
                checksum.update(stream.read(min(PIECE_BYTES, end - start)))
        return checksum.digest()

    def _read_bytes(self, key: str) -> bytearray:
        begin, end = self._entries[key]["data_offsets"]
        content = bytearray(end - begin)
        with self._file.open("rb") as stream:
            stream.seek(self._start + begin)
            if stream.readinto(content) != len(content):
                raise ValueError("the file is shorter than its header says")
        return content


def load_network(folder: Path, dtype: torch.dtype) -> VoxtralForConditionalGeneration:
    """The network of the stock Voxtral `folder` on the CPU, in eval mode.

    With torch.int8 the weights that match INT8_WEIGHTS are quantised (see `set_int8`) and the rest is float32.
    Raises ModelFormatError if the files are damaged, incomplete or of another model.
    """
    try:
        files = [TensorFile(file) for file in sorted(folder.glob("*.safetensors"))]
        network = _empty_network(folder, torch.float32 if dtype == torch.int8 else dtype)
        places = {key: file for file in files for key in file.shapes}
        _check(network, {key: file.shapes[key] for key, file in places.items()})
        _fill(network, places, dtype == torch.int8)
    except ModelFormatError:
        raise
    except Exception as error:  # transformers and safetensors raise anything over damaged files
        raise ModelFormatError("Файлы модели повреждены, неполны или от другой модели.") from error
    return network.eval().requires_grad_(False)


def _empty_network(folder: Path, dtype: torch.dtype) -> VoxtralForConditionalGeneration:
    """Memory that is reserved, and not used before it is written."""
    config = VoxtralConfig.from_pretrained(folder, local_files_only=True)
    audio = config.audio_config
    if (audio.num_mel_bins, audio.max_source_positions * CONV_STRIDE) != (N_MELS, N_FRAMES):
        raise ModelFormatError("Энкодер модели рассчитан на другой вход: это не модель Borealis.")
    with no_init_weights():
        network = VoxtralForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    network.model.audio_tower.embed_positions.float()  # transformers keeps them so in every format
    for layer in network.model.audio_tower.layers:
        attention = layer.self_attn
        reserve([attention.q_proj, attention.k_proj, attention.v_proj])
    for layer in network.model.language_model.layers:
        attention, feed_forward = layer.self_attn, layer.mlp
        reserve([attention.q_proj, attention.k_proj, attention.v_proj])
        reserve([feed_forward.gate_proj, feed_forward.up_proj])
    return network


def _check(network: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            raise ModelFormatError(f"Веса не подходят к модели Borealis: лишние или недостающие тензоры ({key}).")


def _fill(network: VoxtralForConditionalGeneration, places: dict[str, TensorFile], is_int8: bool) -> None:
    """Read every tensor. The head of Qwen2.5 is tied to the embeddings: one copy is kept where both are equal."""
    embedding = network.get_input_embeddings()
    is_tied = places[LM_HEAD].digest(LM_HEAD) == places[EMBEDDINGS].digest(EMBEDDINGS)
    read_bytes = 0
    for key, parameter in dict(network.state_dict(keep_vars=True)).items():
        if key == LM_HEAD and is_tied:
            continue
        read_bytes += _read(network, places[key], key, parameter, is_int8)
        if read_bytes >= RELEASE_BYTES:
            release_free_memory()
            read_bytes = 0
    if is_tied and is_int8:
        set_int8(network.lm_head, vars(embedding)["int8"])
    elif is_tied:
        network.lm_head.weight = embedding.weight


def _read(network: nn.Module, file: TensorFile, key: str, parameter: torch.Tensor, is_int8: bool) -> int:
    """Read one tensor into its place; return its size in the file, in bytes."""
    tensor = file.read(key)
    if is_int8 and INT8_WEIGHTS.fullmatch(key):
        set_int8(network.get_submodule(key.removesuffix(".weight")), Int8Matrix.quantize(tensor))
    else:
        parameter.data.copy_(tensor)
    return tensor.nbytes
