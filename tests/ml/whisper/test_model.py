"""Whisper base on speech: texts, batches, languages, words, confidence."""

from difflib import SequenceMatcher

import numpy as np
import pytest

from ml.engine.engine import Engine
from ml.interfaces import RecognitionOptions, Waveform
from ml.manifest import normalise
from ml.transcript import Completion, FinishReason
from ml.whisper.model import SURE_PROBABILITY
from tests.support.whisper import free_text, said, sentence, spoken_words

pytestmark = pytest.mark.speech
RATE = 16_000
HANG_LIMIT_S = 300.0


def recognise(engine: Engine, *waveforms: Waveform, **options: object) -> list[Completion]:
    futures = [engine.submit(waveform, options=RecognitionOptions(**options)) for waveform in waveforms]  # type: ignore[arg-type]
    return [future.result(HANG_LIMIT_S) for future in futures]


def noise(duration_s: float, level: float = 0.1) -> Waveform:
    return np.random.default_rng(0).normal(0, level, int(duration_s * RATE)).astype(np.float32)


def unclear(number: int) -> Waveform:
    """A sentence in so much noise that some answers are in doubt."""
    return sentence(number) + noise(10, 0.05)[: len(sentence(number))]


def test_sentences_are_recognised_with_their_punctuation(engine: Engine) -> None:
    completions = recognise(engine, *(sentence(number) for number in range(8)))
    right = sum(completion.text in said() for completion in completions if completion.text)
    assert right >= 6, [completion.text for completion in completions]
    assert all(completion.finish_reason is FinishReason.STOP for completion in completions)


def test_a_chunk_is_answered_the_same_alone_as_beside_chunks_of_other_lengths(engine: Engine) -> None:
    chunks = [free_text()[: 24 * RATE], sentence(0), noise(1), sentence(1), free_text()[: 12 * RATE], sentence(2)]
    chunks += [unclear(number) for number in range(3)]
    together = recognise(engine, *chunks)
    assert together == [recognise(engine, chunk)[0] for chunk in chunks]


@pytest.mark.parametrize("samples", [1, 160, 1600, 24 * RATE])
def test_the_shortest_and_the_longest_chunk_are_answered(engine: Engine, samples: int) -> None:
    (completion,) = recognise(engine, free_text()[:samples])
    assert isinstance(completion.text, str)


def test_a_chunk_that_is_too_long_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="384000"):
        engine.submit(np.zeros(24 * RATE + 1, np.float32))


def test_a_greedy_answer_repeats_and_a_sampled_one_varies(engine: Engine) -> None:
    greedy = recognise(engine, *[unclear(2)] * 3)
    sampled = recognise(engine, *[unclear(2)] * 6, sampled=True)
    assert len(set(greedy)) == 1
    assert len({completion.text for completion in sampled}) > 1


def test_an_answer_in_doubt_is_replaced_by_the_most_probable_of_several(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [unclear(number) for number in range(8)]
    answers = recognise(engine, *chunks)
    monkeypatch.setattr("ml.whisper.model.SURE_PROBABILITY", 0.0)
    greedy = recognise(engine, *chunks)
    replaced = [(before, after) for before, after in zip(greedy, answers, strict=True) if before != after]
    assert replaced and len(replaced) < len(chunks)
    assert all((before.confidence or 0) < SURE_PROBABILITY for before, _ in replaced)
    assert all((after.confidence or 0) >= (before.confidence or 0) for before, after in replaced)


def test_an_answer_that_does_not_end_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.whisper.model.MAX_TOKENS", 30)  # 15 of them for the answer
    (completion,) = recognise(engine, free_text()[: 12 * RATE])
    assert completion.finish_reason is FinishReason.LENGTH


def test_a_text_does_not_go_on_in_the_padding(engine: Engine) -> None:
    texts = [completion.text for completion in recognise(engine, *(sentence(number) for number in range(8)))]
    spoken = [len(normalise(text).split()) for text in said().replace("? ", "?|").replace(". ", ".|").split("|")]
    assert all(len(normalise(text).split()) <= count + 2 for text, count in zip(texts, spoken, strict=False)), texts


def test_the_language_is_detected_where_asked(engine: Engine) -> None:
    russian, automatic, english, unknown = (
        recognise(engine, sentence(1), language=language)[0].text for language in ("", "auto", "en", "xx")
    )
    assert automatic == unknown == russian
    assert english != russian


def test_expected_words_change_the_spelling(engine: Engine) -> None:
    (plain,) = recognise(engine, sentence(1))
    (hinted,) = recognise(engine, sentence(1), prompt="Мы пойдём, ещё, её, идёт, всё, тёплый.")
    assert normalise(plain.text) == normalise(hinted.text)
    assert "пойдем" in plain.text and "пойдём" in hinted.text


def test_words_join_to_the_text_and_follow_each_other(engine: Engine) -> None:
    duration_s = 24.0
    (completion,) = recognise(engine, free_text()[: int(duration_s * RATE)], word_times=True)
    assert " ".join(word.text for word in completion.words) == completion.text
    times = [time for word in completion.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= duration_s
    assert all(word.confidence is not None and 0 < word.confidence <= 1 for word in completion.words)


def test_words_start_when_festival_says(engine: Engine) -> None:
    (completion,) = recognise(engine, free_text()[: 24 * RATE], word_times=True)
    found = [normalise(word.text) for word in completion.words]
    known = [normalise(word) for word, _, _ in spoken_words()]
    errors_s = [
        abs(completion.words[block.a + i].start_s - spoken_words()[block.b + i][1])
        for block in SequenceMatcher(None, found, known, autojunk=False).get_matching_blocks()
        for i in range(block.size)
    ]
    assert len(errors_s) > 30
    assert np.median(errors_s) <= 0.10
    assert np.percentile(errors_s, 90) <= 0.25


def test_words_are_the_same_in_a_batch_of_several_languages(engine: Engine) -> None:
    (alone,) = recognise(engine, sentence(1), word_times=True)
    futures = [
        engine.submit(sentence(1), options=RecognitionOptions(word_times=True, language=language))
        for language in ("en", "ru", "de")
    ]
    assert futures[1].result(HANG_LIMIT_S) == alone


def test_clear_speech_is_more_certain_than_noise(engine: Engine) -> None:
    clear, unclear = recognise(
        engine, sentence(0), sentence(0) + noise(len(sentence(0)) / RATE, 0.3)[: len(sentence(0))]
    )
    assert clear.confidence is not None
    assert 0.8 < clear.confidence <= 1
    assert unclear.confidence is None or unclear.confidence < clear.confidence
