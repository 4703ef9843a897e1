"""Turns decoded blocks into what is to be recognised: chunks with speech, and overlaps between them."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ml.audio.splitter import Chunk, PauseSplitter
from ml.interfaces import SAMPLE_RATE, Waveform

OVERLAP_S = 3.0  # on either side of a cut that may lie within a word


@dataclass(frozen=True)
class Overlap:
    """The audio around a cut that may lie within a word; its text joins the texts on either side."""

    chunk: Chunk


@dataclass(frozen=True)
class Silence:
    """A stretch without speech. It keeps no audio: a recording may hold hours of it."""

    start_s: float
    end_s: float


Span = Chunk | Overlap | Silence


class Chunker:
    """Splits one channel at pauses. Takes blocks of any size."""

    def __init__(self, chunk_duration_s: float) -> None:
        self._splitter = PauseSplitter(chunk_duration_s)
        self._overlap_samples = int(min(OVERLAP_S, chunk_duration_s / 2) * SAMPLE_RATE)
        self._loose_end: Waveform | None = None  # the end of the last chunk, where it may lie within a word

    def push(self, block: Waveform) -> list[Span]:
        """Take the next samples (n,) and return the spans that are complete."""
        return self._spans(self._splitter.push(block))

    def finish(self) -> list[Span]:
        """Return the remaining spans."""
        return self._spans(self._splitter.finish())

    def _spans(self, chunks: list[Chunk]) -> list[Span]:
        return [span for chunk in chunks for span in self._spans_of(chunk)]

    def _spans_of(self, chunk: Chunk) -> Iterator[Span]:
        loose_end, self._loose_end = self._loose_end, None
        if not chunk.has_speech:
            yield Silence(chunk.start_s, chunk.end_s)
            return
        if loose_end is not None:
            around = np.concatenate([loose_end, chunk.waveform[: self._overlap_samples]])
            yield Overlap(Chunk(around, chunk.start_sample - len(loose_end), chunk.sample_rate))
        if chunk.ends_in_word:
            self._loose_end = chunk.waveform[-self._overlap_samples :].copy()
        yield chunk


class SpanReader:
    """Reads a decoding and yields the spans of its channels in the order in which they end.

    decode_s, split_s: seconds spent waiting for blocks and splitting them so far
    """

    def __init__(self, blocks: Iterable[Waveform], chunk_duration_s: float) -> None:
        """`blocks` are mono (n,), or (C, n) where channels are separate."""
        self._blocks = iter(blocks)
        self._chunk_duration_s = chunk_duration_s
        self._chunkers: dict[int, Chunker] = {}  # by channel, from 1; 0 for a mono mix
        self.decode_s = self.split_s = 0.0

    def __iter__(self) -> Iterator[tuple[int, Span]]:
        """Yield (channel, span)."""
        block: Waveform | None = np.zeros(0, np.float32)
        while block is not None:
            started_s = time.perf_counter()
            block = next(self._blocks, None)
            decoded_s = time.perf_counter()
            spans = self._finish() if block is None else self._push(block)
            self.decode_s += decoded_s - started_s
            self.split_s += time.perf_counter() - decoded_s
            yield from spans

    def _push(self, block: Waveform) -> list[tuple[int, Span]]:
        channels = {0: block} if block.ndim == 1 else dict(enumerate(block, start=1))
        return [
            (channel, span)
            for channel, samples in channels.items()
            for span in self._chunkers.setdefault(channel, Chunker(self._chunk_duration_s)).push(samples)
        ]

    def _finish(self) -> list[tuple[int, Span]]:
        return [(channel, span) for channel, chunker in self._chunkers.items() for span in chunker.finish()]
