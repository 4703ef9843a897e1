"""No part of a recording is kept once its call has been answered, even before garbage collection."""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from tests.conftest import Serve, Stub
from tests.support.audio import pcm, voice
from tests.support.fault_services import NumberingService
from tests.support.messages import stream_messages
from tests.support.waiting import wait_until_equal

LONGEST_S = 10


class ReferenceCountingService(NumberingService):
    """Counts the chunks that are still referenced."""

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
    """Return whether a call succeeds."""
    description = {"filename": "a.raw", "format": "pcm", "sample_rate": 8000}
    if method == "TranscribeAudio":
        return stub.TranscribeAudio(transcription_pb2.AudioRequest(audio_data=audio_bytes, **description)).success
    messages = stream_messages(audio_bytes, 10_000, **description)
    if method == "TranscribeAudioStream":
        return stub.TranscribeAudioStream(messages).success
    *_, last = stub.TranscribeAudioIncremental(messages)
    return last.response.success


@pytest.mark.parametrize("method", ["TranscribeAudio", "TranscribeAudioStream", "TranscribeAudioIncremental"])
@pytest.mark.parametrize("duration_s", [8, 14], ids=["good", "too long"])
def test_answered_call_releases_its_recording(serve: Serve, method: str, duration_s: int) -> None:
    service = ReferenceCountingService()
    stub = serve(service, audio_max_duration_s=LONGEST_S, model_chunk_duration=2)
    audio_bytes = pcm(voice(duration_s, sample_rate=8000))
    gc.collect()
    gc.disable()
    try:
        assert outcome(stub, method, audio_bytes) is (duration_s <= LONGEST_S)
        assert service.waveforms
        wait_until_equal(lambda: service.held, 0)
    finally:
        gc.enable()
