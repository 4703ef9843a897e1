"""Recordings that are in order come out of the decoder as they went in."""

import io
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.process import WATCH_INTERVAL_S
from ml.errors import AudioTooLongError, EmptyAudioError, InvalidSampleRateError
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=60, timeout_s=30)


def decode(audio_bytes: bytes, decoder: AudioDecoder = DECODER, pcm_sample_rate: int | None = None) -> Waveform:
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        return decoder.decode_all(file, pcm_sample_rate)


def correlation(left: Waveform, right: Waveform) -> float:
    n_common = min(len(left), len(right))
    return float(np.corrcoef(left[:n_common], right[:n_common])[0, 1])


@pytest.mark.parametrize("name", media.FORMATS)
def test_every_format_decodes_as_pydub_decodes_it(name: str) -> None:
    audio_bytes = media.encoded(media.segment(media.voice(5)), name)
    waveform, expected = decode(audio_bytes), media.low_cut(media.decoded_by_pydub(audio_bytes, name))
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - len(expected)) <= 0.05 * SAMPLE_RATE
    assert correlation(waveform, expected) > 0.999


@pytest.mark.parametrize("name", media.FORMATS)
def test_every_format_decodes_to_the_sound_it_was_made_from(name: str) -> None:
    sound = media.voice(5)
    waveform, original = decode(media.encoded(media.segment(sound), name)), media.low_cut(sound)
    # Bare AAC frames (ADTS) have nowhere to say that the first 1024 or 2048 samples are the coder's run-up, so they
    # come out as silence before the sound; the other formats state it, and the decoder removes it.
    run_up = int(np.argmax(np.correlate(waveform[: 2 * SAMPLE_RATE], original[:SAMPLE_RATE], "valid")))
    assert run_up <= (0.128 if name == "aac" else 0.003) * SAMPLE_RATE
    assert abs(len(waveform) - run_up - len(original)) <= 0.064 * SAMPLE_RATE
    assert correlation(waveform[run_up:], original) > 0.99


def test_index_of_an_m4a_is_where_the_test_files_say() -> None:
    recording = media.segment(media.voice(2))
    last, first = media.encoded(recording, "m4a"), media.encoded(recording, "m4a-index-first")
    assert last.index(b"moov") > last.index(b"mdat")
    assert first.index(b"moov") < first.index(b"mdat")


def test_good_file_gives_no_warning() -> None:
    for name in media.FORMATS:
        file_bytes = media.encoded(media.segment(media.voice(3)), name)
        with tempfile.TemporaryFile() as file:
            file.write(file_bytes)
            with DECODER.open(file) as decoding:
                assert sum(map(len, decoding)) > 0
                assert decoding.warnings == (), name


def test_stereo_becomes_the_mean_of_both_sides() -> None:
    left, right = media.voice(3, seed=1), media.voice(3, seed=2)
    both = np.stack([left, right], axis=1).reshape(-1)
    audio_bytes = media.wav_header(len(both) * 2, channels=2) + media.pcm(both)
    assert np.abs(decode(audio_bytes) - media.low_cut((left + right) / 2)).max() < 1e-3


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100, 48_000])
def test_any_sample_rate_becomes_16_khz(sample_rate: int) -> None:
    waveform = decode(media.wav(media.voice(3, sample_rate=sample_rate), sample_rate))
    assert abs(len(waveform) - 3 * SAMPLE_RATE) <= 2
    assert correlation(waveform, media.low_cut(media.voice(3))) > 0.99


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 48_000])
def test_raw_pcm_is_read_at_the_rate_given(sample_rate: int) -> None:
    waveform = decode(media.pcm(media.voice(3, sample_rate=sample_rate)), pcm_sample_rate=sample_rate)
    assert abs(len(waveform) - 3 * SAMPLE_RATE) <= 2
    assert correlation(waveform, media.low_cut(media.voice(3))) > 0.99


@pytest.mark.parametrize("header", [b"#EXTM3U\n", b"RIFF\0\0\0\0WAVE", b"OggS", b"ffconcat version 1.0\n"])
def test_raw_pcm_that_looks_like_a_container_is_still_samples(header: bytes) -> None:
    header += b"\0" * (len(header) % 2)
    waveform = decode(header + media.pcm(media.voice(2)), pcm_sample_rate=SAMPLE_RATE)
    assert len(waveform) == 2 * SAMPLE_RATE + len(header) // 2


@pytest.mark.parametrize("sample_rate", [-1, 0, 1, 999, 384_001, 2**31 - 1])
def test_impossible_rate_for_raw_pcm_is_refused(sample_rate: int) -> None:
    with pytest.raises(InvalidSampleRateError, match=f"sample_rate = {sample_rate} Гц"):
        decode(media.pcm(media.voice(1)), pcm_sample_rate=sample_rate)


def test_sound_is_scaled_to_one() -> None:
    samples = np.array([0, 16384, 0, -16384] * 1000, "<i2")
    waveform = decode(media.wav_header(8000) + samples.tobytes())
    np.testing.assert_allclose(waveform, np.tile([0, 0.5, 0, -0.5], 1000), atol=0.02)  # 4 kHz


def test_digital_silence_is_sound_all_zero() -> None:
    waveform = decode(media.wav(np.zeros(5 * SAMPLE_RATE, np.float32)))
    assert len(waveform) == 5 * SAMPLE_RATE and not waveform.any()


@pytest.mark.parametrize("file_name", ["speech.mp3", "speech.txt", "speech", "-i"])
def test_name_of_the_file_does_not_matter(tmp_path: Path, file_name: str) -> None:
    path = tmp_path / file_name
    path.write_bytes(media.encoded(media.segment(media.voice(2)), "flac"))
    with path.open("rb") as file:
        assert len(DECODER.decode_all(file)) == 2 * SAMPLE_RATE


def test_sound_arrives_in_blocks_of_a_second_and_is_counted() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(media.wav(media.voice(3.5)))
        with DECODER.open(file) as decoding:
            assert decoding.duration_s == 0
            lengths = [(len(block), decoding.duration_s) for block in decoding]
    assert lengths == [(16_000, 1.0), (16_000, 2.0), (16_000, 3.0), (8_000, 3.5)]


def test_file_is_read_from_its_start_and_its_position_is_restored() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(media.wav(media.voice(2)))
        file.seek(1234)
        assert len(DECODER.decode_all(file)) == 2 * SAMPLE_RATE
        assert file.tell() == 1234
        assert len(DECODER.decode_all(file)) == 2 * SAMPLE_RATE


def test_spool_in_memory_is_decoded_too() -> None:
    with tempfile.SpooledTemporaryFile(max_size=1_000_000) as file:
        file.write(media.wav(media.voice(2)))
        assert len(DECODER.decode_all(file)) == 2 * SAMPLE_RATE


def test_file_without_a_descriptor_raises() -> None:
    with pytest.raises(io.UnsupportedOperation):
        DECODER.decode_all(io.BytesIO(media.wav(media.voice(1))))


def test_recording_of_exactly_the_limit_is_accepted() -> None:
    assert len(decode(media.wav(media.voice(2)), AudioDecoder(DECODER.ffmpeg, 2, 30))) == 2 * SAMPLE_RATE


def test_recording_over_the_limit_is_refused_by_the_name_of_the_limit() -> None:
    with pytest.raises(AudioTooLongError, match=r"длиннее 2 с.*AUDIO_MAX_DURATION_S"):
        decode(media.wav(media.voice(2.01)), AudioDecoder(DECODER.ffmpeg, 2, 30))


def test_empty_file_is_refused_before_a_decoder_starts(tmp_path: Path) -> None:
    with pytest.raises(EmptyAudioError):
        decode(b"", AudioDecoder(tmp_path / "no such program", 60, 30))


def test_time_limit_does_not_count_the_time_of_a_slow_consumer() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(media.wav(media.voice(20, sample_rate=8000), 8000))
        with DECODER.open(file) as decoding:
            blocks = iter(decoding)
            next(blocks)
            waited_s = decoding.waited_s
            time.sleep(10 * WATCH_INTERVAL_S)
            assert decoding.waited_s - waited_s <= WATCH_INTERVAL_S  # one round of the watchdog may have been under way
            assert 1 + sum(1 for _ in blocks) == 20


def test_consumer_may_stop_half_way() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(media.wav(media.voice(30)))
        with DECODER.open(file) as decoding:
            next(iter(decoding))
        with pytest.raises(RuntimeError, match="consumer"), DECODER.open(file) as decoding:
            for _ in decoding:
                raise RuntimeError("the consumer failed")


def test_many_recordings_are_decoded_at_once() -> None:
    files = [media.wav(media.voice(3, seed)) for seed in range(6)]
    waveforms: dict[int, Waveform] = {}
    threads = [
        threading.Thread(target=lambda number=number: waveforms.update({number: decode(files[number])}))
        for number in range(len(files))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.abs(waveforms[seed] - media.low_cut(media.voice(3, seed))).max() < 1e-3 for seed in range(len(files)))
