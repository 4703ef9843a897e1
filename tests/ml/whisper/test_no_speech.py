"""Whisper's answers to audio without speech are dropped; what is said stays, however quiet, noisy or short it is."""

import numpy as np
import pytest

from ml.interfaces import SAMPLE_RATE, Engine
from ml.pipeline.repetition import is_repetitive
from ml.whisper.no_speech import is_no_speech
from tests.support.backgrounds import BACKGROUNDS
from tests.support.whisper import free_text, spoken_words


@pytest.mark.parametrize(
    "text",
    [
        "Редактор субтитров А.Семкин Корректор А.Егорова",
        "СПОКОЙНАЯ МУЗЫКА",
        "ДИНАМИЧНАЯ МУЗЫКА.",
        "[МУЗЫКА]",
        "ВЫСТРЕЛЫ",
    ],
)
def test_stock_phrases_of_subtitles_are_not_speech(text: str) -> None:
    assert is_no_speech(text, no_speech=0.1, probability=0.9, duration_s=10)


@pytest.mark.parametrize(
    "text", ["Играет спокойная музыка", "Редактор прочитал субтитры", "Мне нравится музыка.", "Да"]
)
def test_the_same_words_in_a_sentence_are_speech(text: str) -> None:
    assert not is_no_speech(text, no_speech=0.1, probability=0.9, duration_s=10)


def test_a_single_word_stays_although_the_model_is_unsure_of_it() -> None:
    assert not is_no_speech("снега", no_speech=0.81, probability=0.27, duration_s=0.6)
    assert is_no_speech("Парни", no_speech=0.81, probability=0.27, duration_s=4.0)


def test_a_loop_is_not_speech_where_the_model_doubts_that_there_is_any() -> None:
    loop = "я не знаю, " * 20
    assert is_no_speech(loop, no_speech=0.8, probability=0.9, duration_s=8)
    assert not is_no_speech(loop, no_speech=0.3, probability=0.9, duration_s=8)
    assert not is_no_speech("да, да, нет, да", no_speech=0.8, probability=0.9, duration_s=8)


@pytest.mark.speech
@pytest.mark.parametrize("name", BACKGROUNDS)
def test_nothing_is_said_of_a_background(engine: Engine, name: str) -> None:
    for seed, duration_s in [(0, 3.0), (1, 8.0), (2, 20.0)]:
        waveform = BACKGROUNDS[name](duration_s, np.random.default_rng(seed)).astype(np.float32)
        completion = engine.submit(waveform).result()
        assert not completion.text or is_repetitive(completion, duration_s), completion.text


@pytest.mark.speech
@pytest.mark.parametrize("change", ["as it is", "quiet", "noisy", "short"])
def test_speech_is_never_taken_for_silence(engine: Engine, change: str) -> None:
    waveform, words = free_text(), spoken_words()
    last = int((words[1 if change == "short" else 8][2] + 0.1) * SAMPLE_RATE)
    chunk = waveform[:last].copy()
    if change == "quiet":
        chunk *= 0.03
    if change == "noisy":
        noise = np.random.default_rng(0).normal(0, 0.5 * float(np.std(chunk)), len(chunk))
        chunk += noise.astype(np.float32)
    assert engine.submit(chunk).result().text
