"""The way through: a file is decoded, split at pauses, recognised and joined to one transcript."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from ml.audio.decoder import AudioDecoder, Decoding, PlainDecoding
from ml.audio.splitter import Chunk, PauseSplitter
from ml.audio.vad import has_speech
from ml.errors import DecodingCancelledError
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.recogniser import Recognise
from ml.pipeline.repetition import RepetitionGuard, is_repetitive
from ml.pipeline.text_merge import continue_text, merge_overlap
from ml.transcript import Completion, Segment, StageTimes, Status, Transcript

SEAM_S = 3.0  # heard again on either side of a cut that may be within a word

OnSegment = Callable[[Segment], None]


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
    ) -> Transcript:
        """Transcribes the seekable file `source`; `pcm_sample_rate` (Hz) says that it is raw PCM.

        `on_segment` hears of every segment as soon as its text is there.

        Raises:
            SpeechError: see ml/errors.py.
        """
        cancelled = cancelled or threading.Event()
        with self.decoder.open(source, pcm_sample_rate=pcm_sample_rate, cancelled=cancelled) as decoding:
            return self.run(decoding, cancelled, on_segment, options)

    def run(
        self,
        decoding: Decoding | PlainDecoding,
        cancelled: threading.Event,
        on_segment: OnSegment,
        options: RecognitionOptions,
    ) -> Transcript:
        """Transcribes what comes out of a decoding that has been started."""
        run = _Run(self.chunk_duration_s, RepetitionGuard(self.recognise, options), cancelled, on_segment)
        completions = self.recognise(run.chunks(decoding), cancelled, options)
        try:
            for completion in run.timed(completions):
                run.take(completion)
        finally:
            if isinstance(completions, Generator):
                completions.close()  # it may be reading ahead: not beyond the end of the decoding
        run.finish()
        return Transcript(tuple(run.segments), decoding.duration_s, decoding.warnings, run.stages())


@dataclass(frozen=True)
class _Overlap:
    """The sound around a cut that may be within a word."""

    chunk: Chunk


class _Run:
    """Keeps the books of one recording: where the chunks are that have no text yet, and where the time goes.

    Chunks may be asked for on another thread than the texts are handed in.
    """

    def __init__(
        self, chunk_duration_s: float, guard: RepetitionGuard, cancelled: threading.Event, on_segment: OnSegment
    ) -> None:
        self.segments: list[Segment] = []  # those whose texts are known, without a gap
        self._splitter = PauseSplitter(chunk_duration_s)
        self._guard = guard
        self._cancelled = cancelled
        self._on_segment = on_segment
        self._pending: deque[Chunk | _Overlap | Segment] = (
            deque()
        )  # without a text yet, and the silences behind the first
        self._held: Segment | None = None  # it may end within a word: told once it is known how the word goes on
        self._seam = ""  # what is heard around the end of that
        self._lock = threading.Lock()  # over these and the segments
        self._said = ""  # last
        self._seam_samples = int(min(SEAM_S, chunk_duration_s / 2) * SAMPLE_RATE)
        self._loose_end: Waveform | None = None  # the end of the last chunk, where it may be within a word
        self._at_end = False
        self._decode_s = self._split_s = self._all_s = 0.0

    def chunks(self, blocks: Iterable[Waveform]) -> Iterator[Chunk]:
        """The chunks of decoded blocks that may hold speech, and the seams between them; all are noted."""
        iterator = iter(blocks)
        while not self._at_end:
            started_s = time.perf_counter()
            block = next(iterator, None)
            decoded_s = time.perf_counter()
            chunks = self._splitter.finish() if block is None else self._splitter.push(block)
            self._decode_s += decoded_s - started_s
            self._split_s += time.perf_counter() - decoded_s
            for chunk in chunks:
                yield from self._note(chunk)
            self._at_end = block is None

    def timed(self, completions: Iterator[Completion]) -> Iterator[Completion]:
        """The texts, with the time spent waiting for them."""
        while True:
            started_s = time.perf_counter()
            completion = next(completions, None)
            self._all_s += time.perf_counter() - started_s
            if completion is None:
                return
            yield completion

    def take(self, completion: Completion) -> None:
        """Hears the text of the first chunk or seam that has none."""
        first = self._pending[0]
        assert not isinstance(first, Segment)
        if isinstance(first, _Overlap):
            with self._lock:
                self._pending.popleft()
                is_usable = not is_repetitive(completion, first.chunk.end_s - first.chunk.start_s)
                self._seam = completion.text if is_usable else ""
            return
        sound, status = self._guard.verify(first, completion, self._cancelled)
        with self._lock:
            self._pending.popleft()
            if self._held and self._seam:
                mended, sound = merge_overlap(self._held.text, self._seam, sound)
                self._held = replace(self._held, text=mended)
            self._tell_held()
            self._held = Segment(first.start_s, first.end_s, sound, status)
            if not first.ends_in_word or (self._pending and isinstance(self._pending[0], Segment)):
                self._tell_held()
            while self._pending and isinstance(self._pending[0], Segment):
                self._tell(self._pending[0])
                self._pending.popleft()

    def finish(self) -> None:
        """Hears that there are no more texts.

        Raises DecodingCancelledError, or RuntimeError for a recogniser that left something out.
        """
        if self._pending or not self._at_end:
            if self._cancelled.is_set():
                raise DecodingCancelledError
            raise RuntimeError("the recogniser ended before it had answered every chunk")
        self._tell_held()

    def stages(self) -> StageTimes:
        """Where the time went; decoding and splitting run within the wait for texts."""
        return StageTimes(self._decode_s, self._split_s, max(0.0, self._all_s - self._decode_s - self._split_s))

    def _note(self, chunk: Chunk) -> Iterator[Chunk]:
        """What of the chunk is to be recognised. A silence is told at once where nothing before it is waited for."""
        loose_end, self._loose_end = self._loose_end, None
        if not has_speech(chunk.waveform):
            silence = Segment(chunk.start_s, chunk.end_s, "", Status.SILENCE)  # not its sound: there may be hours of it
            with self._lock:
                if self._pending:
                    self._pending.append(silence)
                else:
                    self._tell_held()
                    self._tell(silence)
            return
        if loose_end is not None:
            around = np.concatenate([loose_end, chunk.waveform[: self._seam_samples]])
            seam = _Overlap(Chunk(around, chunk.start_sample - len(loose_end), chunk.sample_rate))
            self._pending.append(seam)
            yield seam.chunk
        if chunk.ends_in_word:
            self._loose_end = chunk.waveform[-self._seam_samples :].copy()
        with self._lock:
            self._pending.append(chunk)
        yield chunk

    def _tell_held(self) -> None:
        if self._held:
            self._tell(self._held)
        self._held, self._seam = None, ""

    def _tell(self, segment: Segment) -> None:
        text = continue_text(self._said, segment.text)
        self._said = text or self._said
        self.segments.append(replace(segment, text=text))
        self._on_segment(self.segments[-1])
