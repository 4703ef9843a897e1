"""No bytes, however damaged or malicious, do more than fail their own decoding (numbers: rows of the fault table)."""

import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder, Decoding
from ml.audio.ffmpeg import CONTAINERS, decode_command, find_ffmpeg
from ml.audio.verdict import DAMAGED_WARNING
from ml.errors import AudioTooLongError, DecodingCancelledError, EmptyAudioError, SpeechError, UndecodableAudioError
from ml.interfaces import SAMPLE_RATE
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=60, timeout_s=30)
pytestmark = pytest.mark.timeout(60)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")


@contextmanager
def decoding_of(
    audio_bytes: bytes, decoder: AudioDecoder = DECODER, cancelled: threading.Event | None = None
) -> Iterator[Decoding]:
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        with decoder.open(file, cancelled=cancelled) as decoding:
            yield decoding


def n_samples_and_warnings(audio_bytes: bytes) -> tuple[int, tuple[str, ...]]:
    with decoding_of(audio_bytes) as decoding:
        return sum(map(len, decoding)), decoding.warnings


def refusal(audio_bytes: bytes, decoder: AudioDecoder = DECODER) -> SpeechError:
    """Return the error that decoding ends in, after checking that its message may be shown."""
    with pytest.raises(SpeechError) as caught, decoding_of(audio_bytes, decoder) as decoding:
        for _ in decoding:
            pass
    message = str(caught.value)
    assert "\n" not in message and "ffmpeg" not in message and tempfile.gettempdir() not in message
    return caught.value


def wait_for_the_end_of(pid: int) -> None:
    """Wait until the process has ended; the test's time limit bounds the wait."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)


def recording(name: str, duration_s: float = 10) -> bytes:
    return media.encoded(media.segment(media.voice(duration_s)), name)


def test_01_no_bytes_at_all() -> None:
    assert type(refusal(b"")) is EmptyAudioError


def test_03_random_bytes() -> None:
    random = np.random.default_rng(3)
    for n_bytes in (1, 2, 100, 10_000, 300_000):
        assert type(refusal(random.bytes(n_bytes))) is UndecodableAudioError, n_bytes


def test_04_text_instead_of_sound() -> None:
    assert type(refusal("Это не звук, а текст.\n".encode() * 100)) is UndecodableAudioError


def test_05_wav_without_samples() -> None:
    assert type(refusal(media.wav_header(0))) is UndecodableAudioError


@pytest.mark.parametrize("n_bytes", [1, 4, 12, 20, 40, 43])
def test_05_wav_cut_inside_its_header(n_bytes: int) -> None:
    assert type(refusal(media.wav(media.voice(1))[:n_bytes])) is UndecodableAudioError


def test_06_wav_with_sample_rate_zero() -> None:
    audio_bytes = media.wav_header(32_000, sample_rate=0) + media.pcm(media.voice(1))
    assert type(refusal(audio_bytes)) is UndecodableAudioError


@pytest.mark.parametrize("channels", [0, 65_535])
def test_07_wav_with_impossible_channels(channels: int) -> None:
    audio_bytes = media.wav_header(320_000, channels=channels) + media.pcm(media.voice(10))
    assert type(refusal(audio_bytes)) is UndecodableAudioError


@pytest.mark.skipif(sys.platform == "win32", reason="no such account of memory on Windows")
def test_08_wav_with_an_enormous_sample_rate_takes_no_memory(tmp_path: Path) -> None:
    enormous, ordinary = tmp_path / "enormous.wav", tmp_path / "ordinary.wav"
    enormous.write_bytes(media.wav_header(320_000, sample_rate=2**31 - 1) + media.pcm(media.voice(10)))
    ordinary.write_bytes(media.wav(media.voice(10, sample_rate=8000), 8000))
    assert type(refusal(enormous.read_bytes())) is UndecodableAudioError
    assert peak_of_decoding(enormous) < 1.5 * peak_of_decoding(ordinary)


def peak_of_decoding(path: Path) -> int:
    """Return the peak resident memory of the decoder process on this recording."""
    # A process of its own, because the account of a child begins with the size of the process it was forked from.
    program = f"""
import resource
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.errors import UndecodableAudioError
from contextlib import suppress
with suppress(UndecodableAudioError):
    AudioDecoder(find_ffmpeg(), 60, 30).decode_all(open({str(path)!r}, "rb"))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return int(answer.stdout)


def test_09_small_wav_that_claims_one_sample_a_second() -> None:
    audio_bytes = media.wav_header(20_000, sample_rate=1) + media.pcm(media.voice(0.625))
    assert type(refusal(audio_bytes)) is AudioTooLongError


@pytest.mark.parametrize("claimed", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0])
def test_10_wav_of_unknown_length_is_as_long_as_it_is(claimed: int) -> None:
    audio_bytes = media.wav_header(claimed) + media.pcm(media.voice(3))
    assert n_samples_and_warnings(audio_bytes) == (3 * SAMPLE_RATE, ())


def test_11_ten_hours_of_opus_in_little_more_than_a_megabyte() -> None:
    audio_bytes = media.opus_bomb(10 * 3600)
    assert len(audio_bytes) < 1_800_000
    assert type(refusal(audio_bytes)) is AudioTooLongError


def test_11_the_same_opus_below_the_limit_is_accepted() -> None:
    assert n_samples_and_warnings(media.opus_bomb(45.9))[0] == pytest.approx(45.9 * SAMPLE_RATE, abs=1000)


def test_12_m4a_without_its_index() -> None:
    audio_bytes = recording("m4a")
    assert type(refusal(audio_bytes[: audio_bytes.index(b"moov") - 4])) is UndecodableAudioError


def test_13_m4a_with_its_index_last_is_read_in_full() -> None:
    n_samples, warnings = n_samples_and_warnings(recording("m4a"))
    assert n_samples == pytest.approx(10 * SAMPLE_RATE, abs=1024)
    assert warnings == ()


@pytest.mark.parametrize("name", ["mp3", "wav", "flac", "ogg", "opus", "aac", "m4a-index-first"])
@pytest.mark.parametrize("share", [0.3, 0.61, 0.9, 0.98])
def test_14_truncated_recording_gives_what_is_there_and_a_warning(name: str, share: float) -> None:
    audio_bytes = recording(name)
    n_samples, warnings = n_samples_and_warnings(audio_bytes[: int(len(audio_bytes) * share)])
    assert len(warnings) == 1 and warnings[0].startswith(DAMAGED_WARNING)
    # An Ogg page holds a second or two of sound, and the broken one is lost.
    assert share * 10 - 2.2 < n_samples / SAMPLE_RATE < share * 10 + 0.5


def test_15_mp3_with_junk_in_the_middle() -> None:
    audio_bytes = recording("mp3")
    middle = len(audio_bytes) // 2
    junk = np.random.default_rng(15).bytes(20_000)
    n_samples, warnings = n_samples_and_warnings(audio_bytes[:middle] + junk + audio_bytes[middle:])
    assert 9.5 < n_samples / SAMPLE_RATE < 13
    assert len(warnings) == 1 and warnings[0].startswith(DAMAGED_WARNING)


class Canary:
    """A web server on loopback which records the requests it gets."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/canary.ts"


@pytest.fixture
def canary(nothing_left_behind: None) -> Iterator[Canary]:
    canary = Canary()
    thread = threading.Thread(target=canary.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield canary
    canary.server.shutdown()
    canary.server.server_close()
    thread.join()


def hls(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n".encode()


def ffconcat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


@pytest.fixture(params=["both locks", "protocols alone", "formats alone"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either whitelist must hold without the other."""
    if request.param == "protocols alone":
        monkeypatch.setattr("ml.audio.ffmpeg.CONTAINERS", CONTAINERS + ",hls,concat,mpegts")
    if request.param == "formats alone":
        monkeypatch.setattr("ml.audio.ffmpeg.PROTOCOLS", "fd,file,http,tcp")


@pytest.mark.parametrize("playlist", [hls, ffconcat])
def test_17_playlist_makes_no_request(canary: Canary, locks: None, playlist: Callable[[str], bytes]) -> None:
    assert type(refusal(playlist(canary.address))) is UndecodableAudioError
    assert canary.requests == []


def test_17_command_opens_one_protocol_and_no_playlist() -> None:
    for pcm_sample_rate in (None, 16_000):
        command = decode_command(DECODER.ffmpeg, 60, pcm_sample_rate)
        before_input = command[: command.index("-i")]
        assert before_input[before_input.index("-protocol_whitelist") + 1] == "fd"
        assert set(before_input[before_input.index("-format_whitelist") + 1].split(",")).isdisjoint({"hls", "concat"})


def test_17_canary_sees_a_decoder_without_whitelists(canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_bytes(hls(canary.address))
    command = [str(DECODER.ffmpeg), "-nostdin", "-protocol_whitelist", "file,http,tcp", "-i", str(path)]
    subprocess.run([*command, "-f", "null", "-"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert canary.requests != []


@pytest.mark.parametrize("playlist", [hls, ffconcat])
def test_18_playlist_reads_no_other_file(tmp_path: Path, locks: None, playlist: Callable[[str], bytes]) -> None:
    secret = tmp_path / "canary.wav"
    secret.write_bytes(media.wav(media.voice(2)))
    for target in (str(secret), secret.as_uri(), secret.name):
        assert type(refusal(playlist(target))) is UndecodableAudioError


def test_18_concat_list_reads_a_file_without_whitelists(tmp_path: Path) -> None:
    (tmp_path / "canary.wav").write_bytes(media.wav(media.voice(2)))
    (tmp_path / "list").write_bytes(ffconcat("canary.wav"))
    sound = media.made_by_ffmpeg("-protocol_whitelist", "file", "-i", str(tmp_path / "list"), "-f", "s16le")
    assert len(sound) == 2 * 2 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("container", "name"),
    [("avi", "AVI"), ("au", "Sun AU"), ("mpegts", "MPEG-TS"), ("latm", "LATM"), ("ac3", "AC-3"), ("w64", "Wave64")],
)
def test_container_that_is_not_offered_is_refused_by_its_name(tmp_path: Path, container: str, name: str) -> None:
    (tmp_path / "sound.wav").write_bytes(media.wav(media.voice(1)))
    codec = {"latm": ["-c:a", "aac"]}.get(container, [])
    audio_bytes = media.made_by_ffmpeg("-i", str(tmp_path / "sound.wav"), *codec, "-f", container)
    error = refusal(audio_bytes)
    assert type(error) is UndecodableAudioError and name in str(error)


def test_20_video_without_sound() -> None:
    picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=0.5", "-c:v", "mpeg4"]
    video = media.made_by_ffmpeg(*picture, "-movflags", "frag_keyframe+empty_moov", "-f", "mp4")
    error = refusal(video)
    assert type(error) is UndecodableAudioError and "нет звуковой дорожки" in str(error)


def test_20_video_with_sound_gives_the_sound(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(media.wav(media.voice(2)))
    picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=2", "-i", str(tmp_path / "sound.wav"), "-c:v", "mpeg4"]
    video = media.made_by_ffmpeg(*picture, "-movflags", "frag_keyframe+empty_moov", "-f", "mp4")
    assert n_samples_and_warnings(video)[0] == pytest.approx(2 * SAMPLE_RATE, abs=2048)


def test_21_digital_silence_is_success() -> None:
    assert n_samples_and_warnings(media.wav(np.zeros(3 * SAMPLE_RATE, np.float32))) == (3 * SAMPLE_RATE, ())


@needs_signals
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGINT"])
def test_35_decoder_killed_half_way_is_not_taken_for_the_end(name: str) -> None:
    with (
        pytest.raises(UndecodableAudioError, match="аварийно"),
        decoding_of(media.wav(media.voice(40, sample_rate=8000), 8000)) as decoding,
    ):
        for number, _ in enumerate(decoding):
            if number == 0:
                os.kill(decoding.pid, getattr(signal, name))


@needs_signals
def test_36_stopped_decoder_ends_at_its_time_limit() -> None:
    decoder = AudioDecoder(DECODER.ffmpeg, 60, timeout_s=0.5)
    with (
        pytest.raises(UndecodableAudioError, match="AUDIO_DECODE_TIMEOUT_S"),
        decoding_of(media.wav(media.voice(40, sample_rate=8000), 8000), decoder) as decoding,
    ):
        blocks = iter(decoding)
        next(blocks)
        os.kill(decoding.pid, signal.SIGSTOP)
        for _ in blocks:
            pass


@needs_signals
def test_cancelling_ends_the_wait_for_a_stopped_decoder() -> None:
    cancelled = threading.Event()
    timer = threading.Timer(0.2, cancelled.set)  # by then the wait has begun; its own limit is 30 s
    with (
        pytest.raises(DecodingCancelledError),
        decoding_of(media.wav(media.voice(40, sample_rate=8000), 8000), cancelled=cancelled) as decoding,
    ):
        blocks = iter(decoding)
        next(blocks)
        os.kill(decoding.pid, signal.SIGSTOP)
        timer.start()
        for _ in blocks:
            pass
    timer.join()


@linux_only
def test_cancelling_kills_the_decoder_of_a_consumer_busy_elsewhere() -> None:
    cancelled = threading.Event()
    with decoding_of(media.wav(media.voice(40, sample_rate=8000), 8000), cancelled=cancelled) as decoding:
        blocks = iter(decoding)
        next(blocks)
        cancelled.set()
        wait_for_the_end_of(decoding.pid)
        with pytest.raises(DecodingCancelledError):
            list(blocks)
        assert decoding.duration_s < 10


def test_cancelled_before_it_begins() -> None:
    cancelled = threading.Event()
    cancelled.set()
    audio_bytes = recording("mp3", 40)
    with pytest.raises(DecodingCancelledError), decoding_of(audio_bytes, cancelled=cancelled) as decoding:
        list(decoding)


@pytest.mark.parametrize("name", media.FORMATS)
def test_any_flipped_bytes_end_in_sound_or_in_a_refusal(name: str) -> None:
    original = recording(name, 2)
    for seed in range(5):
        random = np.random.default_rng(seed)
        damaged = np.frombuffer(original, np.uint8).copy()
        places = random.integers(0, len(damaged), 1 + len(damaged) // 200)
        damaged[places] = random.integers(0, 256, len(places))
        try:
            n_samples_and_warnings(damaged.tobytes())
        except (UndecodableAudioError, AudioTooLongError) as error:
            assert "ffmpeg" not in str(error)
