"""Whisper's encoder and Borealis' adapter on a CPU: what transformers' modules compute, in less time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import VoxtralForConditionalGeneration

from ml.borealis.kernels import AutotunedKernels, Kernels, TorchKernels, gelu_
from ml.borealis.linear import Weight, join, join_biases
from ml.borealis.workers import CpuWorkers

ADAPTER_ROWS = 375  # audio tokens of a chunk
DTYPES = (torch.float32, torch.bfloat16)  # that this encoder computes in


@dataclass(frozen=True)
class EncoderLayer:
    """The weights of one layer, queries, keys and values fused; each weight is (out, in)."""

    attention_norm: nn.LayerNorm
    qkv: Weight
    qkv_bias: torch.Tensor
    out: Weight
    out_bias: torch.Tensor
    feed_forward_norm: nn.LayerNorm
    fc1: Weight
    fc1_bias: torch.Tensor
    fc2: Weight
    fc2_bias: torch.Tensor


@dataclass(eq=False)
class ChunkState:
    """A chunk on its way through the encoder."""

    x: torch.Tensor  # features (128, 3000), then hidden (1500, d), in the end embeddings (375, H)
    layers: int = 0  # computed
    is_complete: bool = False


class CpuEncoder(nn.Module):
    """Features in, audio embeddings out; every chunk by itself, for a batch would not fit a CPU's caches.

    One chunk gets all of torch's threads; several chunks share them. Holds no weights of its own but the biases of its
    fused projections. For one caller at a time, see CpuWorkers.
    """

    def __init__(self, network: VoxtralForConditionalGeneration, kernels: Kernels, workers: CpuWorkers) -> None:
        """`network` is on the CPU, in one of DTYPES or int8, and has GELU everywhere, see `make_encoder`."""
        super().__init__()
        tower, adapter = network.model.audio_tower, network.model.multi_modal_projector
        self.on_progress: Callable[[], None] = lambda: None  # called for each layer, on any worker
        self._kernels = kernels
        self._workers = workers
        self._heads: int = network.config.audio_config.num_attention_heads
        self._convolutions: list[nn.Conv1d] = [tower.conv1, tower.conv2]
        self._positions: torch.Tensor = tower.embed_positions.weight  # (1500, d)
        self._layers = [_fuse(layer, len(self._positions)) for layer in tower.layers]
        self._last_norm: nn.LayerNorm = tower.layer_norm
        self._adapter = [join([adapter.linear_1], ADAPTER_ROWS), join([adapter.linear_2], ADAPTER_ROWS)]
        self._adapter_width: int = adapter.linear_1.in_features
        self._dtype: torch.dtype = network.dtype

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Audio embeddings (B, 375, H) of `features` (B, 128, 3000)."""
        return EncoderPass(self, features).wait()

    def advance(self, chunks: list[ChunkState], must_pause: Callable[[], bool]) -> None:
        """Compute `chunks` to their embeddings, or until `must_pause()`."""
        self._workers.map(lambda chunk: self._advance_chunk(chunk, must_pause), chunks)

    def _advance_chunk(self, chunk: ChunkState, must_pause: Callable[[], bool]) -> None:
        if chunk.is_complete:
            return
        if chunk.layers == 0:
            chunk.x = self._convolve(chunk.x)
        for layer in self._layers[chunk.layers :]:
            self.on_progress()
            chunk.x += self._attend(layer, layer.attention_norm(chunk.x))
            chunk.x += self._feed_forward(layer, layer.feed_forward_norm(chunk.x))
            chunk.layers += 1
            if must_pause():
                return
        chunk.x, chunk.is_complete = self._adapt(self._last_norm(chunk.x)), True

    def _convolve(self, features: torch.Tensor) -> torch.Tensor:
        """The input (1500, d) of the first layer for `features` (128, 3000)."""
        x = features[None].to(self._dtype)
        for convolution in self._convolutions:
            x = gelu_(convolution(x))  # (1, d, 3000), then (1, d, 1500)
        return (x[0].t().contiguous() + self._positions).to(self._dtype)

    def _attend(self, layer: EncoderLayer, x: torch.Tensor) -> torch.Tensor:
        attended = self._kernels.attend(self._kernels.linear(x, layer.qkv, layer.qkv_bias), self._heads)
        return self._kernels.linear(attended, layer.out, layer.out_bias)

    def _feed_forward(self, layer: EncoderLayer, x: torch.Tensor) -> torch.Tensor:
        inner = self._kernels.linear_gelu(x, layer.fc1, layer.fc1_bias)  # (1500, f)
        return self._kernels.linear(inner, layer.fc2, layer.fc2_bias)

    def _adapt(self, x: torch.Tensor) -> torch.Tensor:
        """Four positions side by side, taken to the language model's width: (375, H)."""
        first, second = self._adapter
        together = x.reshape(-1, self._adapter_width)
        return self._kernels.linear(self._kernels.linear_gelu(together, first, None), second, None)


class EncoderPass:
    """A batch on its way through the encoder, which can pause after each layer. Implements transfer.AudioBatch."""

    def __init__(self, encoder: CpuEncoder, features: torch.Tensor) -> None:
        """Nothing of `features` (B, 128, 3000) is computed yet."""
        self._encoder = encoder
        self._chunks = [ChunkState(each) for each in features]

    def advance(self, must_pause: Callable[[], bool]) -> None:
        """See AudioBatch."""
        self._encoder.advance(self._chunks, must_pause)

    def is_ready(self) -> bool:
        """See AudioBatch."""
        return all(chunk.is_complete for chunk in self._chunks)

    def wait(self) -> torch.Tensor:
        """See AudioBatch: computes what is left."""
        self.advance(lambda: False)
        return torch.stack([chunk.x for chunk in self._chunks])


def make_encoder(network: VoxtralForConditionalGeneration, workers: CpuWorkers) -> CpuEncoder | None:
    """An encoder for `network` with the kernels that are quickest here; None where transformers' own is used."""
    audio = network.config.audio_config
    activations = (audio.activation_function, network.config.projector_hidden_act)
    if network.device.type != "cpu" or network.dtype not in DTYPES or activations != ("gelu", "gelu"):
        return None
    if network.dtype != torch.float32:
        return CpuEncoder(network, TorchKernels(), workers)  # which leave other formats to oneDNN
    kernels = AutotunedKernels(
        audio.max_source_positions, audio.hidden_size, audio.intermediate_size, audio.num_attention_heads
    )
    return CpuEncoder(network, kernels, workers)


def _fuse(layer: Any, rows: int) -> EncoderLayer:
    attention = layer.self_attn
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    return EncoderLayer(
        attention_norm=layer.self_attn_layer_norm,
        qkv=join(projections, rows, in_floats=True),
        qkv_bias=join_biases(projections),
        out=join([attention.out_proj], rows, in_floats=True),
        out_bias=attention.out_proj.bias,
        feed_forward_norm=layer.final_layer_norm,
        fc1=join([layer.fc1], rows),
        fc1_bias=layer.fc1.bias,
        fc2=join([layer.fc2], rows),
        fc2_bias=layer.fc2.bias,
    )
