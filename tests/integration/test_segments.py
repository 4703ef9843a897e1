"""Segments cover every second, silence never reaches the model, and updates arrive during the upload."""

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from generated.v1 import transcription_pb2
from ml.audio.vad import has_speech
from services.transcription.base_service import TranscriptionServiceBase
from tests.conftest import Bundled, Serve
from tests.support.audio import voice, voice_wav
from tests.support.fault_services import NumberingService
from tests.support.messages import stream_messages, transcribe_file
from tests.support.waiting import HANG_LIMIT_S

RATE = 16_000
Response = transcription_pb2.TranscriptionResponse


def assert_covers(response: Response) -> None:
    """Check that the segments cover the audio without gap or overlap."""
    assert response.segments[0].start_s == 0
    for segment, following in zip(response.segments, response.segments[1:], strict=False):
        assert segment.start_s < segment.end_s == following.start_s
    assert response.segments[-1].end_s == response.audio_duration


def test_response_carries_segments_stage_times_and_no_warning(serve: Serve) -> None:
    response, _ = transcribe_file(serve(NumberingService(), model_chunk_duration=3), voice_wav(10), filename="a.wav")
    assert_covers(response)
    assert " ".join(segment.text for segment in response.segments) == response.transcript
    assert {segment.status for segment in response.segments} == {transcription_pb2.TRANSCRIBED}
    assert response.stage_times.decode_s > 0 and response.stage_times.recognise_s >= 0
    assert list(response.warnings) == []


def test_cut_file_is_transcribed_as_far_as_it_goes_with_a_warning(serve: Serve) -> None:
    stub = serve(NumberingService())
    data = voice_wav(10)[:-100_000]
    response, _ = transcribe_file(stub, data, filename="a.wav")
    assert response.success and response.audio_duration == pytest.approx(10 - 100_000 / 32_000, abs=0.1)
    assert len(response.warnings) == 1
    assert stub.TranscribeAudioStream(stream_messages(data, 7777, filename="a.wav")).warnings == response.warnings


def test_silence_is_a_success_and_never_reaches_the_model(serve: Serve) -> None:
    service = NumberingService()
    response, _ = transcribe_file(serve(service), bytes(40 * 2 * RATE), filename="a.raw", format="pcm")
    assert response.success and response.transcript == "" and service.recognised == 0
    assert {segment.status for segment in response.segments} == {transcription_pb2.SILENCE}
    assert_covers(response)


@pytest.mark.parametrize("seed", range(3))
def test_steady_noise_is_no_speech_at_any_level(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 1, 30 * RATE).astype(np.float32)
    assert not any(has_speech((level * noise).astype(np.float32)) for level in (1e-5, 1e-3, 0.05, 0.2))
    assert not has_speech(np.full(30 * RATE, 0.25, np.float32))  # a constant offset


@pytest.mark.parametrize("snr_db", [20, 5, 0])
def test_speech_in_noise_is_kept(snr_db: float) -> None:
    speech = np.concatenate([np.zeros(RATE, np.float32), voice(2), np.zeros(RATE, np.float32)])
    noise = np.random.default_rng(1).normal(0, 1, len(speech)).astype(np.float32)
    noise *= np.sqrt(np.mean(voice(2) ** 2)) / 10 ** (snr_db / 20)
    assert has_speech(speech + noise)
    assert has_speech((0.003 * (speech + noise)).astype(np.float32))


@pytest.mark.parametrize("word_s", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.01])
def test_one_word_in_a_long_silence_is_kept(word_s: float, noise: float) -> None:
    waveform = np.random.default_rng(0).normal(0, noise, 30 * RATE).astype(np.float32)
    assert not has_speech(waveform)
    word = voice(word_s)
    waveform[RATE * 20 : RATE * 20 + len(word)] += word
    assert has_speech(waveform)


def test_updates_carry_segments_in_order_then_the_response(serve: Serve) -> None:
    stub = serve(NumberingService(), model_chunk_duration=3)
    data = voice_wav(20)
    updates = list(stub.TranscribeAudioIncremental(stream_messages(data, 50_000, filename="a.wav")))
    segments = [update.segment for update in updates if update.HasField("segment")]
    progress = [update.progress for update in updates if update.HasField("progress")]
    response = updates[-1].response
    assert response.success and list(response.segments) == segments
    assert [p.done_s for p in progress] == [segment.end_s for segment in segments]
    assert all(p.decoded_s >= p.done_s for p in progress)
    assert response.transcript == stub.TranscribeAudioStream(stream_messages(data, 50_000, filename="a.wav")).transcript


def test_update_arrives_before_the_upload_has_ended(short_chunks: Bundled) -> None:
    arrived = threading.Event()

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        path = short_chunks.speech.word_times
        data = path.read_bytes()
        yield transcription_pb2.AudioChunk(chunk_data=data[: len(data) // 2], filename=path.name)
        assert arrived.wait(HANG_LIMIT_S)
        yield transcription_pb2.AudioChunk(chunk_data=data[len(data) // 2 :])

    for update in short_chunks.stub.TranscribeAudioIncremental(upload(), timeout=HANG_LIMIT_S):
        if update.HasField("segment"):
            arrived.set()
    assert update.response.success
    assert_covers(update.response)


def test_incremental_call_reports_a_content_error_in_its_last_message(serve: Serve) -> None:
    call = serve(NumberingService()).TranscribeAudioIncremental(
        stream_messages(b"no audio" * 99, 100, filename="a.mp3")
    )
    updates = list(call)
    assert not updates[-1].response.success
    assert dict(call.trailing_metadata())["x-error-code"] == "UNDECODABLE_AUDIO"


class OnlyCalls(NumberingService):
    """Has the calls alone, as in the recipe, and no recogniser."""

    recognise = TranscriptionServiceBase.recognise  # type: ignore[assignment]


def test_implementation_without_a_recogniser_answers_unimplemented(serve: Serve) -> None:
    call = serve(OnlyCalls()).TranscribeAudioIncremental(iter(()))
    with pytest.raises(grpc.RpcError) as rejection:
        list(call)
    assert rejection.value.code() is grpc.StatusCode.UNIMPLEMENTED
