"""The pipeline's books: silence costs no memory and no waiting, and nothing is ever left out unnoticed."""

import threading
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion, Segment, Status, Transcript
from tests.support.audio import voice

SILENT = np.zeros(SAMPLE_RATE, np.float32)


class Blocks:
    """A decoding that yields these blocks, of a second each."""

    warnings = ()

    def __init__(self, blocks: Iterator[Waveform] | list[Waveform]) -> None:
        self._blocks = blocks
        self.duration_s = 0.0

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self.duration_s += len(block) / SAMPLE_RATE
            yield block


def transcribe(
    blocks: Blocks,
    recognise: Recognise,
    on_segment: Callable[[Segment], None] = lambda segment: None,
    cancelled: threading.Event | None = None,
) -> Transcript:
    pipeline = Pipeline(None, 5, recognise)  # type: ignore[arg-type]  # nothing is decoded
    return pipeline.run(blocks, cancelled or threading.Event(), on_segment, RecognitionOptions())  # type: ignore[arg-type]


def number_them(
    chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
) -> Iterator[Completion]:
    for number, _ in enumerate(chunks, start=1):
        yield Completion(str(number))


def test_sound_of_long_silences_is_not_kept() -> None:
    tracemalloc.start()
    try:
        transcript = transcribe(Blocks(SILENT.copy() for _ in range(1200)), number_them)  # 77 MB
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert transcript.audio_duration_s == 1200 and peak_bytes < 20_000_000


def test_silence_is_told_as_soon_as_it_is_known() -> None:
    told: list[Segment] = []

    def minutes() -> Iterator[Waveform]:
        for _ in range(60):
            yield SILENT
        assert told and {segment.status for segment in told} == {Status.SILENCE}

    transcript = transcribe(Blocks(minutes()), number_them, told.append)
    assert told == list(transcript.segments)


def test_recogniser_that_reads_everything_first_gets_each_text_to_its_chunk() -> None:
    def read_all(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        yield from [Completion(f"{chunk.start_s:g}") for chunk in list(chunks)]

    told: list[Segment] = []
    parts = [SILENT] * 12 + [voice(9)] + [SILENT] * 12 + [voice(9)] + [SILENT] * 12
    transcript = transcribe(Blocks(parts), read_all, told.append)
    assert told == list(transcript.segments)
    assert [a.end_s for a in told[:-1]] == [b.start_s for b in told[1:]] and told[-1].end_s == 54
    spoken = [segment for segment in told if segment.status is Status.TRANSCRIBED]
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
def test_recogniser_that_leaves_something_out_is_an_error_unless_the_call_was_cancelled(recognise: Recognise) -> None:
    parts = [voice(20)]
    with pytest.raises(RuntimeError, match="every chunk"):
        transcribe(Blocks(parts), recognise)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(DecodingCancelledError):
        transcribe(Blocks(parts), recognise, cancelled=cancelled)
