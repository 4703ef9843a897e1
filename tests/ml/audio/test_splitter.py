"""Recordings are cut in pauses, lose nothing at the cuts, and are cut alike however they arrive."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.audio.splitter import MAX_CHUNK_S, Chunk, PauseSplitter, split_at_pauses
from ml.interfaces import SAMPLE_RATE, Waveform

SOUNDS = ("speech", "noise", "tone", "silence", "offset", "clipped", "fading", "clicks")


@dataclass(frozen=True)
class Speech:
    """Something like speech: waveform (N,), and the (start, end) sample of each word."""

    waveform: Waveform
    words: list[tuple[int, int]]


def speech(duration_s: float, seed: int = 0, gaps_s: tuple[float, float] = (0.15, 0.5)) -> Speech:
    """Return words of swelling noise, each with a silent stop closure of 60 to 80 ms, apart by gaps in this range."""
    random = np.random.default_rng(seed)
    waveform = np.zeros(int(duration_s * SAMPLE_RATE), np.float32)
    words: list[tuple[int, int]] = []
    position = 0
    while True:
        length = int(random.uniform(0.25, 0.8) * SAMPLE_RATE)
        if position + length > len(waveform):
            return Speech(waveform, words)
        waveform[position : position + length] = word(length, random)
        words.append((position, position + length))
        position += length + int(random.uniform(*gaps_s) * SAMPLE_RATE)


def word(length: int, random: np.random.Generator) -> Waveform:
    swell = 0.15 + 0.85 * np.abs(np.sin(np.linspace(0.3, random.uniform(3, 9), length)))
    sound = 0.1 * random.standard_normal(length) * swell
    closure = int(random.uniform(0.06, 0.08) * SAMPLE_RATE)
    start = int(random.uniform(0.3, 0.6) * (length - closure))
    sound[start : start + closure] = 0
    return np.asarray(sound, np.float32)


def with_noise(waveform: Waveform, snr_db: float, seed: int = 1) -> Waveform:
    """Return waveform (N,) in white noise this far below the mean power of its sound."""
    power = np.mean(np.square(waveform[waveform != 0])) / 10 ** (snr_db / 10)
    noise = np.random.default_rng(seed).standard_normal(len(waveform)) * np.sqrt(power)
    return np.asarray(waveform + noise, np.float32)


def sound(kind: str, n_samples: int, seed: int) -> Waveform:
    random = np.random.default_rng(seed)
    noise = 0.1 * random.standard_normal(n_samples)
    times_s = np.arange(n_samples) / SAMPLE_RATE
    made: dict[str, Callable[[], object]] = {
        "speech": lambda: speech(n_samples / SAMPLE_RATE, seed).waveform,
        "noise": lambda: noise,
        "tone": lambda: 0.5 * np.sin(2 * np.pi * 440 * times_s),
        "silence": lambda: np.zeros(n_samples),
        "offset": lambda: 0.4 + 0.01 * noise,
        "clipped": lambda: np.sign(noise),
        "fading": lambda: noise * np.exp(-times_s / 3),
        "clicks": lambda: (random.random(n_samples) < 1e-3) * 1.0,
    }
    return np.asarray(made[kind](), np.float32)


def cuts(chunks: list[Chunk]) -> list[int]:
    return [chunk.start_sample for chunk in chunks[1:]]


def words_cut(speech: Speech, chunks: list[Chunk]) -> list[tuple[int, int, int]]:
    return [(start, cut, end) for cut in cuts(chunks) for start, end in speech.words if start < cut < end]


sounds = st.builds(sound, st.sampled_from(SOUNDS), st.integers(0, 12 * SAMPLE_RATE), st.integers(0, 2**32 - 1))
targets = st.floats(1, 4) | st.integers(1, 30)


@settings(max_examples=60, deadline=None)
@given(sounds, targets)
def test_every_sample_is_in_exactly_one_chunk_in_order(waveform: Waveform, target_s: float) -> None:
    chunks = split_at_pauses(waveform, SAMPLE_RATE, target_s)
    assert np.array_equal(np.concatenate([np.zeros(0), *(chunk.waveform for chunk in chunks)]), waveform)
    ends = [chunk.start_sample + len(chunk.waveform) for chunk in chunks]
    assert [chunk.start_sample for chunk in chunks] == [0, *ends][: len(chunks)]


@settings(max_examples=60, deadline=None)
@given(sounds, targets)
def test_no_chunk_is_empty_or_longer_than_the_target(waveform: Waveform, target_s: float) -> None:
    for chunk in split_at_pauses(waveform, SAMPLE_RATE, target_s):
        assert 0 < len(chunk.waveform) <= target_s * SAMPLE_RATE <= MAX_CHUNK_S * SAMPLE_RATE
        assert 0 < chunk.end_s - chunk.start_s <= target_s + 1e-9


@settings(max_examples=60, deadline=None)
@given(sounds, targets, st.data())
def test_blocks_of_any_size_are_cut_as_the_whole_is(waveform: Waveform, target_s: float, data: st.DataObject) -> None:
    splitter, chunks, position = PauseSplitter(target_s), [], 0
    while position < len(waveform):
        n_samples = data.draw(st.sampled_from([1, 159, 160, 1_000, 16_000, 40_001, 200_000]) | st.integers(0, 50_000))
        chunks += splitter.push(waveform[position : position + n_samples])
        position += n_samples
    chunks += splitter.finish()
    whole = split_at_pauses(waveform, SAMPLE_RATE, target_s)
    assert cuts(chunks) == cuts(whole)
    assert all(np.array_equal(mine.waveform, its.waveform) for mine, its in zip(chunks, whole, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SOUNDS), st.sampled_from(SOUNDS), st.floats(1, 3), st.integers(0, 1000))
def test_cut_depends_on_nothing_later_than_a_second_after_the_target(
    kind: str, later_kind: str, target_s: float, seed: int
) -> None:
    waveform = sound(kind, 10 * SAMPLE_RATE, seed)
    seen = int((target_s + 1) * SAMPLE_RATE) + 1
    changed = np.concatenate([waveform[:seen], 3 * sound(later_kind, 20 * SAMPLE_RATE, seed + 1)])
    expected = cuts(split_at_pauses(waveform, SAMPLE_RATE, target_s))[0]
    assert cuts(split_at_pauses(changed, SAMPLE_RATE, target_s))[0] == expected


@pytest.mark.parametrize("snr_db", [60, 30, 20, 10])
@pytest.mark.parametrize("target_s", [3, 5, 10, 20, 30])
def test_cut_never_lands_inside_a_word(target_s: int, snr_db: float) -> None:
    for seed in range(3):
        spoken = speech(90, seed)
        chunks = split_at_pauses(with_noise(spoken.waveform, snr_db), SAMPLE_RATE, target_s)
        assert len(chunks) > 1
        assert words_cut(spoken, chunks) == []


@pytest.mark.parametrize("target_s", [10, 20, 30])
def test_chunks_are_well_filled_where_there_are_pauses_to_choose_from(target_s: int) -> None:
    chunks = split_at_pauses(speech(600).waveform, SAMPLE_RATE, target_s)
    assert np.mean([chunk.end_s - chunk.start_s for chunk in chunks[:-1]]) > 0.75 * target_s


def test_longer_pause_wins_over_a_gap_between_words_near_the_target() -> None:
    waveform = speech(20, gaps_s=(0.12, 0.14)).waveform
    waveform[8 * SAMPLE_RATE : int(8.6 * SAMPLE_RATE)] = 0
    assert 8 < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < 8.6


def test_of_equal_pauses_the_one_nearest_the_target_wins() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    for second in range(1, 20):
        waveform[second * SAMPLE_RATE : int((second + 0.3) * SAMPLE_RATE)] *= 0.01
    assert 9 < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < 9.3


@pytest.mark.parametrize("gap_s", [3.2, 6.2])
def test_stop_closure_does_not_pass_for_a_pause(gap_s: float) -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    for position_s in np.arange(0.5, 20, 0.5):
        start = int(position_s * SAMPLE_RATE)
        waveform[start : start + int(0.07 * SAMPLE_RATE)] = 0
    gap = int(gap_s * SAMPLE_RATE)
    waveform[gap : gap + int(0.15 * SAMPLE_RATE)] *= 0.03
    assert gap_s < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < gap_s + 0.15


@pytest.mark.parametrize("dropout_s", [1, 6])
@pytest.mark.parametrize("room", [0.003, 0.05])
def test_moment_of_digital_silence_does_not_hide_the_pauses_of_a_room(room: float, dropout_s: float) -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[int(4 * SAMPLE_RATE) : int(4.5 * SAMPLE_RATE)] *= room
    waveform[int(7 * SAMPLE_RATE) : int(7.15 * SAMPLE_RATE)] *= room * 0.9
    waveform[int(9 * SAMPLE_RATE) : int(9.5 * SAMPLE_RATE)] *= room
    dropout = int(dropout_s * SAMPLE_RATE)
    waveform[dropout : dropout + int(0.12 * SAMPLE_RATE)] = 0
    cut_s = split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s
    # A noisy room and a dropout within reach: the dropout is as good a place as any.
    assert 9 < cut_s < 9.5 or (room > 0.01 and dropout_s < cut_s < dropout_s + 0.12)


def test_cut_in_a_pause_leaves_quiet_on_both_sides() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[8 * SAMPLE_RATE : 9 * SAMPLE_RATE] *= 0.01
    assert 8.24 < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < 8.76


def test_short_pause_is_cut_in_its_middle() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[8 * SAMPLE_RATE : int(8.2 * SAMPLE_RATE)] *= 0.01
    assert split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s == pytest.approx(8.1, abs=0.02)


def test_pause_that_goes_on_past_the_target_is_cut_at_the_target() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[int(9.8 * SAMPLE_RATE) : 11 * SAMPLE_RATE] *= 0.01
    assert split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s == 10


def test_pause_that_barely_begins_before_the_target_is_left_alone() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[int(8.5 * SAMPLE_RATE) : int(8.8 * SAMPLE_RATE)] *= 0.01
    waveform[int(9.95 * SAMPLE_RATE) : 11 * SAMPLE_RATE] *= 0.01
    assert 8.5 < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < 8.8


@pytest.mark.parametrize("gap_s", [0.13, 0.2])
def test_gap_between_words_is_a_pause(gap_s: float) -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[3 * SAMPLE_RATE : int((3 + gap_s) * SAMPLE_RATE)] *= 0.01
    assert split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s == pytest.approx(3 + gap_s / 2, abs=0.02)


def test_only_pause_is_taken_even_if_it_comes_early() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[3 * SAMPLE_RATE : int(3.4 * SAMPLE_RATE)] *= 0.01
    assert 3 < split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s < 3.4


def test_long_silence_between_two_utterances_is_cut_without_touching_either() -> None:
    waveform = sound("noise", 60 * SAMPLE_RATE, 0)
    waveform[7 * SAMPLE_RATE : 45 * SAMPLE_RATE] = 0
    inside = [cut / SAMPLE_RATE for cut in cuts(split_at_pauses(waveform, SAMPLE_RATE, 10))]
    assert all(7.2 < cut_s < 44.8 for cut_s in inside[:4])


def test_quiet_room_is_a_pause_although_there_is_digital_silence_elsewhere() -> None:
    spoken = speech(60, gaps_s=(0.3, 0.5))
    waveform = with_noise(spoken.waveform, 25)
    waveform[2 * SAMPLE_RATE : 3 * SAMPLE_RATE] = 0
    waveform[22 * SAMPLE_RATE : 23 * SAMPLE_RATE] = 0
    spoken.words[:] = [word for word in spoken.words if waveform[sum(word) // 2] != 0]
    assert words_cut(spoken, split_at_pauses(waveform, SAMPLE_RATE, 10)) == []


def test_level_of_the_recording_makes_no_difference() -> None:
    waveform = with_noise(speech(60).waveform, 25)
    expected = cuts(split_at_pauses(waveform, SAMPLE_RATE, 10))
    assert cuts(split_at_pauses(waveform * np.float32(2.0**-6), SAMPLE_RATE, 10)) == expected


def test_constant_offset_hides_no_pause() -> None:
    spoken = speech(60)
    assert words_cut(spoken, split_at_pauses(with_noise(spoken.waveform, 30) + np.float32(0.3), SAMPLE_RATE, 10)) == []


def test_clipping_hides_no_pause() -> None:
    spoken = speech(60)
    waveform = np.clip(with_noise(spoken.waveform, 30) * 30, -1, 1).astype(np.float32)
    assert words_cut(spoken, split_at_pauses(waveform, SAMPLE_RATE, 10)) == []


def test_rising_noise_hides_no_pause() -> None:
    spoken = speech(120)
    noise = with_noise(spoken.waveform, 12) - spoken.waveform
    waveform = spoken.waveform + noise * np.linspace(0.02, 1, len(noise), dtype=np.float32)
    assert words_cut(spoken, split_at_pauses(waveform, SAMPLE_RATE, 15)) == []


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "clipped"])
def test_sound_without_pauses_is_cut_all_the_same(kind: str) -> None:
    chunks = split_at_pauses(sound(kind, 100 * SAMPLE_RATE, 0), SAMPLE_RATE, 20)
    assert 5 <= len(chunks) <= 10


def test_silence_fills_its_chunks() -> None:
    lengths_s = [chunk.end_s - chunk.start_s for chunk in split_at_pauses(sound("silence", 10**6, 0), SAMPLE_RATE, 20)]
    assert lengths_s[:-1] == [20.0] * 3


def test_dip_without_pauses_is_where_the_cut_goes() -> None:
    waveform = sound("noise", 20 * SAMPLE_RATE, 0)
    waveform[8 * SAMPLE_RATE : int(8.1 * SAMPLE_RATE)] *= 0.7
    assert 8 <= split_at_pauses(waveform, SAMPLE_RATE, 10)[1].start_s <= 8.1


def test_recording_no_longer_than_the_target_is_one_chunk() -> None:
    waveform = speech(20).waveform
    (chunk,) = split_at_pauses(waveform, SAMPLE_RATE, 20)
    assert np.array_equal(chunk.waveform, waveform)


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("extra_samples", [1, 160, 1600])
def test_little_more_than_the_target_does_not_leave_a_sliver(kind: str, extra_samples: int) -> None:
    chunks = split_at_pauses(sound(kind, 10 * SAMPLE_RATE + extra_samples, 0), SAMPLE_RATE, 10)
    assert len(chunks) == 2 and chunks[1].end_s - chunks[1].start_s >= 1


def test_nothing_gives_no_chunks() -> None:
    assert split_at_pauses(np.zeros(0, np.float32), SAMPLE_RATE, 20) == []
    assert PauseSplitter(20).finish() == []


@pytest.mark.parametrize("target_s", [-1, 0, 0.5, 30.01, 31, float("inf"), float("nan")])
def test_impossible_target_is_refused(target_s: float) -> None:
    with pytest.raises(ValueError, match="target_s"):
        split_at_pauses(np.zeros(10, np.float32), SAMPLE_RATE, target_s)


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000])
def test_other_sample_rates_are_split_too(sample_rate: int) -> None:
    waveform = 0.1 * np.random.default_rng(0).standard_normal(12 * sample_rate).astype(np.float32)
    waveform[6 * sample_rate : int(6.3 * sample_rate)] = 0
    first, second = split_at_pauses(waveform, sample_rate, 10)
    assert 6 < second.start_s < 6.3 and first.end_s == second.start_s and second.end_s == 12


def test_splitter_holds_little_more_than_one_chunk() -> None:
    splitter = PauseSplitter(5)
    for number in range(200):
        for chunk in splitter.push(sound("noise", SAMPLE_RATE, number)):
            held = chunk.waveform if chunk.waveform.base is None else chunk.waveform.base
            assert held.nbytes <= 4 * 9 * SAMPLE_RATE
        assert sum(block.nbytes for block in splitter._blocks) <= 4 * 7 * SAMPLE_RATE
