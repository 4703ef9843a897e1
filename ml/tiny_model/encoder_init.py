"""Initial weights: encoder heads that attend to their neighbourhood from the first step on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import VoxtralForConditionalGeneration

PLACES = 64  # channels of the encoder that carry the position, half of them sines, half cosines
HEAD = 64
MEAN_FREQUENCY = 0.15  # rad a frame: a head attends to about 7 frames (0.14 s) on each side of its aim
SHARPNESS = 1.6  # of the aim, against the layer-normed position
AIMS = ((-6, 0, 6), (-12, 0, 12), (-22, -6, 6), (-25, 8, 25))  # frames of 20 ms ahead, by layer and head


@torch.no_grad()
def init_weights(network: VoxtralForConditionalGeneration) -> None:
    """Variance-keeping weights, positions in channels of their own and encoder heads that aim at them.

    Whisper adds sinusoids to all channels and learns locality from much data. Here the first 64 channels hold the
    position alone, and queries are keys rotated by the angle of a fixed delay, so that their product is largest there.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and module is not network.lm_head:
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)
    tower = network.model.audio_tower
    frequencies = _frequencies()
    tower.embed_positions.weight.zero_()
    tower.embed_positions.weight[:, :PLACES] = _waves(torch.arange(1500.0), frequencies)
    tower.conv2.weight[:PLACES] *= 0.01
    tower.conv1.weight *= 2.0
    tower.conv2.weight[PLACES:] *= 2.0
    for layer, aims in zip(tower.layers, AIMS, strict=True):
        _aim(layer.self_attn, aims, frequencies)
        for module in (layer.self_attn.out_proj, layer.fc2):
            module.weight *= 0.5
            module.weight[:PLACES] *= 0.1


def _frequencies() -> torch.Tensor:
    """Half-normal quantiles (32,): the sum of such cosines is a bell without echoes."""
    quantiles = (torch.arange(PLACES // 2) + 0.5) / (PLACES // 2)
    return MEAN_FREQUENCY * 2**0.5 * torch.erfinv(quantiles)


def _waves(times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Positions (T, 64) at times (T,) in frames."""
    angles = times[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _aim(attention: Any, aims: tuple[int, ...], frequencies: torch.Tensor) -> None:
    """Make the scores of head h largest `aims[h]` frames ahead."""
    count = PLACES // 2
    for head, delay in enumerate(aims):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        for projection, turn in ((attention.q_proj, frequencies * delay), (attention.k_proj, frequencies * 0)):
            projection.weight[rows] *= 0.3
            block = projection.weight[rows, :PLACES]
            block.zero_()
            index = torch.arange(count)
            block[index, index] = SHARPNESS * turn.cos()
            block[index, index + count] = SHARPNESS * turn.sin()
            block[index + count, index + count] = SHARPNESS * turn.cos()
            block[index + count, index] = -SHARPNESS * turn.sin()
        attention.q_proj.bias.zero_()
