"""Word times of Borealis: exact attention, the heads that are chosen, and the words of real chunks."""

import logging
import pickle
import wave
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.strategies import embed
from ml.benchmarks.word_times import compare, read_words
from ml.borealis import word_times
from ml.borealis.config import GenerationOptions
from ml.borealis.decoder import SlotDecoder
from ml.borealis.model import BorealisModel
from ml.borealis.runner import BorealisRunner, make_engine
from ml.borealis.word_times import choose_heads, read_speech
from ml.engine.engine import Engine
from ml.engine.model_runner import Sequence
from ml.engine.request import Request
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion, Word
from tests.conftest import SAMPLES
from tests.support.checkpoints import tone
from tests.support.speech import TINY_MODEL
from tests.support.waiting import HANG_LIMIT_S

CPU = torch.device("cpu")
TIMED = RecognitionOptions(word_times=True)
CHUNKS = [(0.0, 9.0), (9.7, 20.0), (20.0, 24.0), (29.5, 41.0), (53.0, 63.0)]  # of the sample, in seconds


@pytest.fixture(scope="module")
def tiny() -> BorealisModel:
    return BorealisModel.load(TINY_MODEL, CPU, torch.float32)


@pytest.fixture(scope="module")
def engine(tiny: BorealisModel) -> Iterator[Engine]:
    with make_engine(tiny, 8) as engine:
        yield engine


@pytest.fixture(scope="module")
def chunks() -> list[Waveform]:
    with wave.open(str(SAMPLES / "word_times.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return [samples[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)] for start_s, end_s in CHUNKS]


def recognise(engine: Engine, chunks: list[Waveform], options: RecognitionOptions = TIMED) -> list[Completion]:
    """The completions of `chunks`, each of a recording of its own, submitted together."""
    futures = [engine.submit(chunk, number, options) for number, chunk in enumerate(chunks)]
    return [future.result(HANG_LIMIT_S) for future in futures]


def assert_same_words(found: list[Completion], expected: list[Completion]) -> None:
    """Rounding differs with the rows of a batch: probabilities by a little, times by a frame at most."""
    for one, other in zip(found, expected, strict=True):
        assert [word.text for word in one.words] == [word.text for word in other.words]
        assert [word.start_s for word in one.words] == pytest.approx([word.start_s for word in other.words], abs=0.011)


def transcribe(engine: Engine, name: str) -> list[Word]:
    """The words of a sample by way of the pipeline."""
    pipeline = Pipeline(AudioDecoder(find_ffmpeg(None), 3600, timeout_s=3600), 30.0, recognise_with(engine, window=8))
    with (SAMPLES / name).open("rb") as file:
        transcript = pipeline.transcribe(file, options=TIMED)
    return [word for segment in transcript.segments for word in segment.words]


def test_words_of_the_sample_lie_where_they_are_spoken(engine: Engine) -> None:
    found = transcribe(engine, "word_times.wav")  # one of its chunks is recognised again, in halves
    offsets = compare(found, read_words(SAMPLES / "word_times.json"))
    starts_s, ends_s = (np.abs(each) for each in offsets)
    assert len(starts_s) >= 105 and not any(word.is_estimated for word in found)
    assert np.median(starts_s) <= 0.03 and np.percentile(starts_s, 90) <= 0.08  # measured: 0.013 and 0.039
    assert np.median(ends_s) <= 0.05 and np.percentile(ends_s, 90) <= 0.08  # 0.022 and 0.040


def test_words_follow_each_other_within_the_chunk_and_spell_the_text(engine: Engine, chunks: list[Waveform]) -> None:
    for chunk, completion in zip(chunks, recognise(engine, chunks), strict=True):
        words = completion.words
        assert " ".join(word.text for word in words) == completion.text
        assert all(0 <= word.start_s < word.end_s <= len(chunk) / SAMPLE_RATE for word in words)
        assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(words))
        assert all(0 < (word.confidence or 0) <= 1 and not word.is_estimated for word in words)


def test_words_are_the_same_alone_as_among_others(engine: Engine, chunks: list[Waveform]) -> None:
    assert_same_words(recognise(engine, chunks), [recognise(engine, [chunk])[0] for chunk in chunks])


def test_sequences_that_finish_in_the_same_step_have_words_each_of_its_own(
    engine: Engine, chunks: list[Waveform]
) -> None:
    expected = recognise(engine, [chunks[0], chunks[2]])
    twins = recognise(engine, [chunks[0], chunks[2], chunks[0], chunks[2]])
    assert_same_words(twins, [*expected, *expected])


def test_sampled_text_has_its_words_too(engine: Engine, chunks: list[Waveform]) -> None:
    (completion,) = recognise(engine, chunks[:1], RecognitionOptions(sampled=True, word_times=True))
    assert completion.text and " ".join(word.text for word in completion.words) == completion.text


def test_words_travel_between_processes_unchanged(engine: Engine, chunks: list[Waveform]) -> None:
    (completion,) = recognise(engine, chunks[:1])
    assert pickle.loads(pickle.dumps(completion)) == completion and completion.words


def test_without_word_times_nothing_is_measured(tiny: BorealisModel, chunks: list[Waveform]) -> None:
    runner = BorealisRunner(tiny, 2)
    runner._word_timer.words = None  # type: ignore[assignment, method-assign]  # fails if called
    tokens = tiny.tokenizer.encode(" врач", add_special_tokens=False)
    sequence = Sequence(Request(chunks[0], "a", 0.0), row=0, tokens=tokens, probabilities=[1.0])
    assert runner.complete([sequence]) == [Completion("врач", confidence=1.0)]


def test_cancelled_chunk_is_not_measured(tiny: BorealisModel, chunks: list[Waveform]) -> None:
    runner = BorealisRunner(tiny, 2)
    runner._word_timer.words = None  # type: ignore[assignment, method-assign]
    tokens = tiny.tokenizer.encode(" врач", add_special_tokens=False)
    sequence = Sequence(Request(chunks[0], "a", 0.0, TIMED), row=0, tokens=tokens, probabilities=[1.0])
    sequence.request.future.cancel()
    assert runner.complete([sequence])[0].words == ()


def test_cancelling_one_chunk_leaves_the_words_of_the_others(engine: Engine, chunks: list[Waveform]) -> None:
    expected = recognise(engine, chunks[:1])
    futures = [engine.submit(chunk, number, TIMED) for number, chunk in enumerate(chunks)]
    for future in futures[1:]:
        future.cancel()
    assert_same_words([futures[0].result(HANG_LIMIT_S)], expected)


def test_heads_are_chosen_by_known_times(tiny: BorealisModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "BorealisModel"):
        heads = choose_heads(tiny, read_speech())
    assert {(head.layer, head.number, head.lag) for head in heads} == {(1, 0, 1), (1, 1, 0), (1, 2, 0)}
    assert "Времена слов" in caplog.text


def test_model_without_a_head_that_follows_gives_no_words(
    model: BorealisModel, caplog: pytest.LogCaptureFixture
) -> None:
    with make_engine(model, 2) as engine:
        completions = recognise(engine, [tone(440, 2), tone(200, 1)])
    assert [completion.words for completion in completions] == [(), ()]
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1


def test_heads_are_chosen_once_and_not_before_the_first_request(
    tiny: BorealisModel, chunks: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def count(*arguments: object) -> list[word_times.Head]:
        calls.append(len(arguments))
        return []

    monkeypatch.setattr(word_times, "choose_heads", count)
    with make_engine(tiny, 2) as engine:
        recognise(engine, chunks[2:3], RecognitionOptions())
        assert calls == []
        recognise(engine, chunks[2:3] * 3)
    assert len(calls) == 1


@torch.inference_mode()
def test_attention_is_that_of_a_full_pass(model: BorealisModel) -> None:
    """Of transformers' own language model over prompt, audio and tokens, with several query heads a key head."""
    rows, texts = [2, 0], [[5, 9, 11, 7], [30, 31]]
    audio = model.encode(model.features([tone(440, 3), tone(200, 5)]))
    decoder = model.make_decoder(3)
    decoder.prefill(rows, audio, [None, None])
    language = model.network.model.language_model
    heads = [(layer, head) for layer in range(len(decoder.layers)) for head in range(decoder.heads)]
    found = decoder.audio_attention(rows, texts, heads)
    assert found.shape == (2, len(heads), 5, 375) and decoder.heads > decoder.kv_heads
    first = decoder.prefill_length - 1
    language.set_attn_implementation("eager")
    try:
        for row, tokens in enumerate(texts):
            inputs = torch.cat([embed(model, audio[row : row + 1]), decoder.embed(torch.tensor([tokens]))], dim=1)
            layers = language(inputs_embeds=inputs, output_attentions=True).attentions  # (1, heads, T, T) each
            to_audio = torch.cat(layers)[:, :, first:, decoder.prefix_length : decoder.audio_end]
            expected = (to_audio / to_audio.sum(dim=-1, keepdim=True)).flatten(0, 1)
            torch.testing.assert_close(found[row, :, : len(tokens) + 1], expected, atol=1e-5, rtol=1e-3)
    finally:
        language.set_attn_implementation("sdpa")


def test_attention_of_the_longest_text_fits_the_cache(model: BorealisModel) -> None:
    decoder: SlotDecoder = model.make_decoder(1)
    decoder.prefill([0], model.encode(model.features([tone(440, 3)])), [None])
    assert decoder.audio_attention([0], [[5] * model.max_new_tokens], [(0, 0)]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_words_in_other_number_formats_lie_close_to_those_in_float32(
    engine: Engine, chunks: list[Waveform], dtype: torch.dtype
) -> None:
    with make_engine(BorealisModel.load(TINY_MODEL, CPU, dtype, GenerationOptions()), 2) as other:
        found, expected = recognise(other, chunks[:1])[0].words, recognise(engine, chunks[:1])[0].words
    assert np.median(np.abs(compare(found, expected).starts_s)) <= 0.05


def test_pieces_of_divided_characters_make_up_the_text(model: BorealisModel) -> None:
    text = "Скажите: «ёж» — это 🦔, да?"
    tokens = model.tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > len(text)  # letters are divided
    pieces = model.pieces([*tokens, model.tokenizer.eos_token_id])
    assert "".join(pieces) == text and len(pieces) == len(tokens) + 1
