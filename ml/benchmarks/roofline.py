"""The least time a chunk can take here: its operations at the rate of one product, its reads at the rate of a copy."""

import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import VoxtralForConditionalGeneration

from ml.borealis.model import ENCODER_BATCH, BorealisModel

COPY_BYTES = 256 * 1024 * 1024
REPEATS = 5


@dataclass(frozen=True)
class Roofline:
    """What this machine can do at most, in the model's number format."""

    chunk_s: float  # the encoder's matrix products, on CUDA the prefill's too
    token_s: float  # on CUDA one row's share of reading the language model's weights for a step; 0 on a CPU
    gflops: float  # 1e9 operations a second, in the product of a feed-forward layer
    copy_gb_per_s: float

    def least_s(self, chunks: int, tokens: float) -> float:
        """Seconds for `chunks` with `tokens` decoded in all."""
        return chunks * self.chunk_s + tokens * self.token_s


def measure(model: BorealisModel, slots: int) -> Roofline:
    """Time one product and one copy on the model's device."""
    audio, llm = model.network.config.audio_config, model.network.model.language_model
    on_cuda = model.device.type == "cuda"
    rows = ENCODER_BATCH[model.device.type] * audio.max_source_positions
    left = torch.randn(rows, audio.hidden_size, device=model.device).to(model.dtype)
    right = torch.randn(audio.intermediate_size, audio.hidden_size, device=model.device).to(model.dtype)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(source)
    flops_per_s = 2 * rows * right.numel() / _median_s(lambda: left @ right.t(), on_cuda)
    bytes_per_s = 2 * COPY_BYTES / _median_s(lambda: target.copy_(source), on_cuda)
    chunk_flops, token_s = encoder_flops(model.network), 0.0
    if on_cuda:
        audio_tokens = audio.max_source_positions * audio.hidden_size // audio.intermediate_size  # 375
        chunk_flops += 2 * (audio_tokens + len(model.prompt.suffix_ids)) * _weights(llm.layers)
        token_s = _weights(llm) * left.element_size() / bytes_per_s / slots
    return Roofline(chunk_flops / flops_per_s, token_s, flops_per_s / 1e9, bytes_per_s / 1e9)


def encoder_flops(network: VoxtralForConditionalGeneration) -> int:
    """Operations of Whisper's encoder and the adapter for one chunk: two for each weight and position, and attention.

    Attention multiplies queries with keys and shares with values: 4 * T * T * d operations a layer.
    """
    tower, adapter, audio = network.model.audio_tower, network.model.multi_modal_projector, network.config.audio_config
    positions, width = audio.max_source_positions, audio.hidden_size
    attention = 2 * positions * width * len(tower.layers)
    weights = 2 * _weights(tower.conv1) + _weights(tower.conv2) + _weights(tower.layers)
    adapted = _weights(adapter) * width // audio.intermediate_size  # one row of several positions
    return int(2 * positions * (weights + attention + adapted))


def _weights(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def _median_s(work: Callable[[], object], on_cuda: bool) -> float:
    def run() -> None:
        work()
        if on_cuda:
            torch.cuda.synchronize()

    return statistics.median(timeit.repeat(run, number=1, repeat=REPEATS + 1)[1:])  # the first one warms up
