"""The segments of a recording: they cover it, silence costs no memory and no waiting, and no chunk goes missing."""

import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion, Segment, Status
from tests.support.audio import voice
from tests.support.decoding import recogniser, transcribe_blocks

SILENT = np.zeros(SAMPLE_RATE, np.float32)

name_chunks = recogniser(lambda chunk: Completion(str(chunk.start_sample)))


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.tuples(st.booleans(), st.floats(0.05, 12)), min_size=1, max_size=8), target_s=st.integers(1, 30)
)
def test_segments_cover_any_mixture_of_speech_and_silence(parts: list[tuple[bool, float]], target_s: int) -> None:
    blocks = [
        voice(length_s) if speech else np.zeros(int(length_s * SAMPLE_RATE), np.float32) for speech, length_s in parts
    ]
    transcript = transcribe_blocks(blocks, name_chunks, target_s)
    samples = [(round(s.start_s * SAMPLE_RATE), round(s.end_s * SAMPLE_RATE)) for s in transcript.segments]
    assert [start for start, _ in samples] == [0, *(end for _, end in samples[:-1])]
    assert samples[-1][1] == sum(map(len, blocks))
    spoken = [segment for segment in transcript.segments if segment.status is Status.TRANSCRIBED]
    assert all(segment.text == str(round(segment.start_s * SAMPLE_RATE)) for segment in spoken)  # each in its place
    assert all(segment.text == "" for segment in transcript.segments if segment.status is Status.SILENCE)


def test_audio_of_long_silences_is_not_kept() -> None:
    seconds = 1200
    tracemalloc.start()
    try:
        transcript = transcribe_blocks((SILENT.copy() for _ in range(seconds)), name_chunks)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert transcript.audio_duration_s == seconds and peak_bytes < seconds * SILENT.nbytes / 4


def test_silence_is_emitted_as_soon_as_it_is_known() -> None:
    emitted: list[Segment] = []

    def minutes() -> Iterator[Waveform]:
        for _ in range(60):
            yield SILENT
        assert emitted and {segment.status for segment in emitted} == {Status.SILENCE}

    transcript = transcribe_blocks(minutes(), name_chunks, on_segment=emitted.append)
    assert emitted == list(transcript.segments)


def test_recogniser_that_reads_everything_first_gets_each_text_to_its_chunk() -> None:
    def read_all(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        yield from [Completion(f"{chunk.start_s:g}") for chunk in list(chunks)]

    emitted: list[Segment] = []
    parts = [SILENT] * 12 + [voice(9)] + [SILENT] * 12 + [voice(9)] + [SILENT] * 12
    transcript = transcribe_blocks(parts, read_all, on_segment=emitted.append)
    assert emitted == list(transcript.segments)
    assert [a.end_s for a in emitted[:-1]] == [b.start_s for b in emitted[1:]] and emitted[-1].end_s == 54
    spoken = [segment for segment in emitted if segment.status is Status.TRANSCRIBED]
    assert spoken and all(segment.text == f"{segment.start_s:g}" for segment in spoken)


def leave_out_the_last(
    chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
) -> Iterator[Completion]:
    yield from [Completion("text")] * (len(list(chunks)) - 1)


def stop_reading(
    chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
) -> Iterator[Completion]:
    next(chunks)
    yield Completion("text")


@pytest.mark.parametrize("recognise", [leave_out_the_last, stop_reading])
def test_recogniser_that_leaves_a_chunk_out_is_an_error_unless_the_call_was_cancelled(recognise: Recognise) -> None:
    with pytest.raises(RuntimeError, match="every chunk"):
        transcribe_blocks([voice(20)], recognise)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(DecodingCancelledError):
        transcribe_blocks([voice(20)], recognise, cancelled=cancelled)


def test_each_channel_is_covered_and_recognised_by_itself() -> None:
    silent = np.zeros(12 * SAMPLE_RATE, np.float32)
    left, right = np.concatenate([voice(6), silent]), np.concatenate([silent, voice(6, seed=1)])
    recognised: list[Chunk] = []

    def answer(chunk: Chunk) -> Completion:
        recognised.append(chunk)
        end_sample = chunk.start_sample + len(chunk.waveform)
        is_left = np.array_equal(chunk.waveform, left[chunk.start_sample : end_sample])
        return Completion("слева" if is_left else "справа")

    blocks = np.array_split(np.stack([left, right]), 18, axis=1)
    transcript = transcribe_blocks(blocks, recogniser(answer), target_s=5)
    assert transcript.audio_duration_s == 18
    assert all(chunk.waveform.any() for chunk in recognised)  # silence of one channel costs nothing
    for channel, text in ((1, "слева"), (2, "справа")):
        segments = [segment for segment in transcript.segments if segment.channel == channel]
        assert segments[0].start_s == 0 and segments[-1].end_s == 18
        assert [a.end_s for a in segments[:-1]] == [b.start_s for b in segments[1:]]
        assert {word for segment in segments for word in segment.text.split()} == {text}
    assert [s.start_s for s in transcript.segments] == sorted(s.start_s for s in transcript.segments)
