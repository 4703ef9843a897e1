"""Chunks of long recordings join to one text: no word is lost or doubled at a cut, whatever the pauses are.

The recogniser is right by definition: it returns the words that lie wholly within a chunk. The tests judge where the
cuts fall and how the texts are merged.
"""

import json
import wave

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion, Transcript
from tests.conftest import SAMPLES
from tests.support.decoding import recogniser, transcribe_blocks

LENGTH_S = 200.0
GAP_S = 0.1  # longer than any gap between two words of a phrase
EDGE_S = 0.025  # where one word runs into the next, the boundary between them is no sharper than this
MARGIN_S = 0.03  # of the audio around a phrase that stays with it
ROOM = 1e-4  # noise in the pauses: -80 dBFS

Word = tuple[str, float, float]


def recognise_words(words: list[Word]) -> Recognise:
    """A recogniser that knows the times of all words. It garbles a word that the chunk holds in part."""

    def answer(chunk: Chunk) -> Completion:
        inside = (_spelling(word, chunk) for word in words if word[2] > chunk.start_s and word[1] < chunk.end_s)
        return Completion(" ".join(filter(None, inside)))

    return recogniser(answer)


def _spelling(word: Word, chunk: Chunk) -> str:
    text, start_s, end_s = word
    if chunk.start_s - EDGE_S <= start_s and end_s <= chunk.end_s + EDGE_S:
        return text
    share = (min(end_s, chunk.end_s) - max(start_s, chunk.start_s)) / (end_s - start_s)
    return text[: int(len(text) * share)] + "ы" if share > 0.3 else ""


@pytest.fixture(scope="module")
def phrases() -> list[tuple[Waveform, list[Word]]]:
    """Stretches of speech without a pause: the waveform, and the words with their times in it."""
    with wave.open(str(SAMPLES / "word_times.wav")) as file:
        waveform = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    words = [
        (row["word"], row["start_s"], row["end_s"]) for row in json.loads((SAMPLES / "word_times.json").read_text())
    ]
    groups: list[list[Word]] = [[words[0]]]
    for word in words[1:]:
        if word[1] - groups[-1][-1][2] >= GAP_S:
            groups.append([])
        groups[-1].append(word)
    found = []
    for group in groups:
        start = round((group[0][1] - MARGIN_S) * SAMPLE_RATE)
        phrase = waveform[start : round((group[-1][2] + MARGIN_S) * SAMPLE_RATE)]
        found.append((phrase, [(w, a - start / SAMPLE_RATE, b - start / SAMPLE_RATE) for w, a, b in group]))
    return found


def long_recording(
    phrases: list[tuple[Waveform, list[Word]]], shortest_s: float, longest_s: float
) -> tuple[Waveform, list[Word]]:
    """Phrases in random order, with pauses between them of so many seconds; with 0 they follow each other."""
    random = np.random.default_rng(round(1000 * (shortest_s + longest_s)))
    parts: list[Waveform] = []
    words: list[Word] = []
    length = 0
    while length < LENGTH_S * SAMPLE_RATE:
        phrase, own = phrases[random.integers(len(phrases))]
        trimmed = round(min(MARGIN_S, max(0.0, MARGIN_S - shortest_s / 2)) * SAMPLE_RATE)
        phrase = phrase[trimmed : len(phrase) - trimmed]
        words += [(w, a + (length - trimmed) / SAMPLE_RATE, b + (length - trimmed) / SAMPLE_RATE) for w, a, b in own]
        pause_s = max(0.0, random.uniform(shortest_s, longest_s) - 2 * MARGIN_S)
        pause = random.normal(0, ROOM, round(pause_s * SAMPLE_RATE)).astype(np.float32)
        parts += [phrase, pause]
        length += len(phrase) + len(pause)
    return np.concatenate(parts), words


def transcribe(waveform: Waveform, words: list[Word], target_s: float) -> Transcript:
    blocks = np.array_split(waveform, range(SAMPLE_RATE, len(waveform), SAMPLE_RATE))
    return transcribe_blocks(blocks, recognise_words(words), target_s)


@pytest.mark.parametrize("target_s", [5, 10, 30])
@pytest.mark.parametrize("pauses_s", [(0.1, 0.1), (0.2, 0.2), (0.5, 0.5), (1, 1), (2, 2), (0.1, 2)])
def test_no_word_is_lost_or_doubled_whatever_the_pauses(
    phrases: list[tuple[Waveform, list[Word]]], pauses_s: tuple[float, float], target_s: float
) -> None:
    waveform, words = long_recording(phrases, *pauses_s)
    transcript = transcribe(waveform, words, target_s)
    assert len(transcript.segments) >= LENGTH_S / target_s
    assert transcript.text.split() == [word for word, _, _ in words]


@pytest.mark.parametrize("target_s", [5, 10, 30])
def test_no_word_is_lost_or_doubled_without_any_pause(
    phrases: list[tuple[Waveform, list[Word]]], target_s: float
) -> None:
    waveform, words = long_recording(phrases, 0, 0)
    assert transcribe(waveform, words, target_s).text.split() == [word for word, _, _ in words]
