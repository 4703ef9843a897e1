"""A recording that breaks off carries a warning in every format that lets it be known, and no other one does."""

import struct
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ml.audio.truncation import ends_early
from tests.support import audio as media

DURATION_S = 6
KEPT_SHARES = (0.3, 0.61, 0.9, 0.97)
WITHOUT_COUNT = "mp3 without a count"


def is_cut(audio_bytes: bytes) -> bool:
    """What ends_early says of a file with these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        file.flush()
        return ends_early(file.fileno())


@cache
def made(*options: str) -> bytes:
    """A recording as ffmpeg writes it with these options, into a file that it may go back in."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.wav").write_bytes(media.wav(media.voice(DURATION_S)))
        written = Path(folder) / "written"
        media.made_by_ffmpeg("-i", f"{folder}/a.wav", *options, "-y", str(written), "-f", "null")
        return written.read_bytes()


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
        case _ if name == WITHOUT_COUNT:
            return made("-b:a", "64k", "-write_xing", "0", "-f", "mp3")
        case _:
            return media.encoded(media.segment(media.voice(DURATION_S)), name)


def with_older_count(frames: bytes) -> bytes:
    """Frames after one that counts them as Fraunhofer's encoder did."""
    first = frames[:4] + bytes(32) + b"VBRI" + bytes(6) + struct.pack(">I", len(frames) + 288) + bytes(238)
    return first + frames


NAMES = [
    *("mp3", "variable rate", "stereo", "8 kHz", "with a picture", "older count", WITHOUT_COUNT),
    *("wav", "RF64", "much before the sound", "ogg", "opus", "m4a", "m4a-index-first", "in fragments"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_recording_is_not_taken_for_a_part(name: str) -> None:
    assert not is_cut(recording(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", KEPT_SHARES)
def test_a_part_of_a_recording_is_known_for_one(name: str, share: float) -> None:
    audio_bytes = recording(name)
    assert is_cut(audio_bytes[: int(len(audio_bytes) * share)])
    assert is_cut(audio_bytes[:-1])


def test_a_recording_cut_between_two_frames_shows_by_its_count_alone() -> None:
    counted, uncounted = recording("8 kHz"), made("-ar", "8000", "-b:a", "16k", "-write_xing", "0", "-f", "mp3")
    frame_bytes = 72_000 * 16 // 8000  # of each, at a constant rate
    assert is_cut(counted[:-frame_bytes])
    assert not is_cut(uncounted[:-frame_bytes])


JPEG = b"\xff\xd8\xff\xe0" + b"\xff\xfb\x90\x64" * 3 + np.random.default_rng(0).bytes(60_000)


@pytest.mark.parametrize("name", ["mp3", WITHOUT_COUNT, "m4a", "wav"])
@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), b"APETAGEX" + bytes(24) + JPEG, bytes(1000)], ids=["ID3", "picture", "nothing"]
)
def test_what_follows_the_sound_is_not_missed_sound(name: str, tag: bytes) -> None:
    assert not is_cut(recording(name) + tag)


EMPTY_PARTS = {
    "ID3": b"ID3\x04\0\0\0\0\0\0",
    "MP4": b"\0\0\0\x08free",
    "MP4, long": b"\0\0\0\x01free\0\0\0\0\0\0\0\x10",
    "WAV": b"junk\0\0\0\0",
}


@pytest.mark.parametrize("name", EMPTY_PARTS)
def test_millions_of_empty_parts_are_not_all_looked_at(name: str) -> None:
    start = b"RIFF\xff\xff\xff\xffWAVE" if name == "WAV" else b""
    audio_bytes, started_s = start + EMPTY_PARTS[name] * 3_000_000, time.process_time()
    assert not is_cut(audio_bytes)
    assert time.process_time() - started_s < 1
