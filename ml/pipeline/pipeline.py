"""Transcribes one recording: decodes it, splits it at pauses, recognises the chunks and builds the segments."""

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ml.audio.decoder import AudioDecoder, Decoding
from ml.interfaces import RecognitionOptions
from ml.pipeline.builder import OnSegment, TranscriptBuilder
from ml.pipeline.chunker import SpanReader
from ml.pipeline.recogniser import Recognise
from ml.pipeline.repetition import RepetitionGuard
from ml.transcript import Completion, StageTimes, Transcript


@dataclass(frozen=True)
class Pipeline:
    """Turns recordings into transcripts with one decoder, one chunk length and one recogniser."""

    decoder: AudioDecoder
    chunk_duration_s: float
    recognise: Recognise

    def transcribe(
        self,
        source: BinaryIO,
        *,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        on_segment: OnSegment = lambda segment: None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
        separate_channels: bool = False,
    ) -> Transcript:
        """Transcribe the seekable file `source`; `pcm_sample_rate` (Hz) says that it is raw PCM.

        With `separate_channels` each channel has segments of its own; otherwise the channels are mixed.
        `on_segment` is called with each segment as soon as its text is final.

        Raises:
            SpeechError: see ml/errors.py.
        """
        cancelled = cancelled or threading.Event()
        with self.decoder.open(source, pcm_sample_rate, cancelled, separate_channels) as decoding:
            return self.run(decoding, cancelled, on_segment, options)

    def run(
        self,
        decoding: Decoding,
        cancelled: threading.Event,
        on_segment: OnSegment,
        options: RecognitionOptions,
    ) -> Transcript:
        """Transcribe the blocks of a decoding that has been started."""
        reader = SpanReader(decoding, self.chunk_duration_s)
        builder = TranscriptBuilder(RepetitionGuard(self.recognise, options), cancelled, on_segment)
        completions = _Timed(self.recognise(builder.expect(reader), cancelled, options))
        try:
            for completion in completions:
                builder.add(completion)
        finally:
            completions.close()  # the recogniser may be reading ahead: not beyond the end of the decoding
        # Decoding and splitting run within the wait for completions.
        recognise_s = max(0.0, completions.waited_s - reader.decode_s - reader.split_s)
        stages = StageTimes(reader.decode_s, reader.split_s, recognise_s)
        return Transcript(builder.finish(), decoding.duration_s, decoding.warnings, stages)


class _Timed:
    """Completions, with the seconds spent waiting for them."""

    def __init__(self, completions: Iterator[Completion]) -> None:
        self._completions = completions
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Completion]:
        while True:
            started_s = time.perf_counter()
            completion = next(self._completions, None)
            self.waited_s += time.perf_counter() - started_s
            if completion is None:
                return
            yield completion

    def close(self) -> None:
        if isinstance(self._completions, Generator):
            self._completions.close()
