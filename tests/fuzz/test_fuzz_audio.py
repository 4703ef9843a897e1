"""Decoding arbitrary bytes ends in a waveform or in an AudioError, and leaves nothing behind."""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.intake import Intake, scan
from ml.audio.recording import read_at
from ml.audio.truncation import statement
from ml.errors import AudioError
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.fuzz.mutations import SEEDS, arbitrary, damaged, seed
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)

LONGEST_S = 30
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=LONGEST_S, timeout_s=20)
RATES = (
    st.integers(-(2**31), 2**31 - 1) | st.integers(1000, 384_000) | st.sampled_from((999, 1000, 8000, 384_000, 384_001))
)
QUICK = settings(settings.get_profile("fuzz"), max_examples=40)
HEADERS = settings(settings.get_profile("fuzz"), max_examples=300)
LONG = settings(settings.get_profile("fuzz"), max_examples=1500, derandomize=False)
Decode = Callable[[AudioDecoder, bytes], tuple[list[Waveform], tuple[str, ...]]]
ANY_BYTES = damaged() | damaged() | arbitrary()


def decode(audio_bytes: bytes, pcm_sample_rate: int | None = None) -> None:
    """Decode, and check the waveform or the error."""
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        try:
            waveform = DECODER.decode_all(file, pcm_sample_rate)
        except AudioError as error:
            event(error.code)
            message = str(error)
            assert message and "\n" not in message and "ffmpeg" not in message and tempfile.gettempdir() not in message
            return
    event("waveform")
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 0 < len(waveform) <= LONGEST_S * SAMPLE_RATE
    assert np.all(np.abs(waveform) <= 1)


def result(way: Decode, audio_bytes: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the samples and the warnings of one way to decode, or its error."""
    try:
        blocks, warnings = way(DECODER, audio_bytes)
    except AudioError as error:
        return b"", (error.code, str(error))
    return np.concatenate(blocks).tobytes(), warnings


def is_truncated(audio_bytes: bytes) -> bool:
    """Return whether a recording in these bytes states that it is cut, after checking where they were found."""
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        file.flush()
        descriptor = file.fileno()
        parts = scan(descriptor, is_pcm=False).parts
        assert os.fstat(descriptor).st_size == len(audio_bytes)  # only read
        stated = [statement(lambda offset, n_bytes: read_at(descriptor, offset, n_bytes), part) for part in parts]
    ends = [0, *(part.end for part in parts)]
    for before, part in zip(ends, parts, strict=False):
        assert before <= part.start < part.end <= len(audio_bytes) and part.stated_end >= part.end
    first = audio_bytes[parts[0].start : parts[0].end] if parts else b""
    passed = uploaded(audio_bytes)
    assert first.startswith(passed) if parts and parts[0].needs_file else first == passed
    return any(one.is_cut for one in stated)


def uploaded(audio_bytes: bytes) -> bytes:
    """Return what a decoder is given of these bytes while they arrive in pieces."""
    intake, passed = Intake(is_pcm=False), []
    for start in range(0, len(audio_bytes), 777):
        if not intake.is_over:
            passed.append(intake.push(audio_bytes[start : start + 777]))
    return b"".join([*passed, *([] if intake.is_over else [intake.finish()])])


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_every_seed_is_a_good_recording(path: Path) -> None:
    audio_bytes = seed(path)
    assert len(audio_bytes) < 20 * 1024
    assert not is_truncated(audio_bytes)
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        assert math.isclose(len(DECODER.decode_all(file)) / SAMPLE_RATE, 0.4, abs_tol=0.2)


@HEADERS
@given(ANY_BYTES)
@example(b"RIFF\0\0\0\0WAVE")
@example(b"OggS")
@example(b"OggS\0" + bytes(22))
@example(b"OggS\0" + bytes(21) + b"\xff")
def test_headers_with_any_values_are_read(audio_bytes: bytes) -> None:
    is_truncated(audio_bytes)


@QUICK
@given(ANY_BYTES)
def test_any_bytes_end_in_a_waveform_or_in_an_audio_error(audio_bytes: bytes) -> None:
    decode(audio_bytes)


@QUICK
@given(ANY_BYTES)
def test_upload_of_any_bytes_ends_as_their_file_does(audio_bytes: bytes) -> None:
    assert result(media.decode_upload, audio_bytes) == result(media.decode_file, audio_bytes)


@QUICK
@given(
    st.binary(max_size=3000), st.integers(-(2**31), 2**31 - 1) | st.sampled_from((999, 1000, 8000, 384_000, 384_001))
)
def test_any_bytes_as_raw_pcm_at_any_rate_end_in_a_waveform_or_in_an_audio_error(samples: bytes, rate: int) -> None:
    decode(samples, rate)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@LONG
@given(ANY_BYTES)
def test_many_more_bytes_end_in_a_waveform_or_in_an_audio_error(audio_bytes: bytes) -> None:
    is_truncated(audio_bytes)
    decode(audio_bytes)
    assert result(media.decode_upload, audio_bytes) == result(media.decode_file, audio_bytes)
