"""16 kHz mono 16-bit recordings are read without a decoder process, to the very samples the decoder gives."""

import struct
import tempfile
import threading

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.errors import AudioTooLongError, DecodingCancelledError
from ml.interfaces import Waveform
from tests.support import audio as media

DECODER = AudioDecoder(find_ffmpeg(None), 60.0, 30.0)
VOICE = media.voice(3.3)
WAV = media.wav(VOICE)


def decode(data: bytes, pcm_sample_rate: int | None = None, decoder: AudioDecoder = DECODER) -> tuple[bool, Waveform]:
    """Return whether no process was started, and the waveform."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with decoder.open(file, pcm_sample_rate) as decoding:
            waveform = np.concatenate(list(decoding))
            return decoding.pid == 0, waveform


def by_process(data: bytes, pcm_sample_rate: int | None = None) -> Waveform:
    """Return what the decoder process makes of the same bytes."""
    return np.concatenate(media.decode_upload(DECODER, data, pcm_sample_rate)[0])


def with_chunk(before_data: bytes) -> bytes:
    """Return the WAV with another chunk before its samples."""
    return WAV[:36] + before_data + WAV[36:]


PLAIN = {
    "wav": WAV,
    "wav with a chunk before its samples": with_chunk(b"LIST" + struct.pack("<I", 5) + b"INFOx\0"),
    "wav with a chunk after its samples": WAV + b"LIST" + struct.pack("<I", 4) + b"INFO",
    "wav that is cut short": WAV[:-20_001],
    "wav of unknown length": media.wav_header(0xFFFF_FFFF) + media.pcm(VOICE),
    "wav that states half": WAV[:40] + struct.pack("<I", len(media.pcm(VOICE)) // 2 + 1) + WAV[44:],
    "two in one": WAV + WAV,
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_wav_is_read_in_process_to_the_samples_of_the_decoder(name: str) -> None:
    in_process, waveform = decode(PLAIN[name])
    assert in_process
    np.testing.assert_array_equal(waveform, by_process(PLAIN[name]))


@pytest.mark.parametrize("tail", [b"", b"\x01"])
def test_raw_pcm_at_16_khz_is_read_in_process_to_the_samples_of_the_decoder(tail: bytes) -> None:
    in_process, waveform = decode(media.pcm(VOICE) + tail, 16_000)  # half a sample at the end is dropped
    assert in_process and len(waveform) == len(VOICE)
    np.testing.assert_array_equal(waveform, by_process(media.pcm(VOICE) + tail, 16_000))


@pytest.mark.parametrize(
    ("data", "pcm_sample_rate"),
    [
        (media.wav(media.voice(1, sample_rate=8000), 8000), None),
        (media.wav_header(len(media.pcm(VOICE)), channels=2) + media.pcm(VOICE), None),
        (media.encoded(media.segment(VOICE), "flac"), None),
        (media.pcm(media.voice(1, sample_rate=8000)), 8_000),
    ],
    ids=["8 kHz", "stereo", "flac", "8 kHz pcm"],
)
def test_everything_else_goes_to_the_decoder(data: bytes, pcm_sample_rate: int | None) -> None:
    in_process, waveform = decode(data, pcm_sample_rate)
    assert not in_process and len(waveform) > 0


def test_limits_and_cancellation_hold_in_process_too() -> None:
    with pytest.raises(AudioTooLongError):
        decode(WAV, decoder=AudioDecoder(DECODER.ffmpeg, 2.0, 30.0))
    cancelled = threading.Event()
    with tempfile.TemporaryFile() as file:
        file.write(WAV)
        with DECODER.open(file, cancelled=cancelled) as decoding:
            blocks = iter(decoding)
            next(blocks)
            cancelled.set()
            with pytest.raises(DecodingCancelledError):
                next(blocks)
