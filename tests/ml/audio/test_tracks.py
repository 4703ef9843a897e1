"""What the decoder process writes is read exactly, and its tracks are put side by side by their times."""

import numpy as np
import pytest

from ml.audio.packets import Packet, PacketError, PacketParser, Samples, Track
from ml.audio.tracks import TrackAligner, of_one_language
from ml.interfaces import SAMPLE_RATE
from tests.support import audio as media


def matroska(*recordings: bytes, options: tuple[str, ...] = ()) -> bytes:
    maps = [word for number in range(len(recordings)) for word in ("-map", str(number))]
    return media.converted(recordings, *maps, *options, "-c:a", "pcm_s16le", "-f", "matroska", "-live", "1")


def parse(stream: bytes, piece_bytes: int = 1000) -> tuple[list[Track], list[Packet]]:
    parser, packets = PacketParser(), []
    for at in range(0, len(stream), piece_bytes):
        packets += parser.feed(stream[at : at + piece_bytes])
    return parser.tracks, packets


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 10**6])
def test_samples_of_all_tracks_and_channels_are_read_whatever_the_pieces(piece_bytes: int) -> None:
    mono, pair = media.voice(0.5, seed=1), np.stack([media.voice(0.5, seed=2), media.voice(0.5, seed=3)])
    stereo = media.wav_header(4 * pair.shape[1], channels=2) + media.pcm(pair.T.reshape(-1))
    tracks, packets = parse(matroska(media.wav(mono), stereo), piece_bytes)
    assert [track.channels for track in tracks] == [1, 2]
    for number, expected in enumerate((mono[None], pair)):
        found = np.concatenate([packet.samples for packet in packets if packet.track == number], axis=1)
        assert np.array_equal(found, np.round(expected * 32767).astype(np.int16))


def test_languages_are_read() -> None:
    voice = media.wav(media.voice(0.1))
    languages = ("-metadata:s:0", "language=rus", "-metadata:s:1", "language=eng")
    tracks, _ = parse(matroska(voice, voice, options=languages))
    assert [track.language for track in tracks] == ["rus", "eng"]
    assert [track.language for track in parse(matroska(voice, voice))[0]] == ["und", "und"]


@pytest.mark.parametrize("seed", range(30))
def test_damaged_stream_is_an_error_or_samples_of_the_stated_shape(seed: int) -> None:
    stream = bytearray(matroska(media.wav(media.voice(0.2))))
    random = np.random.default_rng(seed)
    for place in random.integers(0, len(stream), 20):
        stream[place] = random.integers(256)
    try:
        tracks, packets = parse(bytes(stream))
    except PacketError:
        return
    assert all(packet.samples.shape[0] == tracks[packet.track].channels for packet in packets)


def packet(track: int, time_s: float, samples: Samples) -> Packet:
    return Packet(track, round(time_s * 1000), samples)


def tenths(duration_s: float, value: int) -> list[Samples]:
    return [np.full((1, SAMPLE_RATE // 10), value, np.int16)] * round(duration_s * 10)


def align(packets: list[Packet], n_tracks: int) -> tuple[Samples, TrackAligner]:
    aligner = TrackAligner([Track(number + 1) for number in range(n_tracks)])
    blocks = []
    for one in packets:
        aligner.push(one)
        blocks += list(aligner.take())
    blocks += list(aligner.take(is_last=True))
    assert all(block.shape[1] == SAMPLE_RATE for block in blocks[:-1])
    return np.concatenate(blocks, axis=1), aligner


def in_order(*tracks: tuple[float, float, int]) -> list[Packet]:
    """Return the packets of tracks (start_s, duration_s, value), sorted by time as the decoder gives them."""
    packets = [
        packet(number, start_s + place / 10, samples)
        for number, (start_s, duration_s, value) in enumerate(tracks)
        for place, samples in enumerate(tenths(duration_s, value))
    ]
    return sorted(packets, key=lambda one: one.time_ms)


def test_tracks_lie_side_by_side() -> None:
    samples, aligner = align(in_order((0, 3.5, 1), (0, 2, 2)), 2)
    assert samples.shape == (2, 3.5 * SAMPLE_RATE)
    assert (
        np.all(samples[0] == 1)
        and np.all(samples[1, : 2 * SAMPLE_RATE] == 2)
        and not samples[1, 2 * SAMPLE_RATE :].any()
    )
    assert aligner.late_s == 0


@pytest.mark.parametrize("start_s", [0.5, 1.0, 7.3])
def test_track_that_begins_later_is_preceded_by_silence(start_s: float) -> None:
    samples, _ = align(in_order((0, 3, 1), (start_s, 2, 2)), 2)
    start = round(start_s * SAMPLE_RATE)
    assert samples.shape[1] == max(3 * SAMPLE_RATE, start + 2 * SAMPLE_RATE)
    assert not samples[1, :start].any() and np.all(samples[1, start:][: 2 * SAMPLE_RATE] == 2)


def test_pause_of_a_track_is_silence_in_its_place() -> None:
    parts = [*in_order((0, 6, 1)), *(packet(1, 0.1 * place, one) for place, one in enumerate(tenths(1, 2)))]
    parts += [packet(1, 4 + 0.1 * place, one) for place, one in enumerate(tenths(1, 3))]
    samples, _ = align(sorted(parts, key=lambda one: one.time_ms), 2)
    second = samples[1].reshape(-1, SAMPLE_RATE)
    assert [set(values.tolist()) for values in second] == [{2}, {0}, {0}, {0}, {3}, {0}]


def test_single_track_is_taken_as_it_comes_whatever_its_times() -> None:
    times_s = [0.0, 100.0, 5.0, 5.0]
    samples, aligner = align([packet(0, at, tenths(0.1, 1)[0]) for at in times_s], 1)
    assert samples.shape == (1, 4 * SAMPLE_RATE // 10) and np.all(samples == 1) and aligner.late_s == 0


def test_small_errors_of_the_times_leave_no_gaps() -> None:
    random = np.random.default_rng(0)
    packets = in_order((0, 5, 1), (0, 5, 2))
    for one in packets:
        one.time_ms += int(random.integers(0, 100))
    samples, aligner = align(sorted(packets, key=lambda one: one.time_ms), 2)
    assert np.all(samples[0] == 1) and np.all(samples[1] == 2) and aligner.late_s == 0


def test_sound_that_comes_too_late_is_counted() -> None:
    packets = [*in_order((0, 5, 1)), *(packet(1, 0.1 * place, one) for place, one in enumerate(tenths(3, 2)))]
    samples, aligner = align(packets, 2)
    assert samples.shape[1] == 5 * SAMPLE_RATE and aligner.late_s == 3


def test_gap_in_the_times_is_measured() -> None:
    packets = [packet(0, at, tenths(0.1, 1)[0]) for at in (0, 0.1, 0.2, 1.3, 1.4)]
    assert align(packets, 1)[1].gap_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("languages", "kept"),
    [
        (["und", "und"], [0, 1]),
        (["rus", "rus"], [0, 1]),
        (["rus", "eng"], [0]),
        (["rus", "eng", "rus"], [0, 2]),
        (["rus", "und"], [0, 1]),
        (["eng"], [0]),
    ],
)
def test_translations_are_not_mixed(languages: list[str], kept: list[int]) -> None:
    assert of_one_language([Track(1, 1, language) for language in languages]) == kept
