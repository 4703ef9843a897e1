"""Rows 1 to 21: requests whose content is faulty or only looks faulty."""

import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from generated.v1 import transcription_pb2
from ml.audio.verdict import DAMAGED_WARNING
from tests.faults.conftest import StartServer
from tests.ml.audio.test_decoder_faults import Canary
from tests.support import audio as media
from tests.support import recordings
from tests.support.fault_services import NumberingService
from tests.support.harness import Answer, assert_rejected, assert_transcribed
from tests.support.marks import row
from tests.support.messages import stream_messages

UNDECODABLE, TOO_LONG = "UNDECODABLE_AUDIO", "AUDIO_TOO_LONG"


@row(1)
@pytest.mark.real_model
def test_empty_bytes_are_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(b"", filename="a.mp3"), "EMPTY_AUDIO")


@row(2)
def test_a_stream_without_messages_is_rejected(start_server: StartServer) -> None:
    assert_rejected([start_server().transcribe_stream(())], "MISSING_FILENAME")


@row(2)
def test_a_stream_without_a_filename_is_rejected(start_server: StartServer) -> None:
    messages = [transcription_pb2.AudioChunk(chunk_data=recordings.control())] * 3
    assert_rejected([start_server().transcribe_stream(messages)], "MISSING_FILENAME")


@row(3)
@pytest.mark.real_model
def test_random_bytes_are_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(recordings.random_bytes(), filename="a.mp3"), UNDECODABLE)


@row(4)
def test_text_named_wav_is_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(recordings.text()), UNDECODABLE)


@row(5)
def test_a_wav_with_a_header_only_is_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(media.wav_header(0)), UNDECODABLE)


@row(6)
def test_a_wav_of_no_sample_rate_is_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(recordings.wav_claiming(sample_rate=0)), UNDECODABLE)


@row(7)
@pytest.mark.parametrize("channels", [0, 65_535])
def test_a_wav_of_impossible_channels_is_rejected(start_server: StartServer, channels: int) -> None:
    audio_bytes = recordings.wav_claiming(channels=channels, data_bytes=320_000, duration_s=10)
    assert_rejected(start_server().transcribe_every_way(audio_bytes), UNDECODABLE)


def traced_peak_bytes(work: Callable[[], Iterable[Answer]]) -> tuple[list[Answer], int]:
    """The answers of `work`, and the most memory that Python and NumPy had allocated meanwhile."""
    tracemalloc.start()
    try:
        answers = list(work())
        return answers, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@row(8)
def test_a_wav_of_an_enormous_sample_rate_is_rejected_and_takes_no_more_memory_than_a_good_one(
    start_server: StartServer,
) -> None:
    server = start_server()
    good = recordings.wav_claiming(data_bytes=320_000, duration_s=10)
    faulty = recordings.wav_claiming(sample_rate=2**31 - 1, data_bytes=320_000, duration_s=10)
    _, usual_bytes = traced_peak_bytes(lambda: server.transcribe_every_way(good))
    answers, peak_bytes = traced_peak_bytes(lambda: server.transcribe_every_way(faulty))
    assert_rejected(answers, UNDECODABLE)
    assert peak_bytes < 2 * usual_bytes


@row(9)
def test_a_small_wav_that_claims_one_sample_a_second_is_too_long(start_server: StartServer) -> None:
    server = start_server(audio_max_duration_s=60)
    assert_rejected(server.transcribe_every_way(recordings.wav_claiming(sample_rate=1)), TOO_LONG)


@row(10)
@pytest.mark.parametrize("claimed", [0xFFFF_FFFF, 0x7FFF_FFFF, 0])
def test_a_wav_of_unknown_length_is_as_long_as_it_is(start_server: StartServer, claimed: int) -> None:
    answers = start_server().transcribe_every_way(recordings.wav_claiming(data_bytes=claimed, duration_s=2))
    assert_transcribed(answers, 2)
    assert not any(answer.response.warnings for answer in answers)


@row(11)
def test_ten_hours_in_a_megabyte_are_too_long(start_server: StartServer) -> None:
    server = start_server(audio_max_duration_s=60)
    assert len(recordings.opus_bomb()) < 1_800_000
    assert_rejected(server.transcribe_every_way(recordings.opus_bomb(), filename="a.ogg"), TOO_LONG)


@row(11)
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_hours_are_too_long_for_the_default_limit_too(start_server: StartServer) -> None:
    server = start_server(NumberingService())
    call = server.begin(recordings.opus_bomb(), timeout_s=1000, filename="a.ogg")  # four of the hours are decoded
    assert not call.result().success
    assert dict(call.trailing_metadata())["x-error-code"] == TOO_LONG


@row(12)
def test_an_m4a_without_its_index_is_rejected(start_server: StartServer) -> None:
    assert_rejected(start_server().transcribe_every_way(recordings.m4a_without_index(), filename="a.m4a"), UNDECODABLE)


@row(13)
def test_an_m4a_with_its_index_last_is_transcribed_in_full(start_server: StartServer) -> None:
    audio_bytes = recordings.recording("m4a")
    assert audio_bytes.index(b"mdat") < audio_bytes.index(b"moov")
    assert_transcribed(start_server().transcribe_every_way(audio_bytes, filename="a.m4a"), 10)


@row(14)
@pytest.mark.parametrize("name", ["mp3", "wav", "flac", "ogg"])
@pytest.mark.parametrize("share", [0.6, 0.98])
@pytest.mark.real_model
def test_a_truncated_recording_gives_what_is_there_and_a_warning(
    start_server: StartServer, name: str, share: float
) -> None:
    answers = start_server().transcribe_every_way(recordings.truncated(name, share), filename=f"a.{name}")
    # An Ogg page holds a second or two, and the broken one is lost.
    assert_transcribed(answers, 10 * share - 0.5, within_s=1.2)
    for answer in answers:
        (warning,) = answer.response.warnings
        assert warning.startswith(DAMAGED_WARNING)


@row(15)
def test_an_mp3_with_junk_inside_is_transcribed(start_server: StartServer) -> None:
    answers = start_server().transcribe_every_way(recordings.mp3_with_junk_inside(), filename="a.mp3")
    assert_transcribed(answers, 11, within_s=1.6)


@row(16)
@pytest.mark.parametrize(("name", "ending"), [("mp3", "wav"), ("wav", "ogg"), ("m4a", "mp3"), ("ogg", "flac")])
def test_the_content_counts_and_not_the_ending(start_server: StartServer, name: str, ending: str) -> None:
    answers = start_server().transcribe_every_way(recordings.recording(name, 2), filename=f"a.{ending}", format=ending)
    assert_transcribed(answers, 2)


@pytest.fixture
def canary(start_server: StartServer) -> Iterator[Canary]:
    canary = Canary()
    thread = threading.Thread(target=canary.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield canary
    canary.server.shutdown()
    canary.server.server_close()
    thread.join()


@row(17)
@pytest.mark.parametrize("listing", [recordings.playlist, recordings.concat_list])
@pytest.mark.parametrize("filename", ["a.wav", "list.m3u8"])
def test_a_playlist_makes_no_request(
    start_server: StartServer, canary: Canary, listing: Callable[[str], bytes], filename: str
) -> None:
    answers = start_server().transcribe_every_way(listing(canary.address), filename=filename, format="wav")
    assert_rejected(answers, UNDECODABLE)
    assert canary.requests == []


@row(18)
@pytest.mark.parametrize("listing", [recordings.playlist, recordings.concat_list])
def test_a_playlist_reads_no_other_file(
    start_server: StartServer, tmp_path: Path, listing: Callable[[str], bytes]
) -> None:
    secret = tmp_path / "canary.wav"
    secret.write_bytes(recordings.control())
    server = start_server()
    for target in (str(secret), secret.as_uri(), secret.name):
        assert_rejected(server.transcribe_every_way(listing(target), filename="list.m3u8", format="wav"), UNDECODABLE)


class AuditLog:
    """What this process opens and starts while `enabled`; Python never removes an audit hook."""

    EVENTS = ("open", "subprocess.Popen", "os.listdir", "os.mkdir", "socket.connect")

    def __init__(self) -> None:
        self.enabled = False
        self.records: list[str] = []

    def record(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.enabled and event in self.EVENTS:
            self.records.append(repr(arguments))


AUDIT = AuditLog()
sys.addaudithook(AUDIT.record)

HOSTILE_NAMES = {
    "up and away": "../../canary",
    "an option": "-i canary",
    "an address": "http://127.0.0.1:9/canary.wav",
    "with NUL": "canary\0.wav",
    "10 KB long": "canary" * 1700,
    "a protocol of the decoder": "concat:canary|canary.wav",
}


@row(19)
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_is_never_used_as_a_path(start_server: StartServer, name: str) -> None:
    server = start_server()
    AUDIT.records.clear()
    AUDIT.enabled = True
    try:
        good = server.transcribe_every_way(recordings.control(), filename=HOSTILE_NAMES[name], format="wav")
        bad = server.transcribe_every_way(recordings.text(), filename=HOSTILE_NAMES[name], format="wav")
    finally:
        AUDIT.enabled = False
    assert_transcribed(good, recordings.CONTROL_S)
    assert_rejected(bad, UNDECODABLE)
    assert any("fd:" in record for record in AUDIT.records)  # the start of the decoder is among them
    assert not any("canary" in record for record in AUDIT.records)


@row(19)
def test_a_file_that_exists_is_not_read_for_its_name(start_server: StartServer, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(recordings.recording("wav"))
    server = start_server()
    assert_transcribed(server.transcribe_every_way(recordings.control(), filename=str(other)), recordings.CONTROL_S)
    assert_rejected(server.transcribe_every_way(b"", filename=str(other)), "EMPTY_AUDIO")


@row(20)
def test_a_video_without_sound_is_rejected(start_server: StartServer) -> None:
    answers = start_server().transcribe_every_way(recordings.video_without_sound(), filename="a.m4a")
    assert_rejected(answers, UNDECODABLE)
    assert all("нет звуковой дорожки" in answer.response.error_message for answer in answers)


@row(21)
@pytest.mark.real_model
def test_digital_silence_is_an_empty_transcript_marked_as_silence(start_server: StartServer) -> None:
    answers = start_server().transcribe_every_way(recordings.silence())
    assert_transcribed(answers, 3)
    assert [answer.response.transcript for answer in answers] == ["", "", ""]
    for answer in answers[:2]:  # a form is answered with the segments in which something is said
        assert {segment.status for segment in answer.response.segments} == {transcription_pb2.SILENCE}


def test_stream_messages_are_the_whole_recording() -> None:
    audio_bytes = recordings.recording("mp3")
    assert b"".join(message.chunk_data for message in stream_messages(audio_bytes, 1000)) == audio_bytes
