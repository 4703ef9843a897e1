"""The values that every layer shares: waveforms, and what the engines of all models have in common."""

from collections.abc import Hashable, Mapping
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
    incremental: bool = False  # texts are awaited one by one: the first of a recording is urgent
    again: bool = False  # these chunks have been recognised before, with a text that was no use


@dataclass(frozen=True)
class Capabilities:
    """What a model can do beyond turning speech into text."""

    languages: frozenset[str] = frozenset({"ru"})  # ISO 639-1
    detects_language: bool = False
    takes_prompt: bool = False


class Engine(Protocol):
    """Recognises single chunks, batched across recordings."""

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),
    ) -> "Future[Completion]":
        """Queue a waveform (N,) of at most the model's longest chunk; block while its recording has too many queued.

        Recordings, distinguished by `recording_id`, take turns. Cancelling the future evicts the chunk.
        """


class ManagedEngine(Engine, Protocol):
    """An engine with a life cycle, as a service runs it."""

    @property
    def max_chunk_s(self) -> float:
        """Longest chunk that its model takes."""

    @property
    def capabilities(self) -> Capabilities:
        """What its model can do."""

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""

    @property
    def busy_without_progress_s(self) -> float:
        """Seconds since the step under way began; 0 while idle. A hung device shows here."""

    @property
    def queued_audio_s(self) -> float:
        """Seconds of audio in the queue."""

    def gauges(self) -> Mapping[str, float]:
        """Figures for the metrics, by name."""

    def abort_all(self) -> None:
        """Fail every chunk with EngineStoppedError without waiting for the thread, which may hang."""

    def close(self) -> None:
        """Cancel the queue, finish what is under way and end the thread. May be called again."""
