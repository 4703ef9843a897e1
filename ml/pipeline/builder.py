"""Builds the segments of a recording, in order, from the completions of its chunks."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.pipeline.chunker import Overlap, Silence, Span
from ml.pipeline.repetition import RepetitionGuard, Verified, is_repetitive
from ml.pipeline.text_merge import continue_words, merge_overlap
from ml.pipeline.words import text_of, within, words_of
from ml.transcript import Completion, Segment, Status, Word

OnSegment = Callable[[Segment], None]


class TranscriptBuilder:
    """Assigns each completion to the chunk that it answers, in every channel.

    The recogniser reads `expect` on one thread while completions are added on another.
    """

    def __init__(self, guard: RepetitionGuard, cancelled: threading.Event, on_segment: OnSegment) -> None:
        """`on_segment` is called with each segment once its text is final, on either thread, one call at a time."""
        self._guard = guard
        self._cancelled = cancelled
        self._on_segment = on_segment
        self._lock = threading.Lock()  # over the builders and the segments
        self._builders: dict[int, SegmentBuilder] = {}  # by channel
        self._order: deque[SegmentBuilder] = deque()  # one entry for each completion to come
        self._is_complete = False  # all spans are known
        self._segments: list[Segment] = []

    def expect(self, spans: Iterable[tuple[int, Span]]) -> Iterator[Chunk]:
        """Note every (channel, span) and yield what is to be recognised of it."""
        for channel, span in spans:
            with self._lock:
                builder = self._builders.setdefault(channel, SegmentBuilder(channel, self._emit))
                if isinstance(span, Silence):
                    builder.add_silence(span)
                    continue
                builder.expect(span)
                self._order.append(builder)
            yield span.chunk if isinstance(span, Overlap) else span
        self._is_complete = True

    def add(self, completion: Completion) -> None:
        """Take the completion of the first chunk or overlap that has none.

        Raises DecodingCancelledError, and what the recogniser raises.
        """
        builder = self._order[0]
        span = builder.next_span
        with_times = self._guard.options.word_times
        if isinstance(span, Overlap):
            is_usable = not is_repetitive(completion, span.chunk.end_s - span.chunk.start_s)
            words = words_of(completion, span.chunk, with_times) if is_usable else ()
            with self._lock:
                builder.add_overlap(words)
        else:
            verified = self._guard.verify(span, completion, self._cancelled)
            with self._lock:
                builder.add_chunk(verified)
        self._order.popleft()

    def finish(self) -> tuple[Segment, ...]:
        """All segments, by time, after the last completion.

        Raises DecodingCancelledError, or RuntimeError for a recogniser that left something out.
        """
        if self._order or not self._is_complete:
            if self._cancelled.is_set():
                raise DecodingCancelledError
            raise RuntimeError("the recogniser ended before it had answered every chunk")
        for builder in self._builders.values():
            builder.finish()
        return tuple(sorted(self._segments, key=lambda segment: (segment.start_s, segment.channel)))

    def _emit(self, segment: Segment) -> None:
        if not self._guard.options.word_times:
            segment = replace(segment, words=())
        self._segments.append(segment)
        self._on_segment(segment)


class SegmentBuilder:
    """Builds the segments of one channel. Not thread-safe."""

    def __init__(self, channel: int, emit: OnSegment) -> None:
        """`emit` is called with each segment, in order."""
        self._channel = channel
        self._emit = emit
        self._pending: deque[Chunk | Overlap | Silence] = deque()  # unanswered spans, and the silences behind the first
        self._held: Segment | None = None  # may end within a word: emitted once its continuation is known
        self._overlap: tuple[Word, ...] = ()  # around the end of that
        self._last_text = ""

    @property
    def next_span(self) -> Chunk | Overlap:
        """The span that the next completion answers."""
        span = self._pending[0]
        assert not isinstance(span, Silence)
        return span

    def expect(self, span: Chunk | Overlap) -> None:
        """Note a span that is to be recognised."""
        self._pending.append(span)

    def add_silence(self, silence: Silence) -> None:
        """Emit a silence, at once where nothing before it is pending."""
        if self._pending:
            self._pending.append(silence)
        else:
            self._emit_held()
            self._emit_silence(silence)

    def add_overlap(self, words: tuple[Word, ...]) -> None:
        """Take the words of the first pending span, an overlap; none where they are of no use."""
        self._pending.popleft()
        self._overlap = words

    def add_chunk(self, verified: Verified) -> None:
        """Take the words of the first pending span, a chunk."""
        chunk = self._pending.popleft()
        assert isinstance(chunk, Chunk)
        words = verified.words
        if self._held and self._overlap:
            before, words = merge_overlap(self._held.words, self._overlap, words)
            self._held = replace(self._held, words=before)
        self._emit_held()
        self._held = Segment(chunk.start_s, chunk.end_s, "", verified.status, words, verified.confidence, self._channel)
        if not chunk.ends_in_word or (self._pending and isinstance(self._pending[0], Silence)):
            self._emit_held()
        while self._pending and isinstance(silence := self._pending[0], Silence):
            self._emit_silence(silence)
            self._pending.popleft()

    def finish(self) -> None:
        """Emit what is held."""
        self._emit_held()

    def _emit_held(self) -> None:
        if self._held:
            held = self._held
            words = continue_words(self._last_text, held.words)
            text = text_of(words)
            self._last_text = text or self._last_text
            self._emit(replace(held, text=text, words=tuple(within(word, held.start_s, held.end_s) for word in words)))
        self._held, self._overlap = None, ()

    def _emit_silence(self, silence: Silence) -> None:
        self._emit(Segment(silence.start_s, silence.end_s, "", Status.SILENCE, channel=self._channel))
