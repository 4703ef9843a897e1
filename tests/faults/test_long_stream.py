"""Hours of audio, streamed, cost the server disk, not memory."""

import threading
from collections.abc import Iterator

import pytest

from generated.v1 import transcription_pb2
from tests.conftest import sample
from tests.support import audio as media
from tests.support import process_stats, recordings
from tests.support.memory_growth import grows, slope
from tests.support.messages import stream_messages
from tests.support.server_process import served

pytestmark = pytest.mark.slow

HOURS_S = 10_000
TIMEOUT_S = 1000
SAMPLE_PERIOD_S = 0.1
MESSAGE_BYTES = 65_536
WARM_UP_SHARE = 0.5  # until then the buffers of the transport and the heap grow to their sizes
SERVERS = 3  # a leak shows in each of them; a heap that takes one more arena, once in many
LEAK = 0.5  # bytes of memory per byte of the upload; keeping the upload takes 1, keeping its samples more than 10


def hours() -> bytes:
    """The shipped recording of nearly three minutes, repeated: a little less than three hours."""
    source = str(sample("recording-3min.mp3"))
    return media.made_by_ffmpeg("-stream_loop", "60", "-i", source, "-c", "copy", "-f", "mp3")


@pytest.mark.parametrize("method", ["TranscribeAudioStream", "TranscribeAudioIncremental"])
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_length_of_a_stream(method: str) -> None:
    audio_bytes, slopes = hours(), []

    def grows_in_a_server() -> bool:
        samples = samples_of_an_upload(method, audio_bytes)
        sent, memory = zip(*(sample for sample in samples if sample[0] > WARM_UP_SHARE * len(audio_bytes)), strict=True)
        slopes.append(slope(sent, memory))
        return grows(sent, memory, LEAK)

    assert not all(grows_in_a_server() for _ in range(SERVERS)), slopes


def samples_of_an_upload(method: str, audio_bytes: bytes) -> list[tuple[int, int]]:
    """Return the bytes sent to a new server and its resident memory in bytes, over the time of one call."""
    sent_bytes = 0
    samples: list[tuple[int, int]] = []
    answers: list[transcription_pb2.TranscriptionResponse] = []

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        nonlocal sent_bytes
        for message in stream_messages(audio_bytes, MESSAGE_BYTES, filename="a.mp3"):
            sent_bytes += len(message.chunk_data)
            yield message

    with served("numbering") as server:
        assert server.transcribe(recordings.control()).success

        def send() -> None:
            answer = getattr(server.stub, method)(upload(), timeout=TIMEOUT_S)
            answers.append(answer if method == "TranscribeAudioStream" else [*answer][-1].response)

        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():
            samples.append((sent_bytes, process_stats.memory_bytes(server.process.pid)))
            sender.join(SAMPLE_PERIOD_S)
    (answer,) = answers
    assert answer.success and answer.audio_duration > HOURS_S
    return samples
