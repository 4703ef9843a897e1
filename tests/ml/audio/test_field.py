"""Recordings as they are made and sent: in antiphase, in many channels, tracks and containers, or cut."""

import re
import struct
from functools import cache

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.verdict import (
    ANTIPHASE_WARNING,
    CODEC_WARNING,
    DAMAGED_WARNING,
    TRACKS_WARNING,
)
from ml.errors import TooManyChannelsError, UndecodableAudioError
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.support import audio as media
from tests.support.speech import SAMPLES

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
pytestmark = pytest.mark.timeout(60)
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=60, timeout_s=30)
VOICE, OTHER = media.voice(5, seed=1), media.voice(5, seed=2)


def decode(audio_bytes: bytes, pcm_sample_rate: int | None = None) -> tuple[Waveform, tuple[str, ...]]:
    return media.decode_both_ways(DECODER, audio_bytes, pcm_sample_rate)


@cache
def made(*options: str) -> bytes:
    """Return the voice as ffmpeg writes it with these options."""
    return media.converted([media.wav(VOICE)], *options)


def assert_is_voice(audio_bytes: bytes, *warnings: str, at_least: float = 0.97) -> Waveform:
    waveform, found = decode(audio_bytes)
    assert found == warnings
    assert media.similarity(waveform, media.low_cut(VOICE)) > at_least
    return waveform


# Downmix


@pytest.mark.parametrize(
    "options",
    [
        ["-f", "wav"],
        ["-af", "pan=stereo|c0=c0|c1=-0.8*c0", "-f", "flac"],
        ["-c:a", "libvorbis", "-f", "ogg"],
        ["-ar", "8000", "-c:a", "pcm_alaw", "-f", "wav"],
    ],
)
def test_channels_in_antiphase_are_not_mixed_to_nothing(options: list[str]) -> None:
    pan = [] if "-af" in options else ["-af", "pan=stereo|c0=c0|c1=-1*c0"]
    waveform, warnings = decode(made(*pan, *options))
    assert warnings == (ANTIPHASE_WARNING,)
    assert max(media.similarity(sign * waveform, media.low_cut(VOICE)) for sign in (1, -1)) > 0.95
    assert np.std(waveform) > 0.8 * np.std(VOICE)


@pytest.mark.parametrize("pan", ["2.1|LFE=c0", "5.1|LFE=c0", "7.1|c5=c0", "quad|c3=c0", "stereo|c1=c0", "5.1|FC=c0"])
@pytest.mark.parametrize("container", ["wav", "flac", "mka"])
def test_every_channel_counts(pan: str, container: str) -> None:
    kind = {"mka": ["-c:a", "pcm_s16le", "-f", "matroska"]}.get(container, ["-f", container])
    waveform = assert_is_voice(made("-af", f"pan={pan}", *kind))
    assert np.std(waveform) > 0.4 * np.std(VOICE)


def test_channels_may_be_kept_apart() -> None:
    pair = media.converted([media.wav(VOICE), media.wav(OTHER)], "-filter_complex", "amerge", "-f", "wav")
    channels, warnings = media.decode_both_ways(DECODER, pair, separate_channels=True)
    assert channels.shape == (2, len(VOICE)) and warnings == ()
    assert np.abs(channels - np.stack([media.low_cut(VOICE), media.low_cut(OTHER)])).max() < 1e-3


def test_channels_in_antiphase_kept_apart_are_no_warning() -> None:
    channels, warnings = media.decode_both_ways(
        DECODER, made("-af", "pan=stereo|c0=c0|c1=-1*c0", "-f", "wav"), separate_channels=True
    )
    assert warnings == () and np.abs(channels[0] + channels[1]).max() < 1e-3


@pytest.mark.parametrize(("n_channels", "is_allowed"), [(8, True), (9, False), (16, False)])
def test_at_most_eight_channels_are_kept_apart(n_channels: int, is_allowed: bool) -> None:
    samples = np.repeat(VOICE[:, None], n_channels, axis=1)
    wide = media.wav_header(2 * samples.size, channels=n_channels) + media.pcm(samples.reshape(-1))
    assert_is_voice(wide)  # mixed, any number is allowed
    if is_allowed:
        assert media.decode_both_ways(DECODER, wide, separate_channels=True)[0].shape[0] == n_channels
    else:
        with pytest.raises(TooManyChannelsError, match=f"{n_channels} каналов"):
            media.decode_file(DECODER, wide, separate_channels=True)


def test_number_of_channels_is_known_before_the_first_block() -> None:
    pair = media.converted([media.wav(VOICE), media.wav(OTHER)], "-filter_complex", "amerge", "-f", "flac")
    with (SAMPLES / "demo.wav").open("rb") as file, DECODER.open(file, separate_channels=True) as decoding:
        assert decoding.channels == 1
    blocks, _ = media.decode_file(DECODER, pair, separate_channels=True)
    assert {block.shape[0] for block in blocks} == {2} and sum(block.shape[1] for block in blocks) == len(VOICE)


# Tracks


TRACKS = {
    "mp4": ["-c:a", "aac", "-f", "mp4"],
    "mp4, index first": ["-c:a", "aac", "-f", "mp4", "-movflags", "+faststart"],
    "mov": ["-c:a", "pcm_s16le", "-f", "mov"],
    "ogg": ["-c:a", "libopus", "-f", "ogg"],
    "matroska": ["-c:a", "flac", "-f", "matroska"],
    "asf": ["-c:a", "wmav2", "-f", "asf"],
}


def tracks(kind: str, *recordings: Waveform, options: tuple[str, ...] = ()) -> bytes:
    maps = [word for number in range(len(recordings)) for word in ("-map", str(number))]
    return media.converted([media.wav(one) for one in recordings], *maps, *options, *TRACKS[kind])


@pytest.mark.parametrize("kind", TRACKS)
def test_all_tracks_are_mixed(kind: str) -> None:
    waveform, warnings = decode(tracks(kind, VOICE, OTHER))
    assert warnings == ()
    assert media.similarity(waveform, media.low_cut(VOICE + OTHER)) > 0.95
    assert len(waveform) == pytest.approx(len(VOICE), abs=2048)


@pytest.mark.parametrize("kind", TRACKS)
def test_silent_first_track_hides_no_other(kind: str) -> None:
    assert_is_voice(tracks(kind, np.zeros_like(VOICE), VOICE), at_least=0.95)


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_tracks_may_be_kept_apart(kind: str) -> None:
    channels, warnings = media.decode_both_ways(DECODER, tracks(kind, VOICE, OTHER), separate_channels=True)
    assert channels.shape[0] == 2 and warnings == ()
    assert media.similarity(channels[0], media.low_cut(VOICE)) > 0.97
    assert media.similarity(channels[1], media.low_cut(OTHER)) > 0.97


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_track_that_begins_later_keeps_its_place(kind: str) -> None:
    delayed = media.converted(
        [media.wav(VOICE), media.wav(OTHER)],
        *("-filter_complex", "[1]asetpts=PTS+7/TB[late]", "-map", "0", "-map", "[late]", "-fps_mode", "passthrough"),
        *TRACKS[kind],
    )
    channels, warnings = media.decode_both_ways(DECODER, delayed, separate_channels=True)
    assert warnings == () and channels.shape[1] == pytest.approx(12 * SAMPLE_RATE, abs=3000)
    assert media.similarity(channels[1, -len(OTHER) :], media.low_cut(OTHER)) > 0.95
    assert np.abs(channels[1, : int(6.9 * SAMPLE_RATE)]).max() < 0.01


def test_tracks_that_lie_one_after_another_in_the_file_are_mixed() -> None:
    whole = tracks("mov", VOICE, OTHER, options=("-movflags", "+faststart"))
    at = [match.end() + 8 for match in re.finditer(b"stco", whole)]  # of the numbers of places
    counts = [struct.unpack_from(">I", whole, place - 4)[0] for place in at]
    places = [np.frombuffer(whole, ">u4", count, place) for place, count in zip(at, counts, strict=True)]
    start = whole.index(b"mdat") + 4
    order = np.argsort(np.concatenate(places))
    ends = np.append(np.sort(np.concatenate(places))[1:], len(whole))
    sizes = np.empty(len(order), int)
    sizes[order] = ends - np.sort(np.concatenate(places))
    chunks = [whole[place : place + size] for place, size in zip(np.concatenate(places), sizes, strict=True)]
    moved = bytearray(whole[:start])
    new_places = start + np.concatenate([[0], np.cumsum([len(chunk) for chunk in chunks])])[:-1]
    for place, count, first in zip(at, counts, np.cumsum([0, *counts]), strict=False):
        moved[place : place + 4 * count] = new_places[first : first + count].astype(">u4").tobytes()
    waveform, warnings = decode(bytes(moved) + b"".join(chunks))
    assert warnings == () and media.similarity(waveform, media.low_cut(VOICE + OTHER)) > 0.97


def test_tracks_in_antiphase_are_not_mixed_to_nothing() -> None:
    assert_is_voice(tracks("matroska", VOICE, -VOICE), ANTIPHASE_WARNING)


def test_of_translations_the_first_is_read_and_the_others_are_named() -> None:
    languages = ("-metadata:s:a:0", "language=rus", "-metadata:s:a:1", "language=eng")
    waveform, (warning,) = decode(tracks("matroska", VOICE, OTHER, options=languages))
    assert media.similarity(waveform, media.low_cut(VOICE)) > 0.97
    assert "rus" in warning and "пропущены: eng" in warning


def test_tracks_over_the_limit_are_left_out_with_a_warning() -> None:
    assert_is_voice(tracks("matroska", *[VOICE] * 8))
    assert_is_voice(tracks("matroska", *[VOICE] * 10), TRACKS_WARNING)


@pytest.mark.parametrize("unknown", [0, 1])
def test_track_of_an_unknown_codec_is_left_out_with_a_warning(unknown: int) -> None:
    parts = tracks("matroska", VOICE, VOICE, options=("-c:a", "libopus")).replace(b"A_FLAC", b"A_XXXX")
    audio_bytes = tracks("matroska", VOICE, VOICE).split(b"A_FLAC")
    marks = [b"A_FLAC", b"A_FLAC"]
    marks[unknown] = b"A_XXXX"
    assert_is_voice(audio_bytes[0] + marks[0] + audio_bytes[1] + marks[1] + audio_bytes[2], CODEC_WARNING)
    with pytest.raises(UndecodableAudioError, match="кодек"):
        decode(parts)


def test_picture_and_subtitles_are_passed_over() -> None:
    video = media.converted(
        [media.wav(VOICE)],
        *("-f", "lavfi", "-i", "color=size=64x64:duration=5", "-map", "0:a", "-map", "1:v", "-c:v", "mpeg4"),
        *("-c:a", "aac", "-f", "matroska"),
    )
    assert_is_voice(video)


# What is lost is named, and nothing else


@pytest.mark.parametrize("seed", range(30))
def test_flac_cut_anywhere_is_a_warning_with_what_is_missing(seed: int) -> None:
    whole = flac()
    size = int(np.random.default_rng(seed).integers(10_000, len(whole) - 2000))
    waveform, (warning,) = decode(whole[:size])
    missing_s = 5 - len(waveform) / SAMPLE_RATE
    assert warning.startswith(DAMAGED_WARNING)
    assert f"{missing_s:.1f} с".replace(".", ",") in warning or missing_s <= 0.1


@cache
def flac() -> bytes:
    return made("-f", "flac")


def test_whole_flac_and_one_of_unknown_length_give_no_warning() -> None:
    assert_is_voice(flac())
    unknown = bytearray(flac())
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    assert_is_voice(bytes(unknown))


GSM_FRAMES = np.random.default_rng(0).bytes(65 * 50)


def gsm(data: bytes) -> bytes:
    """Return a WAV file of GSM 06.10 with this data; its length is odd, so that it may be followed by a byte."""
    layout = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    head = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(head)) + head


@pytest.mark.parametrize(
    "name",
    [
        *("data size + 44", "data size + 8", "odd last byte", "GSM pad byte", "ID3 at the end", "ID3 on both sides"),
        *("cover of another type", "cover of another type in M4A", "zeros at the end", "APE tag at the end"),
    ],
)
def test_nothing_is_said_where_nothing_was_lost(name: str) -> None:
    wav, mp3 = media.wav(VOICE), made("-b:a", "64k", "-f", "mp3")
    png = media.made_by_ffmpeg(
        "-f", "lavfi", "-i", "color=size=16x16", "-frames:v", "1", "-c:v", "png", "-f", "image2pipe"
    )
    id3 = b"ID3\x04\0\0\0\0\x08\0" + bytes(1024)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 5032, 1, 0xA000_0000) + bytes(8)
    cover = b"APIC" + struct.pack(">IH", len(png) + 14, 0) + b"\0image/jpeg\0\x03\0" + png
    tag_bytes = len(cover)
    cover_tag = b"ID3\x03\0\0" + bytes([0, 0, tag_bytes >> 7, tag_bytes & 0x7F]) + cover
    audio_bytes = {
        "data size + 44": wav[:40] + struct.pack("<I", len(wav)) + wav[44:],
        "data size + 8": wav[:40] + struct.pack("<I", len(wav) - 36) + wav[44:],
        "odd last byte": wav[:40] + struct.pack("<I", len(wav) - 43) + wav[44:] + b"\1",
        "GSM pad byte": gsm(GSM_FRAMES + b"\0"),
        "ID3 at the end": mp3 + id3,
        "ID3 on both sides": id3 + mp3 + id3 + b"TAG" + bytes(125),
        "cover of another type": cover_tag + mp3,
        "cover of another type in M4A": mp4_with_cover(png),
        "zeros at the end": mp3 + bytes(3000),
        "APE tag at the end": mp3 + ape + np.random.default_rng(0).bytes(5000) + ape,
    }[name]
    waveform, warnings = decode(audio_bytes)
    assert warnings == ()
    if name != "GSM pad byte":
        assert media.similarity(waveform, media.low_cut(VOICE)) > 0.97
        assert len(waveform) == pytest.approx(len(VOICE), abs=1200)


def mp4_with_cover(png: bytes) -> bytes:
    """Return an M4A whose cover is a PNG that is said to be a JPEG."""
    wrong = media.converted(
        [media.wav(VOICE), png],
        *("-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v:0", "attached_pic", "-c:a", "aac", "-f", "ipod"),
    )
    at = wrong.index(b"data", wrong.index(b"covr"))
    return wrong[: at + 4] + struct.pack(">I", 13) + wrong[at + 8 :]  # 13: JPEG, 14: PNG


# A pipe and a file give the same: `decode` compares them in every test here


@pytest.mark.parametrize("tail", [b"", b"\x7f"])
def test_raw_samples_with_an_odd_last_byte_are_no_warning_either_way(tail: bytes) -> None:
    for sample_rate in (8000, 16_000, 44_100):
        samples = media.pcm(media.voice(3, sample_rate=sample_rate)) + tail
        waveform, warnings = decode(samples, sample_rate)
        assert warnings == () and len(waveform) == pytest.approx(3 * SAMPLE_RATE, abs=2)


@pytest.mark.parametrize("name", media.FORMATS)
@pytest.mark.parametrize("piece_bytes", [1, 97, 1 << 20])
def test_upload_in_pieces_of_any_size_gives_what_the_file_gives(name: str, piece_bytes: int) -> None:
    audio_bytes = media.encoded(media.segment(VOICE[: SAMPLE_RATE // 2]), name)
    expected, warnings = media.decode_file(DECODER, audio_bytes)
    found, upload_warnings = media.decode_upload(DECODER, audio_bytes, piece_bytes=piece_bytes)
    assert np.array_equal(np.concatenate(expected), np.concatenate(found)) and warnings == upload_warnings


# Containers


CONTAINERS = {
    "webm": ["-c:a", "libopus", "-f", "webm"],
    "live webm": ["-c:a", "libopus", "-f", "webm", "-live", "1"],
    "webm, vorbis": ["-c:a", "libvorbis", "-f", "webm"],
    "mkv, aac": ["-c:a", "aac", "-f", "matroska"],
    "mp4": ["-c:a", "aac", "-f", "mp4"],
    "mp4, opus": ["-c:a", "libopus", "-f", "mp4"],
    "mov": ["-c:a", "pcm_s16be", "-f", "mov"],
    "mov, alac": ["-c:a", "alac", "-f", "mov"],
    "3gp, aac": ["-c:a", "aac", "-f", "3gp"],
    "opus": ["-c:a", "libopus", "-f", "ogg"],
    "oga, flac": ["-c:a", "flac", "-f", "ogg"],
    "mp2": ["-c:a", "mp2", "-f", "mp2"],
    "aiff": ["-f", "aiff"],
    "aifc, A-law": ["-c:a", "pcm_alaw", "-f", "aiff"],
    "caf": ["-f", "caf"],
    "wma": ["-c:a", "wmav2", "-f", "asf"],
    "asf, mp3": ["-c:a", "libmp3lame", "-f", "asf"],
    "RF64": ["-rf64", "always", "-f", "wav"],
    "wav, 24 bits": ["-c:a", "pcm_s24le", "-f", "wav"],
    "wav, float": ["-c:a", "pcm_f32le", "-f", "wav"],
    "wav, ADPCM": ["-c:a", "adpcm_ms", "-f", "wav"],
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_is_decoded_whatever_its_name(name: str) -> None:
    waveform = assert_is_voice(made(*CONTAINERS[name]), at_least=0.96)
    assert len(waveform) == pytest.approx(len(VOICE), abs=2400)


@pytest.mark.parametrize(("codec", "container"), [("libopencore_amrnb", "3gp"), ("libopencore_amrnb", "amr")])
def test_speech_codecs_of_phones_are_decoded(codec: str, container: str) -> None:
    audio_bytes = made("-ar", "8000", "-c:a", codec, "-b:a", "12.2k", "-f", container)
    waveform, warnings = decode(audio_bytes)
    assert warnings == () and len(waveform) == pytest.approx(len(VOICE), abs=800)
    assert np.std(waveform) == pytest.approx(np.std(VOICE), rel=0.5)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_container_sent_as_raw_samples_is_decoded_as_what_it_is(name: str) -> None:
    if name == "wav":
        audio_bytes = made("-ac", "2", "-ar", "44100", "-f", "wav")
    else:
        audio_bytes = media.encoded(media.segment(VOICE), name)
    waveform, warnings = decode(audio_bytes, pcm_sample_rate=16_000)
    assert warnings == () and media.similarity(waveform, media.low_cut(VOICE)) > 0.97
