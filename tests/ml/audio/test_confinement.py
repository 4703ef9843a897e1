"""Nothing within a container makes the decoder open anything but its input; without confinement it would."""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import CONTAINERS, find_ffmpeg
from ml.errors import AudioError
from ml.interfaces import Waveform
from tests.ml.audio import test_decoder_faults
from tests.ml.audio.test_decoder_faults import Canary, ffconcat, hls
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
canary, locks = test_decoder_faults.canary, test_decoder_faults.locks
pytestmark = pytest.mark.timeout(60)
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=60, timeout_s=30)
VOICE, SECRET = media.voice(2, seed=1), media.voice(2, seed=2)
WRITING = {
    "mov": ["-c:a", "pcm_s16le", "-f", "mov"],
    "mp4": ["-c:a", "aac", "-f", "mp4"],
    "3gp": ["-c:a", "aac", "-f", "3gp"],
    "matroska": ["-c:a", "flac", "-f", "matroska"],
    "webm": ["-c:a", "libopus", "-f", "webm"],
    "aiff": ["-f", "aiff"],
    "caf": ["-f", "caf"],
    "amr": ["-ar", "8000", "-c:a", "libopencore_amrnb", "-f", "amr"],
    "asf": ["-c:a", "wmav2", "-f", "asf"],
    "ogg": ["-c:a", "libopus", "-f", "ogg"],
}


def recording(kind: str) -> bytes:
    return media.converted([media.wav(VOICE)], *WRITING[kind])


def decode(audio_bytes: bytes) -> Waveform:
    """Return what comes of the bytes both ways; nothing if they are refused."""
    try:
        return media.decode_both_ways(DECODER, audio_bytes)[0]
    except AudioError:
        return np.zeros(1, np.float32)


def holds(waveform: Waveform, sound: Waveform) -> bool:
    return bool(waveform.any()) and media.similarity(waveform, media.low_cut(sound)) > 0.8


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.raw"
    path.write_bytes(media.pcm(SECRET))
    return path


def test_every_container_that_is_decoded_is_among_the_hostile_cases() -> None:
    beside = {"mp3", "wav", "flac", "aac"}  # in test_decoder_faults.py, as bare playlists
    own = {"mov": "mov", "mp4": "mov", "3gp": "mov", "webm": "matroska"}
    assert {own.get(kind, kind) for kind in WRITING} | beside == set(CONTAINERS.split(","))


@pytest.mark.parametrize("playlist", [hls, ffconcat])
@pytest.mark.parametrize("kind", WRITING)
def test_playlist_in_a_container_makes_no_request(kind: str, playlist, canary: Canary, locks: None) -> None:
    whole = recording(kind)
    text = playlist(canary.address)
    for audio_bytes in (whole[:8] + text, whole[:64] + text, whole + text, text + whole, replaced_sound(whole, text)):
        decode(audio_bytes)
    assert canary.requests == []


def replaced_sound(whole: bytes, text: bytes) -> bytes:
    """Return the recording with this text in place of its second half."""
    half = len(whole) // 2
    return whole[:half] + (text * (half // len(text) + 1))[: len(whole) - half]


@pytest.mark.parametrize("playlist", [hls, ffconcat])
@pytest.mark.parametrize("kind", WRITING)
def test_playlist_in_a_container_reads_no_file(kind: str, playlist, secret: Path, locks: None) -> None:
    whole = recording(kind)
    wav = secret.with_suffix(".wav")
    wav.write_bytes(media.wav(SECRET))
    for audio_bytes in (whole[:64] + playlist(str(wav)), playlist(str(wav)) + whole):
        assert not holds(decode(audio_bytes), SECRET)


# References of a MOV to other files


def boxes(data: bytes, start: int, end: int) -> list[tuple[bytes, int, int]]:
    found = []
    while start + 8 <= end:
        (length,) = struct.unpack_from(">I", data, start)
        found.append((data[start + 4 : start + 8], start, start + length))
        start += length
    return found


def with_box_replaced(data: bytes, path: list[bytes], content: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Return the file with the content of the box at `path` replaced, and the lengths of those around it set right."""
    for name, begin, finish in boxes(data, start, len(data) if end is None else end):
        if name != path[0]:
            continue
        if len(path) == 1:
            return data[:begin] + struct.pack(">I", 8 + len(content)) + name + content + data[finish:]
        inner = with_box_replaced(data, path[1:], content, begin + 8, finish)
        length = finish - begin + len(inner) - len(data)
        return inner[:begin] + struct.pack(">I", length) + inner[begin + 4 :]
    raise ValueError(path[0])


def alias(path: Path) -> bytes:
    """Return a Macintosh alias record, as a reference of a MOV holds it, to this file."""
    volume, name = b"v", path.name.encode()
    target = volume + str(path).replace("/", ":").encode()
    fixed = bytes(10) + bytes([len(volume)]) + volume.ljust(27, b"\0") + bytes(12)
    fixed += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    fields = struct.pack(">HH", 2, len(target)) + target + bytes(len(target) % 2)
    return fixed + fields + struct.pack(">hH", -1, 0)


def referring(kind: str, path: Path) -> bytes:
    """Return a MOV whose samples are in another file."""
    content = {
        "alias": alias(path),
        "address": path.as_uri().encode() + b"\0",
        "path": str(path).encode() + b"\0",
    }[kind]
    name = b"alis" if kind == "alias" else b"url "
    entry = struct.pack(">I", 12 + len(content)) + name + bytes(4) + content
    whole = media.converted([media.wav(VOICE)], *WRITING["mov"])
    moved = with_box_replaced(
        whole, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"], struct.pack(">II", 0, 1) + entry
    )
    at = moved.index(b"stco") + 12
    assert at > moved.index(b"mdat")  # the index is last: no place before it has moved
    (count,) = struct.unpack_from(">I", moved, at - 4)
    places = np.frombuffer(moved, ">u4", count, at)
    return moved[:at] + (places - places[0]).astype(">u4").tobytes() + moved[at + 4 * count :]


@pytest.mark.parametrize("kind", ["alias", "address", "path"])
def test_mov_that_refers_to_another_file_does_not_read_it(kind: str, secret: Path, locks: None) -> None:
    assert not holds(decode(referring(kind, secret)), SECRET)


def test_mov_that_refers_to_another_file_reads_it_without_confinement(secret: Path) -> None:
    path = secret.with_name("refers.mov")
    path.write_bytes(referring("alias", secret))
    free = ["-enable_drefs", "1", "-use_absolute_path", "1", "-protocol_whitelist", "file"]
    command = [str(DECODER.ffmpeg), "-nostdin", "-v", "error", *free, "-i", str(path), "-f", "s16le", "-"]
    sound = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).stdout
    assert sound[:10_000] == media.pcm(SECRET)[:10_000]


# Matroska


def test_attachments_are_neither_opened_nor_written(secret: Path, canary: Canary, locks: None) -> None:
    folder = secret.parent
    (folder / "sound.wav").write_bytes(media.wav(VOICE))
    (folder / "list.m3u8").write_bytes(hls(canary.address))
    (folder / "other.mka").write_bytes(media.converted([media.wav(SECRET)], *WRITING["matroska"]))
    attachments: list[str] = []
    for number, name in enumerate(("list.m3u8", "other.mka")):
        attachments += ["-attach", str(folder / name), f"-metadata:s:t:{number}", "mimetype=audio/x-mpegurl"]
        attachments += [f"-metadata:s:t:{number}", "filename=../written"]
    path = folder / "attached.mka"
    writing = ["-c:a", "flac", "-f", "matroska", "-y", str(path)]
    media.made_by_ffmpeg("-i", str(folder / "sound.wav"), *attachments, *writing, "-f", "null")
    before = set(folder.rglob("*")) | set(folder.parent.glob("*"))
    assert holds(decode(path.read_bytes()), VOICE)
    assert canary.requests == [] and set(folder.rglob("*")) | set(folder.parent.glob("*")) == before


@pytest.mark.parametrize("element", ["3e83bb", "3c83ab"])  # NextFilename, PrevFilename
def test_segments_that_name_other_files_are_not_followed(element: str, secret: Path, locks: None) -> None:
    other = secret.with_name("next.mka")
    other.write_bytes(media.converted([media.wav(SECRET)], *WRITING["matroska"]))
    target = str(other).encode()
    names = bytes.fromhex(element) + bytes([0x40, len(target)]) + target
    info = bytes.fromhex("1549a966") + struct.pack(">H", 0x4000 | len(names)) + names
    whole = media.converted([media.wav(VOICE)], *WRITING["matroska"], "-live", "1")
    at = whole.index(bytes.fromhex("1549a966"))  # before the segment's own information
    waveform = decode(whole[:at] + info + whole[at:])
    assert holds(waveform, VOICE) and len(waveform) <= len(VOICE) + 100
