"""The way through: a file is decoded, split at pauses, recognised and joined to one transcript."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, TypeVar

from ml.audio.decoding import AudioDecoder, Decoding, PlainDecoding
from ml.audio.presence import may_hold_speech
from ml.audio.splitting import Chunk, PauseSplitter
from ml.loops import LoopGuard
from ml.recognise import Recognise, Waveform
from ml.transcript import Segment, StageTimes, Status, Transcript

T = TypeVar("T")
OnSegment = Callable[[Segment], None]


@dataclass(frozen=True)
class Pipeline:
    """Turns recordings into transcripts with one decoder, one chunk length and one recogniser."""

    decoder: AudioDecoder
    chunk_duration_s: float
    recognise: Recognise
    recognise_again: Recognise  # another way of asking, for chunks whose answer is unsound

    def transcribe(
        self,
        source: BinaryIO,
        *,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        on_segment: OnSegment = lambda segment: None,
    ) -> Transcript:
        """Transcribes the seekable file `source`; `pcm_sample_rate` (Hz) says that it is raw PCM.

        `on_segment` hears of every segment as soon as its text is there.

        Raises:
            SpeechError: see ml/errors.py.
        """
        cancelled = cancelled or threading.Event()
        with self.decoder.open(source, pcm_sample_rate=pcm_sample_rate, cancelled=cancelled) as decoding:
            return self.run(decoding, cancelled, on_segment)

    def run(self, decoding: Decoding | PlainDecoding, cancelled: threading.Event, on_segment: OnSegment) -> Transcript:
        """Transcribes what comes out of a decoding that has been started."""
        run = _Run(self.chunk_duration_s, LoopGuard(self.recognise, self.recognise_again), cancelled)
        segments = []
        for text in chain(run.timed(self.recognise(run.chunks(decoding), cancelled)), [None]):
            for segment in run.segments(text):
                segments.append(segment)
                on_segment(segment)
        return Transcript(tuple(segments), decoding.duration_s, decoding.warnings, run.stages())


class _Run:
    """Keeps the books of one recording: where the chunks are that have no text yet, and where the time goes."""

    def __init__(self, chunk_duration_s: float, guard: LoopGuard, cancelled: threading.Event) -> None:
        self._splitter = PauseSplitter(chunk_duration_s)
        self._guard = guard
        self._cancelled = cancelled
        self._pending: deque[tuple[Chunk, bool]] = deque()  # under way, still without texts; whether it may hold speech
        self._decode_s = self._split_s = self._all_s = 0.0

    def chunks(self, blocks: Iterable[Waveform]) -> Iterator[Chunk]:
        """The chunks of decoded blocks that may hold speech; all are noted."""
        iterator = iter(blocks)
        while True:
            started_s = time.perf_counter()
            block = next(iterator, None)
            decoded_s = time.perf_counter()
            chunks = self._splitter.finish() if block is None else self._splitter.push(block)
            self._decode_s += decoded_s - started_s
            self._split_s += time.perf_counter() - decoded_s
            for chunk in chunks:
                speech = may_hold_speech(chunk.waveform)
                self._pending.append((chunk, speech))
                if speech:
                    yield chunk
            if block is None:
                return

    def timed(self, texts: Iterator[str]) -> Iterator[str]:
        """The texts, with the time spent waiting for them."""
        while True:
            started_s = time.perf_counter()
            text = next(texts, None)
            self._all_s += time.perf_counter() - started_s
            if text is None:
                return
            yield text

    def segments(self, text: str | None) -> Iterator[Segment]:
        """The silences up to the next chunk, and that with its text; None for the text says that there is none left."""
        while self._pending and not self._pending[0][1]:
            silence, _ = self._pending.popleft()
            yield Segment(silence.start_s, silence.end_s, "", Status.SILENCE)
        if text is not None:
            chunk, _ = self._pending.popleft()
            sound, status = self._guard.sound(chunk, text.strip(), self._cancelled)
            yield Segment(chunk.start_s, chunk.end_s, sound, status)

    def stages(self) -> StageTimes:
        """Where the time went; decoding and splitting run inside the recogniser's wait for chunks."""
        return StageTimes(self._decode_s, self._split_s, self._all_s - self._decode_s - self._split_s)
