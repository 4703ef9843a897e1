"""Faulty recordings, and some that only look faulty; each is made once and cached."""

from functools import cache

import numpy as np

from tests.support import audio as media

CONTROL_S = 0.5


@cache
def control() -> bytes:
    """Return a good recording of CONTROL_S."""
    return media.wav(media.voice(CONTROL_S))


@cache
def recording(name: str, duration_s: float = 10) -> bytes:
    """Return a good recording in the format called `name` in media.FORMATS."""
    return media.encoded(media.segment(media.voice(duration_s)), name)


@cache
def random_bytes() -> bytes:
    return np.random.default_rng(3).bytes(30_000)


def text() -> bytes:
    return "Это не звук, а текст.\n".encode() * 100


@cache
def wav_claiming(
    sample_rate: int = media.SAMPLE_RATE, channels: int = 1, data_bytes: int = 20_000, duration_s: float = 0.625
) -> bytes:
    """Return a WAV file with these values in its header, true or not."""
    header = media.wav_header(data_bytes, sample_rate=sample_rate, channels=channels)
    return header + media.pcm(media.voice(duration_s))


@cache
def opus_bomb() -> bytes:
    """Return ten hours in little more than a megabyte."""
    return media.opus_bomb(10 * 3600)


@cache
def m4a_without_index() -> bytes:
    audio_bytes = recording("m4a")
    return audio_bytes[: audio_bytes.index(b"moov") - 4]


def truncated(name: str, share: float = 0.6) -> bytes:
    """Return the first part of a good recording of 10 s."""
    audio_bytes = recording(name)
    return audio_bytes[: int(len(audio_bytes) * share)]


@cache
def mp3_with_junk_inside() -> bytes:
    audio_bytes = recording("mp3")
    middle = len(audio_bytes) // 2
    return audio_bytes[:middle] + np.random.default_rng(15).bytes(20_000) + audio_bytes[middle:]


@cache
def video_without_sound() -> bytes:
    picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=0.5", "-c:v", "mpeg4"]
    return media.made_by_ffmpeg(*picture, "-movflags", "frag_keyframe+empty_moov", "-f", "mp4")


@cache
def silence(duration_s: float = 3) -> bytes:
    return media.wav(np.zeros(int(duration_s * media.SAMPLE_RATE), np.float32))


def playlist(target: str) -> bytes:
    """Return an HLS playlist of one part."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n".encode()


def concat_list(target: str) -> bytes:
    """Return a list of one file for ffmpeg's concat demuxer."""
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()
