"""The unary and the streamed call of a real server around a fake recogniser: responses, errors, logs."""

import logging
import re
from collections.abc import Iterator
from itertools import repeat

import grpc
import pytest

from generated.v1 import transcription_pb2
from ml.transcript import Completion
from tests.conftest import Serve
from tests.support.audio import voice, voice_wav
from tests.support.fault_services import NumberingService
from tests.support.messages import stream_messages, transcribe_file
from tests.support.waiting import HANG_LIMIT_S

RATE = 16_000


def test_unary_call_answers_with_transcript_duration_and_figures(serve: Serve) -> None:
    response, trailers = transcribe_file(serve(NumberingService()), voice_wav(2.5), filename="a.wav", format="wav")
    assert response.success and response.error_message == ""
    assert response.transcript == "часть 1"
    assert response.audio_duration == pytest.approx(2.5)
    assert (response.stats.word_count, response.stats.char_count) == (2, 7)
    assert response.stats.speed_factor == pytest.approx(2.5 / response.processing_time, rel=1e-3)
    assert "x-error-code" not in trailers


def test_streamed_call_gives_the_response_of_the_unary_one_for_any_piece_size(serve: Serve) -> None:
    stub = serve(NumberingService())
    data = voice_wav(0.5)
    expected, _ = transcribe_file(stub, data, filename="a.wav")
    for size in (100, 4096, len(data)):
        response = stub.TranscribeAudioStream(stream_messages(data, size, filename="a.wav"))
        assert (response.success, response.transcript, response.audio_duration) == (
            True,
            expected.transcript,
            expected.audio_duration,
        )


def test_long_audio_is_split_and_its_texts_joined_in_order(serve: Serve) -> None:
    response, _ = transcribe_file(serve(NumberingService(), model_chunk_duration=10), voice_wav(35), filename="a.wav")
    numbers = [int(segment.text.removeprefix("часть ")) for segment in response.segments]
    assert len(numbers) >= 4 and numbers == sorted(set(numbers))  # the other numbers go to overlaps
    assert response.transcript == " ".join(f"часть {number}" for number in numbers)
    assert response.segments[-1].end_s == 35


def test_raw_pcm_is_read_at_its_sample_rate(serve: Serve) -> None:
    samples = (voice(3, sample_rate=8000) * 32767).astype("<i2").tobytes()
    response, _ = transcribe_file(serve(NumberingService()), samples, filename="a.raw", format="pcm", sample_rate=8000)
    assert response.success and response.audio_duration == pytest.approx(3, abs=0.01)


def test_pcm_without_a_sample_rate_is_read_at_16_khz(serve: Serve) -> None:
    response, _ = transcribe_file(serve(NumberingService()), bytes(2 * RATE), filename="a.raw", format="PCM")
    assert response.audio_duration == pytest.approx(1, abs=0.01)


def test_name_without_a_known_extension_is_accepted_when_format_names_one(serve: Serve) -> None:
    response, _ = transcribe_file(serve(NumberingService()), voice_wav(1), filename="recording", format="WAV")
    assert response.success


def test_extension_is_known_in_any_case(serve: Serve) -> None:
    response, _ = transcribe_file(serve(NumberingService()), voice_wav(1), filename="RECORDING.WaV")
    assert response.success


CONTENT_ERRORS = {
    "EMPTY_AUDIO": (b"", {"filename": "a.mp3"}),
    "MISSING_FILENAME": (b"data", {"format": "mp3"}),
    "UNSUPPORTED_FORMAT": (b"data", {"filename": "a.exe"}),
    "UNDECODABLE_AUDIO": (b"not audio at all" * 100, {"filename": "a.mp3"}),
    "AUDIO_TOO_LONG": (voice_wav(4), {"filename": "a.wav"}),
    "INVALID_SAMPLE_RATE": (bytes(2000), {"filename": "a.raw", "format": "pcm", "sample_rate": -5}),
}


@pytest.mark.parametrize("code", CONTENT_ERRORS)
def test_content_error_is_answered_in_band_with_its_code(serve: Serve, code: str) -> None:
    data, fields = CONTENT_ERRORS[code]
    stub = serve(NumberingService(), audio_max_duration_s=3)
    response, trailers = transcribe_file(stub, data, **fields)
    assert not response.success and response.transcript == ""
    assert re.search("[а-я]", response.error_message) and "/" not in response.error_message
    assert trailers["x-error-code"] == code
    streamed, call = stub.TranscribeAudioStream.with_call(stream_messages(data, 1000, **fields))
    assert dict(call.trailing_metadata())["x-error-code"] == code
    assert streamed.error_message == response.error_message


def test_stream_without_messages_is_answered_in_band(serve: Serve) -> None:
    response, call = serve(NumberingService()).TranscribeAudioStream.with_call(iter(()))
    assert not response.success
    assert dict(call.trailing_metadata())["x-error-code"] == "MISSING_FILENAME"


def test_stream_over_its_limit_is_rejected_before_it_ends(serve: Serve) -> None:
    endless = repeat(transcription_pb2.AudioChunk(chunk_data=bytes(64 * 1024), filename="a.wav"))
    stub = serve(NumberingService(), stream_max_bytes=1_000_000)
    with pytest.raises(grpc.RpcError) as rejection:
        stub.TranscribeAudioStream(endless, timeout=HANG_LIMIT_S)
    assert rejection.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "STREAM_MAX_BYTES" in rejection.value.details()


def test_message_over_the_limit_is_rejected(serve: Serve) -> None:
    stub = serve(NumberingService(), grpc_max_receive_message_length=10_000)
    with pytest.raises(grpc.RpcError) as rejection:
        transcribe_file(stub, bytes(20_000), filename="a.wav")
    assert rejection.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class BrokenService(NumberingService):
    """Raises an error with a secret in its text."""

    def recognise(self, chunks: object, cancelled: object, options: object) -> Iterator[Completion]:
        raise KeyError("a secret of the server")


def test_unexpected_error_gives_a_request_id_and_keeps_its_text_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    stub = serve(BrokenService())
    with pytest.raises(grpc.RpcError) as failure:
        transcribe_file(stub, voice_wav(1), filename="a.wav")
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in failure.value.details()
    request_id = failure.value.details().split()[-1]
    assert request_id in caplog.text and "a secret of the server" in caplog.text


def test_log_has_the_documented_lines_word_for_word(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    transcribe_file(serve(NumberingService()), voice_wav(2.5), filename="interview.wav", format="wav")
    lines = [record.getMessage() for record in caplog.records if record.name == "NumberingService"]
    assert lines[:5] == [
        "=" * 80,
        "📥 Получен запрос на транскрипцию файла: interview.wav",
        "   Размер файла: 0.08 МБ",
        "   Формат: wav",
        "=" * 80,
    ]
    assert lines[5] == "✅ Транскрипция успешно завершена!"
    assert re.fullmatch(r"   Общее время обработки: \d+\.\d\d сек", lines[6])
    assert re.fullmatch(r"   Скорость: \d+\.\dx от реального времени", lines[7])
    assert lines[8] == "   Слов: 2, Символов: 7"


def test_file_name_cannot_forge_a_log_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    transcribe_file(
        serve(NumberingService()),
        voice_wav(1),
        filename="a\n✅ Транскрипция успешно завершена!\u2028\x00.wav" + "x" * 9000 + ".wav",
    )
    assert all(len(record.getMessage()) < 300 for record in caplog.records)
    assert not any(re.search("[\n\x00\u2028]", record.getMessage()) for record in caplog.records)
