"""A recording that breaks off carries a warning in every format that shows it, and no other one does."""

import struct
import tempfile
from functools import cache

import numpy as np
import pytest

from ml.audio.intake import scan
from ml.audio.recording import read_at
from ml.audio.truncation import Statement, statement
from tests.support import audio as media

DURATION_S = 6
KEPT_SHARES = (0.3, 0.61, 0.9, 0.97)
WITHOUT_COUNT = "mp3 without a count"


def statements(audio_bytes: bytes) -> list[Statement]:
    """Return what the recordings in a file with these bytes state."""
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        file.flush()
        descriptor = file.fileno()
        parts = scan(descriptor, is_pcm=False).parts
        return [statement(lambda offset, n_bytes: read_at(descriptor, offset, n_bytes), part) for part in parts]


def is_cut(audio_bytes: bytes) -> bool:
    (stated,) = statements(audio_bytes)
    return stated.is_cut


@cache
def made(*options: str) -> bytes:
    """Return a recording as ffmpeg writes it with these options, into a file in which it can move."""
    return media.converted([media.wav(media.voice(DURATION_S))], *options)


@cache
def recording(name: str) -> bytes:
    match name:
        case "variable rate":
            return made("-q:a", "4", "-f", "mp3")
        case "stereo":
            return made("-ac", "2", "-ar", "44100", "-b:a", "128k", "-f", "mp3")
        case "8 kHz":
            return made("-ar", "8000", "-b:a", "16k", "-f", "mp3")
        case "with a picture":
            tag = b"ID3\x04\0\0" + bytes([0, 6, 0x30, 0]) + bytes(6 * 2**14 + 0x30 * 2**7)
            return tag + made("-b:a", "64k", "-f", "mp3", "-id3v2_version", "0")
        case "in fragments":
            return made(
                "-b:a", "96k", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "1000000", "-f", "mp4"
            )
        case "RF64":
            return made("-rf64", "always", "-f", "wav")
        case "much before the sound":
            plain = media.wav(media.voice(DURATION_S))
            return plain[:36] + b"LIST" + struct.pack("<I", 70_000) + bytes(70_000) + plain[36:]
        case "older count":
            return with_older_count(made("-b:a", "64k", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3"))
        case "webm" | "mka" | "caf" | "aiff" | "asf":
            codec = {"webm": "libopus", "mka": "flac", "asf": "wmav2"}.get(name)
            container = {"mka": "matroska"}.get(name, name)
            return made(*(["-c:a", codec] if codec else []), "-f", container)
        case _ if name == WITHOUT_COUNT:
            return made("-b:a", "64k", "-write_xing", "0", "-f", "mp3")
        case _:
            return media.encoded(media.segment(media.voice(DURATION_S)), name)


def with_older_count(frames: bytes) -> bytes:
    """Return frames after one that counts them as Fraunhofer's encoder did."""
    first = frames[:4] + bytes(32) + b"VBRI" + bytes(6) + struct.pack(">I", len(frames) + 288) + bytes(238)
    return first + frames


NAMES = [
    *("mp3", "variable rate", "stereo", "8 kHz", "with a picture", "older count", WITHOUT_COUNT),
    *("wav", "RF64", "much before the sound", "ogg", "opus", "m4a", "m4a-index-first", "in fragments"),
    *("webm", "mka", "caf", "aiff", "asf"),
]


@pytest.mark.parametrize("name", NAMES)
def test_whole_recording_is_not_taken_for_a_part(name: str) -> None:
    assert not is_cut(recording(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", KEPT_SHARES)
def test_part_of_a_recording_is_known_for_one(name: str, share: float) -> None:
    audio_bytes = recording(name)
    found = statements(audio_bytes[: int(len(audio_bytes) * share)])
    assert all(stated.is_cut for stated in found)
    assert len(found) == 1 or name == "with a picture"  # cut before there is any sound


@pytest.mark.parametrize("name", ["wav", "RF64", "m4a-index-first", "mp3", "webm", "aiff", "asf"])
def test_what_is_missing_is_known_where_the_whole_is_stated(name: str) -> None:
    audio_bytes = recording(name)
    (stated,) = statements(audio_bytes[: len(audio_bytes) * 2 // 3])
    assert stated.missing_share == pytest.approx(0.5, abs=0.02)


def test_flac_states_its_duration() -> None:
    audio_bytes = media.encoded(media.segment(media.voice(DURATION_S)), "flac")
    (stated,) = statements(audio_bytes[: len(audio_bytes) // 2])
    assert stated == Statement(duration_s=DURATION_S)


def test_recording_cut_between_two_frames_shows_by_its_count_alone() -> None:
    counted, uncounted = recording("8 kHz"), made("-ar", "8000", "-b:a", "16k", "-write_xing", "0", "-f", "mp3")
    frame_bytes = 72_000 * 16 // 8000  # of each, at a constant rate
    assert is_cut(counted[:-frame_bytes])
    assert not is_cut(uncounted[:-frame_bytes])


JPEG = b"\xff\xd8\xff\xe0" + b"\xff\xfb\x90\x64" * 3 + np.random.default_rng(0).bytes(60_000)
APE_HEADER = b"APETAGEX" + struct.pack("<IIII", 2000, len(JPEG) + 32, 1, 0xA000_0000) + bytes(8)
TAGS = {"ID3": b"TAG" + bytes(125), "picture": APE_HEADER + JPEG + APE_HEADER, "nothing": bytes(1000)}


@pytest.mark.parametrize("name", ["mp3", WITHOUT_COUNT, "m4a", "wav"])
@pytest.mark.parametrize("tag", TAGS)
def test_what_follows_the_sound_is_not_missed_sound(name: str, tag: str) -> None:
    assert not any(stated.is_cut for stated in statements(recording(name) + TAGS[tag]))


@pytest.mark.parametrize("excess_bytes", [44, 8, 1])
def test_length_that_counts_the_header_is_no_missing_sound(excess_bytes: int) -> None:
    whole = media.wav(media.voice(1))
    miscounted = whole[:40] + struct.pack("<I", len(whole) - 44 + excess_bytes) + whole[44:]
    assert not is_cut(miscounted)


EMPTY_PARTS = {
    "ID3": b"ID3\x04\0\0\0\0\0\0",
    "MP4": b"\0\0\0\x08free",
    "MP4, long": b"\0\0\0\x01free\0\0\0\0\0\0\0\x10",
    "WAV": b"junk\0\0\0\0",
    "Matroska": b"\xec\x80",
    "Ogg": b"OggS\0" + bytes(22),
    "joined WAV": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\2\0\0\0ab",
}
BEGINNINGS = {"WAV": b"RIFF\xff\xff\xff\xffWAVE", "Matroska": bytes.fromhex("1a45dfa380 18538067 01ffffffffffffff")}


@pytest.mark.parametrize("name", EMPTY_PARTS)
def test_millions_of_empty_parts_are_not_all_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.audio.parts.MAX_ELEMENTS", 10_000)
    monkeypatch.setattr("ml.audio.scanners.MAX_ELEMENTS", 10_000)
    looked_at = 0

    def count(scanner: object, *arguments: object) -> object:
        nonlocal looked_at
        looked_at += 1
        return original(scanner, *arguments)

    from ml.audio import intake, scanners

    kind = intake.scanner_for((BEGINNINGS.get(name, b"") + EMPTY_PARTS[name] * 9)[:64], False)
    method = "_tag_bytes" if isinstance(kind, scanners.TagScanner) else "_element"
    original = getattr(type(kind), method)
    monkeypatch.setattr(type(kind), method, count)
    with tempfile.TemporaryFile() as file:
        file.write(BEGINNINGS.get(name, b"") + EMPTY_PARTS[name] * 30_000)
        file.flush()
        assert len(scan(file.fileno(), is_pcm=False).parts) <= 101
    assert 0 < looked_at <= 10_001
