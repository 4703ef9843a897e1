"""A file may hold several recordings, or state too short a length: all of it is read, or a warning names the rest."""

import struct
from functools import cache

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.verdict import DAMAGED_WARNING, LEFTOVER_WARNING, PARTS_WARNING
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
pytestmark = pytest.mark.timeout(60)
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=60, timeout_s=30)
FIRST, SECOND = media.voice(3.3, seed=1), media.voice(2.2, seed=2)
WRITING = {
    "wav": ["-f", "wav"],
    "wav, 8 kHz": ["-ar", "8000", "-f", "wav"],
    "wav, mu-law": ["-c:a", "pcm_mulaw", "-f", "wav"],
    "mp3": ["-b:a", "64k", "-f", "mp3"],
    "mp3, other rate": ["-ar", "22050", "-b:a", "64k", "-f", "mp3"],
    "aac": ["-b:a", "96k", "-f", "adts"],
    "flac": ["-f", "flac"],
    "flac, 8 kHz": ["-ar", "8000", "-f", "flac"],
    "ogg": ["-c:a", "libvorbis", "-f", "ogg"],
    "ogg, stereo": ["-ac", "2", "-ar", "44100", "-c:a", "libvorbis", "-f", "ogg"],
    "opus": ["-c:a", "libopus", "-f", "ogg"],
    "m4a": ["-b:a", "96k", "-f", "ipod"],
    "m4a, index first": ["-b:a", "96k", "-f", "ipod", "-movflags", "+faststart"],
    "mp4 in fragments": ["-b:a", "96k", "-f", "mp4", "-movflags", "frag_keyframe+empty_moov"],
    "webm": ["-c:a", "libopus", "-f", "webm"],
    "live webm": ["-c:a", "libopus", "-f", "webm", "-live", "1"],
    "amr": ["-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k", "-f", "amr"],
    "aiff": ["-f", "aiff"],
    "caf": ["-f", "caf"],
    "wma": ["-c:a", "wmav2", "-f", "asf"],
}
LOSSY_ENOUGH = {"amr": 0.45, "wma": 0.95}  # AMR keeps the sound, not the waveform


@cache
def recording(name: str, is_second: bool = False) -> bytes:
    return media.converted([media.wav(SECOND if is_second else FIRST)], *WRITING[name])


def decode(audio_bytes: bytes) -> tuple[Waveform, tuple[str, ...]]:
    return media.decode_both_ways(DECODER, audio_bytes)


def assert_holds_both(audio_bytes: bytes, at_least: float = 0.97) -> None:
    waveform, warnings = decode(audio_bytes)
    assert warnings == ()
    assert len(waveform) / SAMPLE_RATE == pytest.approx(5.5, abs=0.25)
    assert media.similarity(waveform[: len(FIRST)], media.low_cut(FIRST)) > at_least
    assert media.similarity(waveform[-len(SECOND) :], media.low_cut(SECOND)) > at_least


@pytest.mark.parametrize("name", WRITING)
def test_recordings_joined_end_to_end_are_both_read(name: str) -> None:
    assert_holds_both(recording(name) + recording(name, is_second=True), LOSSY_ENOUGH.get(name, 0.97))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mp3", "mp3, other rate"),
        ("flac", "flac, 8 kHz"),
        ("wav", "wav, 8 kHz"),
        ("wav, mu-law", "wav"),
        ("ogg", "ogg, stereo"),
        ("ogg", "opus"),
        ("m4a", "m4a, index first"),
    ],
)
def test_joined_recordings_may_differ_in_kind(first: str, second: str) -> None:
    assert_holds_both(recording(first) + recording(second, is_second=True))


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\0\x10" + bytes(16)])
def test_tag_between_joined_recordings_is_no_sound(tag: bytes) -> None:
    assert_holds_both(recording("mp3") + tag + recording("mp3", is_second=True) + tag)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.999])
@pytest.mark.parametrize("name", ["wav", "wav, 8 kHz", "wav, mu-law"])
def test_wav_that_states_less_than_it_holds_is_read_to_its_end(name: str, share: float) -> None:
    audio_bytes = recording(name)
    at = audio_bytes.index(b"data") + 4
    (n_bytes,) = struct.unpack_from("<I", audio_bytes, at)
    for stated_bytes in (int(n_bytes * share), int(n_bytes * share) | 1):
        short = audio_bytes[:at] + struct.pack("<I", stated_bytes) + audio_bytes[at + 4 :]
        waveform, warnings = decode(short)
        assert warnings == ()
        assert len(waveform) == pytest.approx(len(FIRST), abs=16)
        assert media.similarity(waveform, media.low_cut(FIRST)) > 0.97


def test_second_chunk_of_samples_in_a_wav_is_read() -> None:
    samples = media.pcm(SECOND)
    assert_holds_both(media.wav(FIRST) + b"LIST\4\0\0\0INFO" + b"data" + struct.pack("<I", len(samples)) + samples)


@pytest.mark.parametrize("chunk", [b"LIST\4\0\0\0INFO", b"id3 \3\0\0\0abc\0", b"bext\xff\xff\0\0cut", b"\0" * 8, b"\0"])
def test_what_follows_the_samples_of_a_wav_is_no_sound(chunk: bytes) -> None:
    waveform, warnings = decode(media.wav(FIRST) + chunk)
    assert warnings == () and len(waveform) <= len(FIRST) + 4
    assert np.abs(waveform[: len(FIRST)] - media.low_cut(FIRST)).max() < 1e-3
    assert np.abs(waveform[len(FIRST) :]).max(initial=0) < 0.2


@pytest.mark.parametrize("name", ["aiff", "wma"])
def test_much_after_the_stated_end_of_a_container_is_a_warning(name: str) -> None:
    samples = np.random.default_rng(0).bytes(60_000)
    waveform, warnings = decode(recording(name) + samples)
    assert media.similarity(waveform, media.low_cut(FIRST)) > 0.95
    assert LEFTOVER_WARNING in warnings
    assert decode(recording(name) + bytes(60_000))[1] == ()  # padding
    assert decode(recording(name) + b"TAG" + bytes(125))[1] == ()


def test_aiff_that_states_half_is_a_warning() -> None:
    audio_bytes = recording("aiff")
    size = len(audio_bytes) // 2
    at = audio_bytes.index(b"SSND")
    halved = audio_bytes[:4] + struct.pack(">I", size) + audio_bytes[8 : at + 4]
    halved += struct.pack(">I", size - at) + audio_bytes[at + 8 :]
    waveform, warnings = decode(halved)
    assert len(waveform) < 0.6 * len(FIRST) and LEFTOVER_WARNING in warnings


def test_wav_cut_in_its_second_recording_gives_both_and_a_warning_with_what_is_missing() -> None:
    waveform, warnings = decode((recording("wav") + recording("wav", is_second=True))[: -SAMPLE_RATE * 2])
    assert len(waveform) == len(FIRST) + len(SECOND) - SAMPLE_RATE
    assert warnings == (DAMAGED_WARNING + " Не хватает примерно 1,0 с.",)


def test_recording_that_cannot_be_read_after_one_that_can_is_a_warning() -> None:
    broken = recording("m4a", is_second=True)
    broken = broken[: broken.index(b"moov") - 4]
    waveform, warnings = decode(recording("m4a") + broken)
    assert media.similarity(waveform, media.low_cut(FIRST)) > 0.97
    assert len(warnings) == 1 and warnings[0].startswith(DAMAGED_WARNING)


def test_file_of_very_many_recordings_is_a_warning() -> None:
    single = media.wav(media.voice(0.02))
    assert decode(single * 99)[1] == ()
    waveform, warnings = decode(single * 150)
    assert PARTS_WARNING in warnings and len(waveform) >= 100 * 320
