"""Recognition runs during the upload, and gives the transcript of the whole file."""

import hashlib
import threading
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from tests.conftest import Serve, Stub, sample
from tests.support.audio import FORMATS, encode, pcm, voice, voice_wav
from tests.support.fault_services import NumberingService
from tests.support.messages import stream_messages, transcribe_file
from tests.support.waiting import HANG_LIMIT_S, wait_until, wait_until_steady


class Fingerprints(NumberingService):
    """Answers each chunk with a fingerprint of its samples: two transcripts are equal only if every sample is."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for chunk in chunks:
            yield Completion(hashlib.sha256(chunk.waveform.tobytes()).hexdigest()[:12])


def stream(stub: Stub, data: bytes, size: int, name: str) -> transcription_pb2.TranscriptionResponse:
    return stub.TranscribeAudioStream(stream_messages(data, size, filename=name), timeout=HANG_LIMIT_S)


@pytest.mark.parametrize("name", FORMATS)
def test_stream_gives_the_samples_of_the_whole_file_in_every_format(serve: Serve, tmp_path: Path, name: str) -> None:
    path = encode(sample("demo.wav"), tmp_path, name)
    stub = serve(Fingerprints(), model_chunk_duration=3)
    whole, _ = transcribe_file(stub, path.read_bytes(), filename=path.name)
    assert whole.success and len(whole.transcript.split()) > 2
    for size in (997, 65_536, 4 * 1024 * 1024):
        streamed = stream(stub, path.read_bytes(), size, path.name)
        assert (streamed.transcript, streamed.audio_duration) == (whole.transcript, whole.audio_duration)


def test_stream_of_single_bytes_gives_the_same(serve: Serve) -> None:
    stub = serve(Fingerprints())
    data = voice_wav(0.25)
    whole, _ = transcribe_file(stub, data, filename="a.wav")
    assert stream(stub, data, 1, "a.wav").transcript == whole.transcript


class SignallingService(NumberingService):
    """Sets an event when the first chunk has been recognised."""

    def __init__(self) -> None:
        super().__init__()
        self.first_recognised = threading.Event()

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for completion in super().recognise(chunks, cancelled, options):
            self.first_recognised.set()
            yield completion


def test_recognition_begins_before_the_upload_has_ended(serve: Serve) -> None:
    service = SignallingService()
    data = voice_wav(30)

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        half = len(data) // 2
        yield transcription_pb2.AudioChunk(chunk_data=data[:half], filename="a.wav")
        assert service.first_recognised.wait(HANG_LIMIT_S)
        yield transcription_pb2.AudioChunk(chunk_data=data[half:])

    response = serve(service, model_chunk_duration=3).TranscribeAudioStream(upload(), timeout=HANG_LIMIT_S)
    assert response.success and response.audio_duration == pytest.approx(30)


class HeldService(NumberingService):
    """Recognises one chunk, and the others once `may_continue` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_continue = threading.Event()

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for completion in super().recognise(chunks, cancelled, options):
            assert self.may_continue.wait(HANG_LIMIT_S)
            yield completion


def test_flow_control_stops_the_client_while_recognition_is_behind(serve: Serve) -> None:
    service = HeldService()
    duration_s, sent_s = 3600, 0  # of raw PCM: 115 MB, more than any socket buffers
    second = pcm(voice(1))

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        nonlocal sent_s
        for _ in range(duration_s):
            sent_s += 1
            yield transcription_pb2.AudioChunk(chunk_data=second, filename="a.raw", format="pcm")

    call = serve(service, model_chunk_duration=30).TranscribeAudioStream.future(upload(), timeout=300)
    stopped_s = wait_until_steady(lambda: sent_s)
    assert 0 < stopped_s < duration_s
    service.may_continue.set()
    wait_until(lambda: sent_s > stopped_s)
    call.cancel()


def test_content_error_does_not_wait_for_the_rest_of_the_upload(serve: Serve) -> None:
    endless = repeat(transcription_pb2.AudioChunk(chunk_data=bytes(65_536), filename="a.raw", format="pcm"))
    stub = serve(NumberingService(), audio_max_duration_s=3)
    response, call = stub.TranscribeAudioStream.with_call(endless, timeout=HANG_LIMIT_S)
    assert dict(call.trailing_metadata())["x-error-code"] == "AUDIO_TOO_LONG" and not response.success
