"""Real speech through a real server with real weights: the right words, in every call and format."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jiwer
import numpy as np
import pytest
from pydub import AudioSegment

from generated.v1 import transcription_pb2
from generated.v1.transcription_pb2 import TranscriptionOptions
from ml.benchmarks.word_times import compare, read_words
from ml.transcript import Word
from resources.config import PROJECT_ROOT
from tests.conftest import BOREALIS, IMPLEMENTATIONS, Bundled, Stub, sample
from tests.support.audio import FORMATS, encode, encoded
from tests.support.messages import stream_messages, transcribe_every_way
from tests.support.processes import Health, run, started, wait_for
from tests.support.speech import speech_for

SEED_CLIENT = """
import grpc
from generated.v1 import transcription_pb2, transcription_pb2_grpc

# Подключение к серверу
channel = grpc.insecure_channel('localhost:50051')
stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)

# Чтение аудио файла
with open('audio.mp3', 'rb') as f:
    audio_data = f.read()

# Отправка запроса
request = transcription_pb2.AudioRequest(
    audio_data=audio_data,
    filename='audio.mp3',
    format='mp3'
)

response = stub.TranscribeAudio(request)

print(f"Транскрипция: {response.transcript}")
print(f"Время обработки: {response.processing_time:.2f}s")
print(f"Скорость: {response.stats.speed_factor:.1f}x")
"""

MOST_LOST_OR_ADDED = 0.2  # of the words


def transcribe(stub: Stub, path: Path) -> transcription_pb2.TranscriptionResponse:
    return stub.TranscribeAudio(transcription_pb2.AudioRequest(audio_data=path.read_bytes(), filename=path.name))


def pieces(path: Path, piece_bytes: int) -> Iterator[transcription_pb2.AudioChunk]:
    return stream_messages(path.read_bytes(), piece_bytes, filename=path.name)


def first_seconds(path: Path, duration_s: float) -> bytes:
    """The beginning of a WAV file as a WAV file."""
    with path.open("rb") as file:
        return encoded(AudioSegment.from_wav(file)[: duration_s * 1000], "wav")


def test_shipped_recording_is_transcribed_word_for_word_by_both_calls(bundled: Bundled) -> None:
    speech, path = bundled.speech, bundled.speech.recording
    unary = transcribe(bundled.stub, path)
    streamed = bundled.stub.TranscribeAudioStream(pieces(path, 10_000))
    assert speech.comparable(unary.transcript) == speech.comparable(speech.text)
    assert streamed.transcript == unary.transcript
    assert unary.success and unary.stats.word_count == len(speech.text.split())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_one_recording_gives_one_transcript(bundled: Bundled, tmp_path: Path, name: str) -> None:
    speech, original = bundled.speech, tmp_path / "original.wav"
    original.write_bytes(speech.clip)
    transcript = transcribe(bundled.stub, encode(original, tmp_path, name)).transcript
    assert speech.comparable(transcript) == speech.comparable(speech.clip_text)


@pytest.mark.parametrize("bundled", BOREALIS, indirect=True)  # of the words that this model knows
def test_three_minute_recording_loses_nothing_at_its_cuts(bundled: Bundled) -> None:
    path = sample("recording-3min.mp3")
    response = transcribe(bundled.stub, path)
    assert response.audio_duration > 170 and len(response.segments) >= 6
    counts = jiwer.process_words(path.with_suffix(".txt").read_text(encoding="utf-8").strip(), response.transcript)
    assert counts.wer <= 0.1, counts.wer


def test_digital_silence_is_a_success_without_words(bundled: Bundled) -> None:
    response = bundled.stub.TranscribeAudio(
        transcription_pb2.AudioRequest(audio_data=bytes(3 * 32_000), filename="silence.raw", format="pcm")
    )
    assert response.success and response.transcript == "" and response.audio_duration == pytest.approx(3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_documented_client_code_runs_unchanged_against_start_py(tmp_path: Path, implementation: str) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 50051)) == 0:
            pytest.skip("port 50051, which the documented client names, is taken on this machine")
    speech = speech_for(implementation)
    mp3 = speech.recording.with_suffix(".mp3")
    (tmp_path / "audio.mp3").write_bytes(mp3.read_bytes())
    (tmp_path / "client.py").write_text(SEED_CLIENT, encoding="utf-8")
    flags = ("start.py", "--implementation", implementation)
    with started(PROJECT_ROOT, *flags, MODEL_NAME=str(speech.model), MODEL_DEVICE="cpu") as process:
        with grpc.insecure_channel("localhost:50051") as channel:
            wait_for(channel, Health.SERVING, process)
        result = run(tmp_path, "client.py", PYTHONPATH=str(PROJECT_ROOT))
    assert result.returncode == 0, result.stderr
    transcript = result.stdout.splitlines()[0].removeprefix("Транскрипция: ")
    assert speech.comparable(transcript) == speech.comparable(speech.text)


def test_file_gives_the_same_bytes_alone_and_among_others(bundled: Bundled, tmp_path: Path) -> None:
    stub, speech = bundled.stub, bundled.speech
    clip, file = tmp_path / "clip.wav", tmp_path / "file.wav"
    clip.write_bytes(first_seconds(sample("word_times.wav"), 15))
    file.write_bytes(speech.clip)
    others = [clip, sample("demo.mp3"), sample("no_speech.wav")]

    def content(response: transcription_pb2.TranscriptionResponse) -> bytes:
        """The part of a response that depends on the audio alone."""
        kept = transcription_pb2.TranscriptionResponse(transcript=response.transcript, segments=response.segments)
        return kept.SerializeToString(deterministic=True)

    alone = content(transcribe(stub, file))
    with ThreadPoolExecutor(32) as clients:
        others_results = [clients.submit(transcribe, stub, others[number % 3]) for number in range(speech.others)]
        among = clients.submit(transcribe, stub, file)
        assert content(among.result()) == alone
        assert all(other.result().success for other in others_results)


@pytest.fixture(scope="module")
def many_chunks(short_chunks: Bundled) -> transcription_pb2.TranscriptionResponse:
    """The unary response for the recording of known word times, in chunks of 5 s."""
    return transcribe(short_chunks.stub, short_chunks.speech.word_times)


def test_texts_of_many_chunks_read_as_one(many_chunks: transcription_pb2.TranscriptionResponse) -> None:
    texts = [segment.text for segment in many_chunks.segments if segment.text]
    assert len(many_chunks.segments) > 5 and many_chunks.transcript == " ".join(texts)
    assert "  " not in many_chunks.transcript and many_chunks.transcript == many_chunks.transcript.strip()


def test_words_at_the_cuts_are_neither_lost_nor_doubled(
    short_chunks: Bundled, many_chunks: transcription_pb2.TranscriptionResponse
) -> None:
    """In chunks of 5 s. The words lost and added in all bound those at the cuts; tighten the limit with the model."""
    speech = short_chunks.speech
    counts = jiwer.process_words(" ".join(speech.words), speech.comparable(many_chunks.transcript))
    assert counts.deletions + counts.insertions <= MOST_LOST_OR_ADDED * len(speech.words), counts


def test_streamed_call_gives_the_segments_of_the_unary_one(
    short_chunks: Bundled, many_chunks: transcription_pb2.TranscriptionResponse
) -> None:
    stub, path = short_chunks.stub, short_chunks.speech.word_times
    streamed = stub.TranscribeAudioStream(pieces(path, 100_000))
    assert streamed.segments == many_chunks.segments and streamed.transcript == many_chunks.transcript
    *updates, last = stub.TranscribeAudioIncremental(pieces(path, 100_000))
    assert [update.segment for update in updates if update.HasField("segment")] == list(many_chunks.segments)
    assert last.response.transcript == many_chunks.transcript


def test_words_lie_where_they_are_spoken(bundled: Bundled) -> None:
    path = bundled.speech.word_times
    for response, _ in transcribe_every_way(
        bundled.stub, path.read_bytes(), filename=path.name, options=TranscriptionOptions(word_times=True)
    ):
        words = [word for segment in response.segments for word in segment.words]
        assert " ".join(word.text for word in words) == response.transcript
        found = [Word(word.text, word.start_s, word.end_s) for word in words]
        starts_s, _ = compare(found, read_words(path.with_suffix(".json")))
        assert len(starts_s) >= MOST_LOST_OR_ADDED * len(words)
        # What estimates do not reach: those of the Borealis sample are 0.13 s off in the median, 0.95 s at the 90 %.
        assert np.median(np.abs(starts_s)) <= 0.12 and np.percentile(np.abs(starts_s), 90) <= 0.4


def test_noise_and_silence_give_no_words(bundled: Bundled) -> None:
    response = transcribe(bundled.stub, sample("no_speech.wav"))
    assert response.success and response.transcript == ""
