"""Nothing of a recording is held on to once its call has been answered, even before the garbage is collected."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from tests.conftest import FakeService, Serve, Stub
from tests.support import audio as media

PATIENCE_S = 20
LONGEST_S = 10


class Remembers(FakeService):
    """Knows which of the chunks it got are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.waveforms: list[weakref.ref[Any]] = []

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for chunk in chunks:
            self.waveforms.append(weakref.ref(chunk.waveform))
            yield Completion("текст")

    @property
    def held(self) -> int:
        return sum(waveform() is not None for waveform in self.waveforms)


def outcome(stub: Stub, method: str, audio_bytes: bytes) -> bool:
    """Whether a call succeeds."""
    description = {"filename": "a.raw", "format": "pcm", "sample_rate": 8000}
    if method == "TranscribeAudio":
        return stub.TranscribeAudio(transcription_pb2.AudioRequest(audio_data=audio_bytes, **description)).success
    messages = [
        transcription_pb2.AudioChunk(chunk_data=audio_bytes[start : start + 10_000], **description)
        for start in range(0, len(audio_bytes), 10_000)
    ]
    if method == "TranscribeAudioStream":
        return stub.TranscribeAudioStream(iter(messages)).success
    *_, last = stub.TranscribeAudioIncremental(iter(messages))
    return last.response.success


@pytest.mark.parametrize("method", ["TranscribeAudio", "TranscribeAudioStream", "TranscribeAudioIncremental"])
@pytest.mark.parametrize("duration_s", [8, 14], ids=["good", "too long"])
def test_an_answered_call_lets_go_of_its_recording(serve: Serve, method: str, duration_s: int) -> None:
    service = Remembers()
    stub = serve(service, audio_max_duration_s=LONGEST_S, model_chunk_duration=2)
    audio_bytes = media.pcm(media.voice(duration_s, sample_rate=8000))
    gc.collect()
    gc.disable()
    try:
        assert outcome(stub, method, audio_bytes) is (duration_s <= LONGEST_S)
        assert service.waveforms
        deadline_s = time.monotonic() + PATIENCE_S
        while service.held:
            assert time.monotonic() < deadline_s, f"{service.held} of {len(service.waveforms)} chunks are held"
            time.sleep(0.02)
    finally:
        gc.enable()
