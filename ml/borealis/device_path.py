"""The way from chunks to tokens on a device: plain, or on CUDA without waiting for the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from ml.borealis.cuda import GraphedDecoder
from ml.borealis.decoder import SlotDecoder
from ml.borealis.sampler import Tokens
from ml.borealis.transfer import (
    AsyncEncoder,
    AudioBatch,
    BatchEncoder,
    CudaReadback,
    HostEncoder,
    HostReadback,
    PausableEncoder,
    Readback,
)


class Decoder(Protocol):
    """Rows of one KV cache; SlotDecoder is one."""

    prefill_length: int

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: Sequence[int | None]) -> Tokens:
        """Fill the KV cache of `rows`; return their first tokens."""

    def step(self, active: int, length: int) -> Tokens:
        """Decode one token for each of the first `active` rows; keys beyond `length` are not read."""

    def step_rows(self, rows: list[int], length: int) -> Tokens:
        """Decode one token for each of `rows`, and for no others; on a CPU."""

    def audio_attention(
        self, rows: list[int], tokens: Sequence[Sequence[int]], heads: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """Attention (b, heads, n + 1, 375) of (layer, index) `heads` to the audio, over `tokens` of finished `rows`."""

    def move(self, row: int, to: int) -> None:
        """Copy the state of `row` to `to`."""

    def release(self, row: int) -> None:
        """The sequence in `row` has left."""


class PathModel(Protocol):
    """What a path needs of a model."""

    device: torch.device

    @property
    def pauses(self) -> bool:
        """Whether `start_encoding` gives a batch that can pause."""

    def start_encoding(self, waveforms: torch.Tensor) -> AudioBatch:
        """The same as audio_embeddings, computed as the batch is advanced."""

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) on the device to audio embeddings (B, 375, H)."""

    def make_decoder(self, slots: int) -> Decoder:
        """A decoder of `slots` rows."""


@dataclass(frozen=True)
class DevicePath:
    """What encodes chunks, decodes tokens and brings them to the host."""

    encoder: BatchEncoder
    decoder: Decoder
    readback: Readback[Any]
    synchronize: Callable[[], None] = lambda: None  # waits for the device


def plain_path(model: PathModel, decoder: Decoder) -> DevicePath:
    """One thing after the other, on the current stream, each result awaited."""
    encoder = PausableEncoder(model.start_encoding) if model.pauses else HostEncoder(model.audio_embeddings)
    return DevicePath(encoder, decoder, HostReadback())


def fast_path(model: PathModel, decoder: Decoder, slots: int, encoder_batch: int) -> DevicePath:
    """On CUDA: copies and encoder on streams of their own, captured steps, tokens read behind the steps."""
    assert isinstance(decoder, SlotDecoder)
    graphed = GraphedDecoder(decoder)
    graphed.capture_all()
    encoder = AsyncEncoder(model.audio_embeddings, model.device, encoder_batch)
    synchronize = partial(torch.cuda.synchronize, model.device)
    return DevicePath(encoder, graphed, CudaReadback(model.device, slots), synchronize)
