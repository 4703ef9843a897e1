"""Streaming that streams: recognition runs while the upload does, and comes to what the whole file comes to."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from tests.conftest import FakeService, Serve, Stub, sample
from tests.services.test_calls import ask, pieces, wav
from tests.support.audio import FORMATS, encode

PATIENCE_S = 20


class Fingerprints(FakeService):
    """Answers each chunk with a fingerprint of its samples: two transcripts are equal only if every sample is."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for chunk in chunks:
            yield Completion(hashlib.sha256(chunk.waveform.tobytes()).hexdigest()[:12])


def stream(stub: Stub, data: bytes, size: int, name: str) -> transcription_pb2.TranscriptionResponse:
    return stub.TranscribeAudioStream(pieces(data, size, filename=name), timeout=60)


@pytest.mark.parametrize("name", FORMATS)
def test_stream_gives_the_samples_of_the_whole_file_in_every_format(serve: Serve, tmp_path: Path, name: str) -> None:
    path = encode(sample("demo.wav"), tmp_path, name)
    stub = serve(Fingerprints(), model_chunk_duration=3)
    whole, _ = ask(stub, path.read_bytes(), filename=path.name)
    assert whole.success and len(whole.transcript.split()) > 2
    for size in (997, 65_536, 4 * 1024 * 1024):
        streamed = stream(stub, path.read_bytes(), size, path.name)
        assert (streamed.transcript, streamed.audio_duration) == (whole.transcript, whole.audio_duration)


def test_stream_of_single_bytes_gives_the_same(serve: Serve) -> None:
    stub = serve(Fingerprints())
    data = wav(0.25)
    whole, _ = ask(stub, data, filename="a.wav")
    assert stream(stub, data, 1, "a.wav").transcript == whole.transcript


class Announcing(FakeService):
    """Says when the first chunk has been recognised."""

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
    service = Announcing()
    data = wav(30)

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        half = len(data) // 2
        yield transcription_pb2.AudioChunk(chunk_data=data[:half], filename="a.wav")
        assert service.first_recognised.wait(PATIENCE_S)  # the other half is sent only once this has happened
        yield transcription_pb2.AudioChunk(chunk_data=data[half:])

    response = serve(service, model_chunk_duration=3).TranscribeAudioStream(upload(), timeout=60)
    assert response.success and response.audio_duration == pytest.approx(30)


class Stuck(FakeService):
    """Takes one chunk and then none until told."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for completion in super().recognise(chunks, cancelled, options):
            assert self.may_go_on.wait(PATIENCE_S)
            yield completion


def test_client_is_held_back_while_recognition_is_behind(serve: Serve) -> None:
    service = Stuck()
    sent = 0
    data = wav(600)  # 19 MB

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        nonlocal sent
        for piece in pieces(data, 64 * 1024, filename="a.wav"):
            sent += len(piece.chunk_data)
            yield piece

    call = serve(service, model_chunk_duration=3).TranscribeAudioStream.future(upload(), timeout=60)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(timeout=2)
    held_back_at = sent
    service.may_go_on.set()
    assert call.result(timeout=60).audio_duration == pytest.approx(600)
    assert held_back_at < 12_000_000  # what fits into the channel's window and the pipes, and no more


def test_refusal_does_not_wait_for_the_rest_of_the_upload(serve: Serve) -> None:
    sent = 0

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        nonlocal sent
        for _ in range(16_000):  # 1 GB
            sent += 65_536
            yield transcription_pb2.AudioChunk(chunk_data=bytes(65_536), filename="a.raw", format="pcm")

    stub = serve(FakeService(), audio_max_duration_s=3)
    response, call = stub.TranscribeAudioStream.with_call(upload(), timeout=60)
    assert dict(call.trailing_metadata())["x-error-code"] == "AUDIO_TOO_LONG" and not response.success
    assert sent < 300_000_000
