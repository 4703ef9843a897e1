"""The values that every layer shares: waveforms, and what the engines of all models have in common."""

from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.transcript import Completion

SAMPLE_RATE = 16_000  # Hz, of every waveform below the decoder

Waveform = NDArray[np.float32]
"""Mono samples (N,) at SAMPLE_RATE in [-1, 1]."""


@dataclass(frozen=True)
class RecognitionOptions:
    """How to recognise a chunk. A model ignores what it cannot do."""

    sampled: bool = False  # draw the tokens instead of taking the most probable ones
    language: str = ""  # ISO 639-1; empty for the model's default, "auto" to detect it
    prompt: str = ""  # names and terms to expect
    word_times: bool = False


class Engine(Protocol):
    """Recognises single chunks, batched across recordings."""

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),
    ) -> "Future[Completion]":
        """Queue a waveform (N,) of at most the model's longest chunk; block while its recording has too many waiting.

        Recordings take turns, told apart by `recording_id`. Cancelling the future evicts the chunk.
        """
