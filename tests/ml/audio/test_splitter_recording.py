"""The shipped recording, whose words are known to the millisecond, is never cut inside one."""

import json
from itertools import pairwise

import numpy as np
import pytest

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk, split_at_pauses
from ml.interfaces import SAMPLE_RATE, Waveform
from resources.config import PROJECT_ROOT

SAMPLES = PROJECT_ROOT / "resources" / "samples"
PAUSE_S = 0.1
EDGE_S = 0.025  # where one word runs into the next, the boundary between them is no sharper than this

Word = tuple[float, float]


@pytest.fixture(scope="module")
def waveform() -> Waveform:
    with (SAMPLES / "word_times.wav").open("rb") as file:
        return AudioDecoder(find_ffmpeg(), max_duration_s=600, timeout_s=30).decode_all(file)


@pytest.fixture(scope="module")
def words() -> list[Word]:
    rows = json.loads((SAMPLES / "word_times.json").read_text(encoding="utf-8"))
    return [(row["start_s"], row["end_s"]) for row in rows]


def words_cut(words: list[Word], chunks: list[Chunk]) -> list[tuple[float, Word]]:
    cuts_s = [chunk.start_s for chunk in chunks[1:]]
    return [(cut_s, word) for cut_s in cuts_s for word in words if word[0] + EDGE_S < cut_s < word[1] - EDGE_S]


def pause_within(words: list[Word], start_s: float, end_s: float) -> bool:
    """Return whether a pause lies between two words, wholly within this time."""
    pairs = pairwise(words)
    return any(
        after[0] - before[1] >= PAUSE_S and start_s <= before[1] and after[0] <= end_s for before, after in pairs
    )


def test_recording_has_words_and_pauses_to_test_with(words: list[Word], waveform: Waveform) -> None:
    gaps_s = [after[0] - before[1] for before, after in pairwise(words)]
    assert len(words) > 100 and sum(gap_s >= PAUSE_S for gap_s in gaps_s) > 30
    assert words[-1][1] <= len(waveform) / SAMPLE_RATE


@pytest.mark.parametrize("target_s", range(3, 31))
def test_no_word_is_cut(waveform: Waveform, words: list[Word], target_s: int) -> None:
    chunks = split_at_pauses(waveform, SAMPLE_RATE, target_s)
    assert len(chunks) >= len(waveform) / SAMPLE_RATE / target_s
    assert words_cut(words, chunks) == []


@pytest.mark.parametrize("target_s", range(3, 31))
def test_no_word_is_cut_in_noise_where_there_is_a_pause_to_cut_in(
    waveform: Waveform, words: list[Word], target_s: int
) -> None:
    power = np.mean(np.square(waveform[np.abs(waveform) > 1e-3]))
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal(len(waveform)) * np.sqrt(power / 100)  # 20 dB below
        chunks = split_at_pauses((waveform + noise).astype(np.float32), SAMPLE_RATE, target_s)
        for before, after in pairwise(chunks):
            harm = words_cut(words, [before, after])
            assert not harm or not pause_within(words, before.start_s + 0.2 * target_s, before.start_s + target_s), harm
        assert target_s <= 4 or words_cut(words, chunks) == []  # only then is a stretch of words longer than the reach
