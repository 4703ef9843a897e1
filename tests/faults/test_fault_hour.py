"""An hour of sound, streamed, costs the server disk, not memory."""

import threading
from collections.abc import Iterator

import pytest

from generated.v1 import transcription_pb2
from tests.conftest import sample
from tests.support import audio as media
from tests.support import process_stats as belongings
from tests.support import recordings
from tests.support.harness import pieces
from tests.support.server_process import Served, served

pytestmark = pytest.mark.slow

MIB = 1024**2
MAX_GROWTH_BYTES = 150 * MIB
HOUR_S = 3600
SAMPLE_PERIOD_S = 0.1


def hour() -> bytes:
    """The shipped recording of nearly three minutes, over and over: a little more than an hour."""
    source = str(sample("recording-3min.mp3"))
    return media.made_by_ffmpeg("-stream_loop", "21", "-i", source, "-c", "copy", "-f", "mp3")


def largest_while(server: Served, work: threading.Thread) -> int:
    """The most resident memory that the server's process had while `work` ran, in bytes."""
    largest = 0
    work.start()
    while work.is_alive():
        largest = max(largest, belongings.memory_bytes(server.process.pid))
        work.join(SAMPLE_PERIOD_S)
    return largest


@pytest.mark.parametrize("method", ["TranscribeAudioStream", "TranscribeAudioIncremental"])
@pytest.mark.timeout(600)
def test_an_hour_streamed_grows_the_server_by_no_more_than_150_mib(method: str) -> None:
    audio_bytes = hour()
    answers: list[transcription_pb2.TranscriptionResponse] = []

    def messages() -> Iterator[transcription_pb2.AudioChunk]:
        return pieces(audio_bytes, 65_536, filename="a.mp3")

    def send(server: Served) -> None:
        answer = getattr(server.stub, method)(messages(), timeout=500)
        answers.append(answer if method == "TranscribeAudioStream" else [*answer][-1].response)

    with served("reciter") as server:
        assert server.ask(recordings.control()).success
        before_bytes = belongings.memory_bytes(server.process.pid)
        grown_bytes = largest_while(server, threading.Thread(target=send, args=(server,))) - before_bytes
    (answer,) = answers
    assert answer.success and answer.audio_duration > HOUR_S
    print(f"{answer.audio_duration:.0f} s of sound in {len(audio_bytes) / MIB:.1f} MiB: + {grown_bytes / MIB:.1f} MiB")
    assert grown_bytes <= MAX_GROWTH_BYTES
